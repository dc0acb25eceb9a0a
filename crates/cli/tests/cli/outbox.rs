//! Messages that wait on this machine: they are seen, and sent by whoever reaches the cluster.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Up, run, signal, until, until_says};

fn said(up: &Up) -> Vec<Value> {
    let mut history = up.command(&["history", "general", "--json", "--linearizable"]);
    // Another user, whose commands send nothing of the first one.
    let history = run(history.env("CONCLAVE_USER", "watcher"), b"");
    let messages = history.json().into_iter().filter(|event| event["kind"] == "message");
    messages.map(|event| event["body"].clone()).collect()
}

#[test]
fn what_is_queued_is_seen_and_sent_by_whoever_reaches_the_cluster() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    up.until_healthy();
    let pids = up.pids();
    let freeze = || pids[1..].iter().for_each(|pid| signal(*pid, Signal::STOP));
    let thaw = || {
        pids[1..].iter().for_each(|pid| signal(*pid, Signal::CONT));
        until("it is healthy", || {
            let mut status = up.command(&["status", "--json"]);
            run(status.env("CONCLAVE_USER", "watcher"), b"").code == Some(0)
        });
    };
    up.run(&["send", "general", "before"]).expect(0);
    assert!(up.run(&["outbox"]).expect(0).out.is_empty());

    // A command that reads sends it at its end, and status says what waits.
    freeze();
    up.run(&["send", "general", "first", "--timeout", "1s"]).expect(5);
    let listed = up.run(&["outbox", "list", "--json"]).expect(0).json();
    assert_eq!((&listed[0]["body"], &listed[0]["room"]), (&Value::from("first"), &Value::from("general")));
    assert!(up.run(&["outbox"]).expect(0).out.contains("first"));
    let status = up.run(&["status", "--timeout", "3s"]);
    assert!(status.out.contains("1 message of ana waiting on this machine"), "{status:#?}");
    up.run(&["outbox", "flush", "--timeout", "2s"]).expect(5);
    thaw();
    let status = until_says(0, &["HEALTHY"], || up.run(&["status"]));
    until("status sent it", || up.run(&["status"]).code == Some(0) && said(&up).len() == 2);
    assert_eq!(said(&up), ["before", "first"], "{status:#?}");
    until("nothing waits", || up.run(&["outbox", "list", "--json"]).out.is_empty());

    // A command that runs all the time sends it, too.
    let mut tail =
        up.command(&["tail", "general"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the reader is there", || {
        let status = up.status();
        status["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["clients"] == 1))
    });
    // A command beside the reader has a session of its own, which needs a majority the first time.
    up.run(&["send", "general", "beside"]).expect(0);
    freeze();
    let queued = up.run(&["send", "general", "second", "--timeout", "1s"]).expect(5);
    assert!(queued.err.contains("conclave outbox flush"), "{queued:#?}");
    thaw();
    until("the reader sends it", || said(&up).len() == 4);
    // The reader writes down that it was acked, too, before it is killed.
    until("nothing waits", || up.run(&["outbox", "list", "--json"]).out.is_empty());
    tail.kill().unwrap();
    tail.wait().unwrap();

    // What is given up takes no number from what follows. It was on its way to a frozen server, so it may still arrive.
    freeze();
    up.run(&["send", "general", "regretted", "--timeout", "1s"]).expect(5);
    assert!(up.run(&["outbox", "drop"]).expect(2).err.contains("--yes"));
    assert_eq!(up.run(&["outbox", "drop", "--yes"]).expect(0).out, "1 message dropped\n");
    assert!(up.run(&["outbox", "list", "--json"]).expect(0).out.is_empty());
    thaw();
    until_says(0, &["#general:"], || up.run(&["send", "general", "last"]));
    // What the cluster refuses is no message that was sent: its text is said, for it is nowhere else.
    up.run(&["send", "--no-wait", "nosuchroom", "precious"]).expect(0);
    let refused = up.run(&["outbox", "flush"]).expect(1);
    assert!(refused.out.contains("0 messages sent, 0 waiting, 1 refused"), "{refused:#?}");
    assert!(refused.err.contains("#nosuchroom") && refused.err.contains("precious"), "{refused:#?}");
    let said = said(&up);
    let regretted = said.iter().filter(|body| *body == "regretted").count();
    assert!(said.ends_with(&[Value::from("last")]) && regretted <= 1, "{said:?}");
    up.stop();
}
