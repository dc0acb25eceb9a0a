//! Feature levels of real processes: a cluster held at a level refuses requests of the next one, and a planted bug that
//! skips this check is found. And a planted bug by which servers apply different things.

use std::path::Path;

use crate::harness::{Up, free_base_port, run, runs, until, until_says};

const HELD_BACK: (&str, &str) = ("CONCLAVE_FEATURE_LEVEL", "1");
const BUG: (&str, &str) = ("CONCLAVE_PLANTED_BUG", "skip-level-gate");

/// Starts a cluster in `scratch/cluster` whose servers understand the first level only.
fn held_back(scratch: &Path, nodes: &str, environment: &[(&str, &str)]) -> Up {
    let dir = scratch.join("cluster");
    let port = free_base_port().to_string();
    let args = [
        "--dir",
        dir.to_str().expect("a path in UTF-8"),
        "--base-port",
        &port,
        "--nodes",
        nodes,
        "--shards",
        "2",
        "--no-restart",
    ];
    Up::start_in(scratch, &args, environment)
}

#[test]
fn a_cluster_that_is_held_back_answers_not_yet_and_lives() {
    let scratch = tempfile::tempdir().unwrap();
    let up = held_back(scratch.path(), "3", &[HELD_BACK]);
    up.until_healthy();
    let ran = up.run(&["pin", "general", "1"]);
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    assert!(ran.err.contains("until all of its servers are upgraded"), "{ran:#?}");
    up.run(&["send", "general", "all is well"]).expect(0);
    assert!(up.pids().into_iter().all(runs));
    up.stop();
}

/// One server, so that the gateway is the leader, too: a leader refuses what it does not understand from another node.
#[test]
fn a_gateway_that_skips_the_level_is_found_by_the_server_that_stops() {
    let scratch = tempfile::tempdir().unwrap();
    let up = held_back(scratch.path(), "1", &[HELD_BACK, BUG]);
    up.until_healthy();
    let mut pin = up.command(&["--timeout", "1s", "pin", "general", "1"]);
    let ran = run(pin.env(BUG.0, BUG.1), b"");
    assert_ne!(ran.code, Some(0), "{ran:#?}");
    // The pin was appended, and the server that has to apply it does not understand it.
    until("the server stops and asks for an upgrade", || {
        let log = std::fs::read_to_string(scratch.path().join("cluster/node1.log"));
        log.is_ok_and(|text| text.contains("upgrade this node, its data is intact"))
    });
}

#[test]
fn replicas_that_apply_different_things_are_reported_as_diverged() {
    let scratch = tempfile::tempdir().unwrap();
    let up = held_back(scratch.path(), "3", &[("CONCLAVE_PLANTED_BUG", "apply-by-process")]);
    // The cluster may never be seen healthy: the creation of the room differs already.
    until_says(0, &[], || up.run(&["send", "general", "what time is it"]));
    let mut said = String::new();
    until("the status says that replicas differ", || {
        let ran = up.run(&["status"]);
        said = ran.out;
        said.contains("DIVERGED: node1 and node2") && said.contains("DIVERGED: node2 and node3")
    });
    assert!(said.contains("NOT HEALTHY"), "{said}");
    assert!(up.run(&["doctor"]).out.contains("DIVERGED: "));
    up.stop();
}
