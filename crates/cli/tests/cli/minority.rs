//! Servers without a majority are found, are read by whoever comes, and say that they have no majority.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::discovery::targets;
use crate::harness::{Up, run, signal, until, until_says};

/// Behind all others.
const LAST: u16 = 40;

/// A cluster in which every server has applied a message.
fn with_a_message(scratch: &Path, more: &[&str]) -> Up {
    let up = Up::ephemeral(scratch, &[&["--shards", "1", "--no-restart"], more].concat());
    up.until_healthy();
    up.find(&["send", "general", "before"]).expect(0);
    for server in up.servers().split(',') {
        until_says(0, &["before"], || up.run(&["-s", server, "history", "general"]));
    }
    up
}

fn reading_goes_on(up: &Up, scratch: &Path, alive: &[&str]) {
    until("the living are listed behind all others", || {
        let listed = targets(up.resolver().dns, "_conclave._tcp");
        alive.iter().all(|name| listed.contains(&((*name).to_owned(), LAST)))
    });
    let status =
        until_says(1, &["quorum lost", "no leader in any shard: messages to all rooms wait"], || {
            up.find(&["status"])
        });
    let read = up.run(&["history", "general", "--linearizable", "--timeout", "2s"]).expect(6);
    assert!(read.err.contains("no majority") && read.err.contains("without --linearizable"), "{read:#?}");
    assert!(!read.err.contains("conclave up"), "{read:#?}");
    assert!(!status.out.contains("leads"), "a leader without a quorum leads nobody: {status:#?}");
    let waited = up.find(&["status", "--wait", "--timeout", "2s"]).expect(1);
    assert!(waited.out.contains("quorum lost"), "{waited:#?}");

    let elsewhere = scratch.join("elsewhere");
    // Nobody can write there.
    let nowhere = Path::new("/sys/conclave");
    for (who, state) in [("ana", up.state.as_path()), ("bo", &elsewhere), ("cy", nowhere)] {
        for args in
            [&["history", "general"][..], &["tail", "general", "--no-follow", "--since", "0"], &["rooms"]]
        {
            let by_address = up.command(args);
            for mut command in [by_address, up.finding(args)] {
                command.env("CONCLAVE_USER", who).env("CONCLAVE_STATE_DIR", state);
                let read = run(&mut command, b"").expect(0);
                assert!(read.out.contains(if args == ["rooms"] { "general" } else { "before" }), "{read:#?}");
            }
        }
    }
    assert!(
        !elsewhere.join(up.ready["cluster_id"].as_str().unwrap()).join("bo").exists(),
        "it kept a session"
    );
    let homeless = |args: &[&str]| {
        let mut command = up.command(args);
        for name in ["CONCLAVE_STATE_DIR", "HOME", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        run(&mut command, b"")
    };
    assert!(homeless(&["history", "general"]).expect(0).out.contains("before"));
    let refused = homeless(&["send", "general", "lost"]).expect(2);
    assert!(refused.err.contains("HOME") && refused.err.contains("--state-dir"), "{refused:#?}");
    up.find(&["send", "general", "later", "--timeout", "1s"]).expect(5);
    let mut first = up.command(&["send", "general", "first", "--timeout", "1s"]);
    first.env("CONCLAVE_USER", "bo").env("CONCLAVE_STATE_DIR", &elsewhere);
    let queued = run(&mut first, b"").expect(5);
    assert!(queued.err.contains("safe in the outbox"), "{queued:#?}");
    let mut list = up.command(&["outbox", "list"]);
    let list = run(list.env("CONCLAVE_USER", "bo").env("CONCLAVE_STATE_DIR", &elsewhere), b"").expect(0);
    assert!(list.out.contains("first"), "{list:#?}");
}

#[test]
fn the_last_of_three_servers_is_found_and_read_by_whoever_comes() {
    let scratch = tempfile::tempdir().unwrap();
    let up = with_a_message(scratch.path(), &[]);
    let members = fs::read_to_string(up.state.join("members")).unwrap();
    assert!(up.servers().split(',').all(|server| members.contains(server)), "{members}");
    signal(up.pid_of("node1"), Signal::KILL);
    signal(up.pid_of("node2"), Signal::KILL);
    reading_goes_on(&up, scratch.path(), &["node3"]);
}

#[test]
fn the_last_two_of_five_servers_are_found_and_read_by_whoever_comes() {
    let scratch = tempfile::tempdir().unwrap();
    let up = with_a_message(scratch.path(), &["--nodes", "5"]);
    // The leader of the rooms stays, with one follower.
    let leader = up.leader_of_general();
    let names: Vec<String> = (1..=5).map(|id| format!("node{id}")).collect();
    let (stays, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| up.pid_of(name) == leader);
    for name in &others[..3] {
        signal(up.pid_of(name), Signal::KILL);
        until("it is no longer listed, or is one of many that fell silent", || {
            let listed = targets(up.resolver().dns, "_conclave._tcp");
            !listed.iter().any(|(listed, _)| listed == *name) || name == &others[2]
        });
    }
    reading_goes_on(&up, scratch.path(), &[stays[0].as_str(), others[3].as_str()]);
}
