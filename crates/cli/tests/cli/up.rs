//! `conclave up`: continues its cluster, locks its directory, leaves no process behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DEADLINE, Up, command, free_base_port, lines_of, run, runs, signal, until};

#[test]
fn the_same_directory_continues_the_same_cluster() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let dir = dir.to_str().unwrap();
    let port = free_base_port().to_string();
    let up = Up::start(scratch.path(), &["--dir", dir, "--base-port", &port, "--shards", "2"]);
    up.feed(&["send", "general", "-"], b"one\ntwo\nthree\n").expect(0);
    let before = up.run(&["history", "general", "--json", "--linearizable"]).expect(0).out;
    let (cluster, state) = (up.ready["cluster_id"].clone(), up.state.clone());
    assert_ne!(cluster, Value::Null);

    let second = run(&mut command(&["up", "--dir", dir]), b"").expect(1);
    let pid = up.child.id().to_string();
    assert!(second.err.contains("running already") && second.err.contains(&pid), "{second:#?}");
    let elsewhere = scratch.path().join("elsewhere");
    let args = ["up", "--dir", elsewhere.to_str().unwrap(), "--base-port", &port];
    let taken = run(&mut command(&args), b"").expect(1);
    assert!(taken.err.contains(&format!("port {port} (for node1) is in use")), "{taken:#?}");
    up.stop();

    for (flag, value, says) in
        [("--nodes", "5", "began with 3 servers"), ("--shards", "8", "began with 2 shards")]
    {
        let refused = run(&mut command(&["up", "--dir", dir, flag, value]), b"").expect(1);
        assert!(refused.err.contains(says), "{refused:#?}");
    }
    let up = Up::start(scratch.path(), &["--dir", dir]);
    assert_eq!((&up.ready["cluster_id"], &up.state), (&cluster, &state));
    assert_eq!(up.ready["shards"], 2);
    let after = up.run(&["history", "general", "--json", "--linearizable"]).expect(0).out;
    assert_eq!(after, before);
    up.run(&["send", "general", "four"]).expect(0);
    up.stop();
}

#[test]
fn a_cluster_without_tls_is_changed_over_and_its_clients_go_on() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1"];
    let up = Up::start(scratch.path(), &[&args[..], &["--insecure"]].concat());
    assert_eq!(up.ready["authority"], Value::Null);
    let id = up.ready["cluster_id"].as_str().unwrap().to_owned();
    // Another user of this machine knows the cluster without TLS, too.
    let elsewhere = scratch.path().join("elsewhere");
    let send = |up: &Up, text: &str| {
        up.run(&["send", "general", text]).expect(0);
        let mut other = up.command(&["send", "general", text]);
        run(other.env("CONCLAVE_STATE_DIR", &elsewhere).env("CONCLAVE_USER", "bob"), b"").expect(0)
    };
    send(&up, "before");
    up.stop();

    let up = Up::start(scratch.path(), &args);
    assert_eq!(up.ready["cluster_id"], id.as_str(), "it keeps its id");
    let authority = up.ready["authority"].as_str().unwrap().to_owned();
    assert_ne!(authority, id);
    let first = send(&up, "after");
    assert!(first.err.contains("from now on only servers with its authority"), "{first:#?}");
    assert_eq!(send(&up, "again").err, "");
    let history = up.run(&["history", "general", "--linearizable"]).expect(0).out;
    for text in ["before", "after", "again"] {
        assert_eq!(history.matches(text).count(), 2, "{text}: {history}");
    }
    up.find(&["rooms"]).expect(0);
    up.stop();

    let refused = run(&mut command(&[&["up", "--insecure"], &args[..]].concat()), b"").expect(1);
    assert!(refused.err.contains("uses TLS") && refused.err.contains("leave out --insecure"), "{refused:#?}");
    let up = Up::start(scratch.path(), &args);
    assert_eq!(up.ready["authority"], authority.as_str());
    up.stop();
}

/// Everything in a directory that group or others may use.
fn shared(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.metadata().unwrap();
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(path.display().to_string());
        }
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

#[test]
fn a_cluster_is_for_its_owner_only() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1"];
    let up = Up::start(scratch.path(), &args);
    up.run(&["send", "general", "hello"]).expect(0);
    assert_eq!(shared(&dir), Vec::<String>::new());
    up.stop();

    // As an older version made it.
    for path in [dir.clone(), dir.join("up.lock"), dir.join("node1"), dir.join("node1/state.redb")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let up = Up::start(scratch.path(), &args);
    assert_eq!(shared(&dir), Vec::<String>::new());
    up.stop();
}

#[test]
fn the_user_who_started_a_cluster_is_its_operator() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1"]);
    up.run(&["admin", "rebalance"]).expect(0);

    let elsewhere = scratch.path().join("elsewhere");
    let stranger = |args: &[&str]| run(up.command(args).env("CONCLAVE_STATE_DIR", &elsewhere), b"");
    let refused = stranger(&["admin", "drain", "node2"]).expect(3);
    assert!(
        refused.err.contains("admin token") && refused.err.contains("--admin-token-file"),
        "{refused:#?}"
    );
    let file = up.ready["admin_token_file"].as_str().unwrap();
    stranger(&["admin", "rebalance", "--admin-token-file", file]).expect(0);
    let wrong = scratch.path().join("wrong");
    fs::write(&wrong, "cnva_short").unwrap();
    let shared = stranger(&["admin", "rebalance", "--admin-token-file", wrong.to_str().unwrap()]).expect(2);
    assert!(shared.err.contains("other users"), "{shared:#?}");

    // Another drain leaves no majority, and the one after it ends the service, so they are refused until they are forced.
    up.run(&["admin", "drain", "node3"]).expect(0);
    let second = up.run(&["admin", "drain", "node2"]).expect(1);
    assert!(second.err.contains("node3 is not ready") && second.err.contains("--force"), "{second:#?}");
    let second = up.run(&["admin", "drain", "node2", "--force"]);
    assert!(second.out.contains("takes no new work") || second.out.contains("leads nothing"), "{second:#?}");
    let last = up.run(&["admin", "drain", "node1"]).expect(1);
    assert!(last.err.contains("no other node is ready") && last.err.contains("--force"), "{last:#?}");
    // No other node takes its leaderships, unless it has not heard of their drains yet.
    let forced = up.run(&["admin", "drain", "node1", "--force"]);
    assert!(forced.out.contains("takes no new work") || forced.out.contains("leads nothing"), "{forced:#?}");

    let id = up.ready["cluster_id"].as_str().unwrap().to_owned();
    assert!(up.run(&["status"]).out.contains(&id), "people can give others the id");
    let state = up.state.clone();
    let kept = state.join(&id).join(".admin-token");
    assert!(kept.exists());
    up.stop();
    assert!(!kept.exists(), "the token outlived its cluster");
    assert!(!state.join(&id).join(".tls").exists() && !state.join("current-cluster").exists());
    for file in ["known-servers", "last-cluster"] {
        let text = fs::read_to_string(state.join(file)).unwrap_or_default();
        assert!(!text.contains(&id), "{file}: {text}");
    }
}

#[test]
fn servers_die_with_the_command_that_started_them() {
    let scratch = tempfile::tempdir().unwrap();
    let mut up = Up::ephemeral(scratch.path(), &["--shards", "1"]);
    let pids = up.pids();
    assert!(pids.iter().all(|pid| runs(*pid)));
    signal(up.child.id(), Signal::KILL);
    up.child.wait().unwrap();
    until("the servers stop", || pids.iter().all(|pid| !runs(*pid)));
}

#[test]
fn a_cluster_whose_up_was_killed_is_up_again_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1"];
    let mut up = Up::start(scratch.path(), &args);
    up.run(&["send", "general", "before"]).expect(0);
    // Its servers wait for this client before they stop.
    let mut tail = up.command(&["tail", "general"]).spawn().unwrap();
    let lines = lines_of(tail.stdout.take().unwrap());
    until("the tail follows", || lines.recv_timeout(DEADLINE).unwrap().contains("before"));
    let left = [&up.pids()[..], &[up.resolver().pid]].concat();
    signal(up.child.id(), Signal::KILL);
    up.child.wait().unwrap();

    let again = Up::beside(scratch.path(), &args);
    assert!(left.iter().all(|pid| !runs(*pid)), "{left:?}");
    assert_eq!(again.ready["cluster_id"], up.ready["cluster_id"]);
    again.run(&["send", "general", "after"]).expect(0);
    until("the tail goes on", || lines.recv_timeout(DEADLINE).unwrap().contains("after"));
    signal(tail.id(), Signal::TERM);
    tail.wait().unwrap();
    again.stop();
}

#[test]
fn with_no_restart_a_dead_server_stays_dead() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    signal(up.pids()[2], Signal::KILL);
    let note = up.notes.iter().find(|note| note.contains("node3")).unwrap();
    assert_eq!(note, "node3 was killed (signal 9)");
    until("the status says so", || {
        let page = up.run(&["status"]);
        page.code == Some(1) && page.out.contains("unreachable") && page.out.contains("can lose 0")
    });
    up.run(&["send", "general", "still", "here"]).expect(0);
}

#[test]
fn a_session_that_the_cluster_does_not_know_is_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1"];
    let up = Up::start(scratch.path(), &args);
    up.run(&["send", "--create", "general", "hello"]).expect(0);
    up.stop();
    // The same cluster name with empty data directories.
    for node in ["node1", "node2", "node3"] {
        fs::remove_dir_all(dir.join(node)).unwrap();
    }
    let refused = run(&mut command(&["up", "--dir", dir.to_str().unwrap()]), b"").expect(1);
    assert!(refused.err.contains("no data of node1, node2, node3"), "{refused:#?}");
    // As an older version left it, which did not note that the servers had data.
    let saved = fs::read_to_string(dir.join("up.json")).unwrap();
    let mut plan: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(plan.as_object_mut().unwrap().remove("was_ready"), Some(true.into()));
    fs::write(dir.join("up.json"), plan.to_string()).unwrap();
    let up = Up::start(scratch.path(), &args);
    let refused = up.run(&["send", "general", "hello again"]).expect(3);
    assert!(refused.err.contains("the session is not known here"), "{}", refused.err);
    assert!(refused.err.contains("--state-dir"), "{}", refused.err);
    up.stop();
}
