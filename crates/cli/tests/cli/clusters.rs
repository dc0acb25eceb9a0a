//! Two clusters and one user: a command goes to the cluster that is meant, or to none.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Ran, Up, command, free_base_port, run, until_says};

struct User<'a> {
    state: &'a Path,
    servers: String,
}

impl User<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("CONCLAVE_STATE_DIR", self.state).env("CONCLAVE_USER", "ana");
        command.env("CONCLAVE_SERVERS", &self.servers);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args), b"")
    }

    /// A command that is given no server.
    fn run_without_servers(&self, args: &[&str]) -> Ran {
        run(self.command(args).env_remove("CONCLAVE_SERVERS"), b"")
    }
}

fn bodies(ran: &Ran) -> Vec<Value> {
    let messages = ran.json().into_iter().filter(|event| event["kind"] == "message");
    messages.map(|event| event["body"].clone()).collect()
}

#[test]
fn a_command_never_goes_to_another_cluster_by_itself() {
    stays_with_its_cluster(&[]);
}

#[test]
fn a_command_never_goes_to_another_cluster_by_itself_without_tls() {
    stays_with_its_cluster(&["--insecure"]);
}

fn stays_with_its_cluster(more: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, port) = (scratch.path().join("ours"), free_base_port().to_string());
    let args =
        [&["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1", "--nodes", "1"], more]
            .concat();
    let ours = Up::start(scratch.path(), &args);
    let their_port = free_base_port().to_string();
    let small = ["--ephemeral", "--base-port", &their_port, "--shards", "1", "--nodes", "1"];
    let there = scratch.path().join("there");
    std::fs::create_dir(&there).unwrap();
    let theirs = Up::beside(&there, &[&small, more].concat());
    let (our_id, their_id) = (ours.ready["cluster_id"].as_str().unwrap(), &theirs.ready["cluster_id"]);
    let (our_id, their_id) = (our_id.to_owned(), their_id.as_str().unwrap());

    // The first contact decides, and the list of servers leads to both clusters.
    let state = scratch.path().join("user");
    let first = User { state: &state, servers: ours.servers() };
    first.run(&["send", "general", "in our cluster"]).expect(0);
    let user = User { state: &state, servers: format!("{},{}", theirs.servers(), ours.servers()) };
    let sent = user.run(&["--context", &our_id[..8], "send", "general", "still in ours"]);
    sent.expect(0);
    ours.stop();

    let queued = user.run(&["send", "general", "a secret", "--timeout", "2s"]).expect(5);
    let other = format!("conclave use {}", theirs.servers());
    for part in ["outbox", "your cluster", &our_id[..8], &their_id[..8], &other] {
        assert!(queued.err.contains(part), "{part}: {queued:#?}");
    }
    for args in [
        &["history", "general"][..],
        &["tail", "general", "--no-follow"],
        &["rooms"],
        &["create", "new-room"],
        &["status"],
        &["ping"],
        &["admin", "rebalance"],
    ] {
        let ran = user.run(&[args, &["--timeout", "2s"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(6), ""), "{args:?}: {ran:#?}");
        assert!(ran.err.contains("your cluster") && ran.err.contains(&their_id[..8]), "{args:?}: {ran:#?}");
    }
    let doctor = user.run(&["doctor", "--timeout", "2s"]);
    assert!(doctor.code != Some(0) && doctor.out.contains("belongs to another cluster"), "{doctor:#?}");
    let there = theirs.run(&["history", "general", "--json"]).expect(0);
    assert_eq!(bodies(&there), Vec::<Value>::new());

    // A choice of its own leads there, also for the same list of servers; the message stays where it belongs.
    let clusters = |ran: &Ran| {
        let of = |cluster: Value| (cluster["id"].as_str().unwrap().to_owned(), cluster["current"] == true);
        ran.json().into_iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(clusters(&user.run(&["use", "--json"]).expect(0)), [(our_id.clone(), true)]);
    user.run(&["use", &theirs.servers(), "--name", "theirs"]).expect(0);
    let listed = clusters(&user.run(&["use", "--json"]).expect(0));
    assert!(listed.contains(&(our_id.clone(), false)) && listed.contains(&(their_id.to_owned(), true)));
    user.run(&["send", "general", "hello there"]).expect(0);
    user.run_without_servers(&["send", "general", "and here"]).expect(0);
    assert!(user.run(&["use"]).expect(0).out.contains("theirs"));
    assert!(user.run(&["use", "nobody"]).expect(2).err.contains("conclave use"));
    let there = theirs.run(&["history", "general", "--json", "--linearizable"]).expect(0);
    assert_eq!(bodies(&there), ["hello there", "and here"]);

    let ours = Up::start(scratch.path(), &args);
    assert_eq!(ours.ready["cluster_id"], our_id.as_str());
    user.run(&["use", &our_id[..8]]).expect(0);
    user.run_without_servers(&["send", "general", "back"]).expect(0);
    let said = ["in our cluster", "still in ours", "a secret", "back"];
    until_says(0, &["back"], || ours.run(&["history", "general", "--json", "--linearizable"]));
    let history = ours.run(&["history", "general", "--json", "--linearizable"]).expect(0);
    assert_eq!(bodies(&history), said);
    ours.stop();
    theirs.stop();
}
