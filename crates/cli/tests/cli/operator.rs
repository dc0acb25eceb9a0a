//! What an operator does to a cluster of `conclave up` from another terminal: restarts and stops servers, takes drains back,
//! waits until all is well, and runs it without a data dir that is gone.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Up, command, free_base_port, run, runs, signal, until};

fn node<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["nodes"].as_array()?.iter().find(|node| node["name"] == name)
}

fn start(scratch: &Path, dir: &Path) -> Up {
    let port = free_base_port().to_string();
    Up::start(scratch, &["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "2"])
}

#[test]
fn a_server_is_restarted_and_all_are_stopped_from_another_terminal() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("up");
    let at = dir.to_str().unwrap();
    run(&mut command(&["stop", "--dir", at]), b"").expect(4);
    run(&mut command(&["up", "restart", "node2", "--dir", at]), b"").expect(4);
    let mut up = start(scratch.path(), &dir);
    up.until_healthy();

    let unknown = up.run(&["up", "restart", "node9", "--dir", at]).expect(4);
    assert!(unknown.err.contains("node1, node2, node3"), "{unknown:#?}");
    let (before, others) = (up.pid_of("node2"), [up.pid_of("node1"), up.pid_of("node3")]);
    let ran = up.run(&["up", "restart", "node2", "--dir", at, "--json"]).expect(0);
    let restarted = &ran.json()[0];
    assert_eq!((&restarted["node"], &restarted["pid_before"]), (&"node2".into(), &before.into()));
    let pid = u32::try_from(restarted["pid"].as_u64().unwrap()).unwrap();
    assert!(pid != before && runs(pid) && !runs(before) && others.iter().all(|pid| runs(*pid)));
    // The state of a restarted server is its own: it is not drained any more.
    up.run(&["status", "--wait", "--timeout", "2m"]).expect(0);

    // Nothing is restarted if the others are no majority.
    up.run(&["admin", "drain", "node1"]).expect(0);
    let refused = up.run(&["up", "restart", "node2", "--dir", at, "--json"]).expect(1);
    let error: Value = serde_json::from_str(refused.err.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"], "no_ready_majority", "{refused:#?}");
    assert!(error["next"].as_str().unwrap().contains("--force") && runs(pid), "{refused:#?}");

    up.run(&["stop", "--dir", at]).expect(0);
    until("up has ended", || up.child.try_wait().unwrap().is_some());
    assert!(!runs(pid) && !others.iter().any(|pid| runs(*pid)) && !runs(up.resolver().pid));
    up.run(&["stop", "--dir", at]).expect(4);
}

#[test]
fn a_drain_is_taken_back_and_status_waits_for_it() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1"]);
    up.until_healthy();
    up.run(&["admin", "drain", "node2"]).expect(0);
    let status = up.run(&["status"]).expect(1);
    assert!(status.out.contains("   DRAINING   "), "{status:#?}");
    // The time is over before anything has changed.
    up.run(&["status", "--wait", "--timeout", "1s"]).expect(1);
    let waits = up.command(&["status", "--wait", "--json", "--timeout", "2m"]).spawn().unwrap();
    let undrained = up.run(&["admin", "undrain", "node2", "--json"]).expect(0);
    assert_eq!(undrained.json()[0]["was_draining"], true);
    let waited = crate::harness::finish(waits).expect(0);
    assert_eq!(waited.json()[0]["healthy"], true);
    let node2 = node(&waited.json()[0], "node2").unwrap().clone();
    assert_eq!(node2["draining"], false);
    assert!(node2["disk_free_bytes"].as_u64() > Some(0) && node2["disk_size_bytes"].as_u64() > Some(0));
    assert_eq!(up.run(&["admin", "undrain", "node2", "--json"]).expect(0).json()[0]["was_draining"], false);
    up.run(&["admin", "undrain", "node9"]).expect(4);
    up.stop();
    // Nobody is there, and nobody comes.
    let gone = run(
        command(&["-s", "127.0.0.1:1", "status", "--wait", "--timeout", "1s"])
            .env("CONCLAVE_STATE_DIR", scratch.path().join("nobody")),
        b"",
    );
    gone.expect(6);
}

#[test]
fn a_cluster_runs_without_a_server_whose_data_is_gone_and_never_without_a_majority() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("up");
    let at = dir.to_str().unwrap();
    let up = start(scratch.path(), &dir);
    up.run(&["send", "general", "before"]).expect(0);
    up.stop();

    let kept = scratch.path().join("kept");
    fs::rename(dir.join("node2"), &kept).unwrap();
    let up = Up::start(scratch.path(), &["--dir", at]);
    assert_eq!(up.ready["nodes"][1]["pid"], Value::Null);
    let note = up.notes.iter().find(|note| note.contains("node2 is not started")).unwrap();
    assert!(note.contains("can lose 0"), "{note}");
    assert_eq!(node(&up.status(), "node2").unwrap()["reachable"], false);
    up.run(&["send", "general", "during"]).expect(0);
    assert!(!dir.join("node2").exists(), "no server has begun a new directory");
    signal(up.child.id(), Signal::TERM);
    let mut up = up;
    until("up has ended", || up.child.try_wait().unwrap().is_some());
    drop(up);

    // With two of three gone, those that forgot could outvote the one that remembers.
    fs::rename(dir.join("node3"), scratch.path().join("kept3")).unwrap();
    let refused = run(&mut command(&["up", "--dir", at]), b"").expect(1);
    assert!(refused.err.contains("no data of node2, node3"), "{refused:#?}");
    assert!(!dir.join("node3").exists());

    // What a server left last may come back, and it catches up.
    fs::rename(scratch.path().join("kept3"), dir.join("node3")).unwrap();
    fs::rename(&kept, dir.join("node2")).unwrap();
    let up = Up::start(scratch.path(), &["--dir", at]);
    up.until_healthy();
    let history = up.run(&["history", "general", "--linearizable"]).expect(0);
    assert!(history.out.contains("before") && history.out.contains("during"), "{history:#?}");
    up.stop();
}

/// A file of the time zone database: nine hours ahead of UTC.
fn zone_file(dir: &Path) {
    let mut file = Vec::new();
    for end in ["", "\nTST-9\n"] {
        file.extend(b"TZif2");
        file.extend([0; 15]);
        // No changes and one type, whose name has four bytes.
        file.extend([0_u32, 0, 0, 0, 1, 4].into_iter().flat_map(u32::to_be_bytes));
        file.extend(i32::to_be_bytes(9 * 60 * 60));
        file.extend(b"\0\0TST\0");
        file.extend(end.as_bytes());
    }
    fs::create_dir_all(dir.join("Test")).unwrap();
    fs::write(dir.join("Test/Nine"), file).unwrap();
}

#[test]
fn commands_say_what_is_so_to_people_and_programs() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let data = data.to_str().unwrap();
    let port = free_base_port().to_string();
    let args = ["--base-port", &port, "--shards", "1", "--no-restart"];
    let up = Up::start_in(scratch.path(), &args, &[("XDG_DATA_HOME", data)]);
    let health = || {
        let mut health = up.command(&["health"]);
        // Another server of this machine may use the default port.
        run(health.env("XDG_DATA_HOME", data), b"")
    };
    let at_default_port = std::net::TcpStream::connect("127.0.0.1:7480").is_ok();
    if !at_default_port {
        health().expect(0);
    }
    let dir = format!("{data}/conclave/up");
    let health_in = |flags: &[&str], variable: &str| {
        let mut health = command(&[&["health"], flags].concat());
        run(health.env("CONCLAVE_DIR", variable), b"")
    };
    health_in(&["--dir", &dir], "").expect(0);
    health_in(&[], &dir).expect(0);
    let nowhere = health_in(&["--dir", &format!("{data}/nowhere")], "").expect(1);
    assert!(nowhere.err.contains("nowhere"), "{nowhere:#?}");
    // Times are in the zone that is named, as `date` shows them.
    let zones = scratch.path().join("zones");
    zone_file(&zones);
    let shown = |zone: &str| {
        let mut history = up.command(&["history", "general"]);
        let out = run(history.env("TZ", zone).env("TZDIR", &zones), b"").expect(0).out;
        out.split_whitespace().find(|word| word.matches(':').count() == 2).unwrap().to_owned()
    };
    assert_eq!(shown("Test/Nine"), shown("TST-9"));
    assert_ne!(shown("Test/Nine"), shown("UTC0"));
    up.run(&["ping"]).expect(0);
    let servers: Vec<String> = up.servers().split(',').map(str::to_owned).collect();
    signal(up.pid_of("node2"), Signal::KILL);
    until("node2 is gone", || !runs(up.pid_of("node2")));
    let ping = up.run(&["ping"]).expect(1);
    assert!(ping.err.contains(&format!("no answer from {}", servers[1])), "{ping:#?}");
    assert_eq!(ping.lines().len(), 3, "{ping:#?}");
    let health_there = health_in(&["--dir", &dir], "").expect(1);
    assert!(health_there.err.contains("node2"), "{health_there:#?}");
    if !at_default_port {
        let health = health().expect(1);
        assert!(health.err.contains("node2") && health.err.contains("does not answer"), "{health:#?}");
    }
    let history = up.run(&["--json", "send", "nosuch", "hi"]).expect(4);
    let error: Value = serde_json::from_str(history.err.trim()).unwrap();
    assert_eq!((&error["error"], &error["exit"]), (&"room_unknown".into(), &4.into()), "{error}");
    let usage = up.run(&["--json", "send"]).expect(2);
    let error: Value = serde_json::from_str(usage.err.trim()).unwrap();
    assert_eq!(error["error"], "usage", "{error}");
    up.stop();
}
