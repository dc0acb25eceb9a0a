//! The feature level of real processes: a cluster that is held back takes nothing of the next level, and a gateway that
//! would (a planted bug) is found out.

use crate::harness::{Up, runs, until};

const HELD_BACK: (&str, &str) = ("CONCLAVE_FEATURE_LEVEL", "1");
const BUG: (&str, &str) = ("CONCLAVE_PLANTED_BUG", "skip-level-gate");

/// Starts a cluster in `scratch/cluster` whose servers understand the first level only.
fn held_back(scratch: &std::path::Path, environment: &[(&str, &str)]) -> Up {
    let dir = scratch.join("cluster");
    let port = crate::harness::free_base_port().to_string();
    let args = [
        "--dir",
        dir.to_str().expect("a path in UTF-8"),
        "--base-port",
        &port,
        "--shards",
        "2",
        "--no-restart",
    ];
    Up::start_in(scratch, &args, environment)
}

#[test]
fn a_cluster_that_is_held_back_answers_not_yet_and_lives() {
    let scratch = tempfile::tempdir().unwrap();
    let up = held_back(scratch.path(), &[HELD_BACK]);
    up.until_healthy();
    let ran = up.run(&["pin", "general", "1"]);
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.err.contains("until all of its servers are upgraded"), "{ran:#?}");
    up.run(&["send", "general", "all is well"]).expect(0);
    assert!(up.pids().into_iter().all(runs));
    up.stop();
}

#[test]
fn a_gateway_that_skips_the_level_is_found_by_the_servers_that_stop() {
    let scratch = tempfile::tempdir().unwrap();
    let up = held_back(scratch.path(), &[HELD_BACK, BUG]);
    up.until_healthy();
    // The pin is appended, and no server understands it.
    let mut pin = up.command(&["--timeout", "1s", "pin", "general", "1"]);
    let ran = crate::harness::run(pin.env(BUG.0, BUG.1), b"");
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    let log =
        |node: &str| std::fs::read_to_string(scratch.path().join("cluster").join(format!("{node}.log")));
    until("a server stops and asks for an upgrade", || {
        ["node1", "node2", "node3"]
            .into_iter()
            .any(|node| log(node).is_ok_and(|text| text.contains("upgrade this node, its data is intact")))
    });
}
