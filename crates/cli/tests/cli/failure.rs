//! Servers are killed while clients send and read.

use std::io::Write as _;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::everyday::seq;
use crate::harness::{DEADLINE, Up, finish, lines_of, signal};

const LINES: usize = 1_500;

#[test]
fn killing_a_leader_while_sending_leaves_no_gap() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2"]);
    up.until_healthy();
    let victim = up.leader_of_general();

    let mut reader = up.command(&["tail", "general", "--json", "--since", "0"]);
    let mut reader = reader.stdout(Stdio::piped()).spawn().unwrap();
    let read = lines_of(reader.stdout.take().unwrap());
    let mut sender = up.command(&["send", "general", "-", "--timeout", "30s"]);
    let mut sender = sender.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = sender.stdin.take().unwrap();
    let acked = lines_of(sender.stdout.take().unwrap());
    let writer = std::thread::spawn(move || {
        for i in 0..LINES {
            writeln!(input, "message {i}").unwrap();
        }
    });
    let mut seqs = Vec::new();
    while let Ok(line) = acked.recv_timeout(DEADLINE) {
        seqs.push(seq(&line));
        if seqs.len() == LINES / 3 {
            signal(victim, Signal::KILL);
        }
        if seqs.len() == LINES {
            break;
        }
    }
    writer.join().unwrap();
    finish(sender).expect(0);
    let first = seqs[0];
    assert_eq!(
        seqs,
        (first..first + LINES as u64).collect::<Vec<_>>(),
        "acknowledged in order, without a gap"
    );

    let limit = LINES.to_string();
    let history = up.run(&["history", "general", "-n", &limit, "--linearizable", "--json"]).expect(0).json();
    for (i, event) in history.iter().enumerate() {
        assert_eq!(
            (&event["body"], &event["seq"]),
            (&Value::from(format!("message {i}")), &Value::from(first + i as u64))
        );
    }
    // The reader has seen every message.
    let mut last = 0;
    while last != first + LINES as u64 - 1 {
        let line = read
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|_| panic!("the reader stopped after {last}; {:#?}", up.run(&["status"])));
        let event: Value = serde_json::from_str(&line).unwrap();
        let seq = event["seq"].as_u64().unwrap();
        assert_eq!(seq, last + 1);
        last = seq;
    }
    signal(reader.id(), Signal::TERM);
    finish(reader);

    // The dead server is restarted, and the cluster can lose a server again.
    let back = up.notes.iter().find(|note| note.contains("is back"));
    assert!(back.is_some());
    up.until_healthy();
    up.stop();
}

#[test]
fn without_a_majority_messages_are_queued_and_sent_once_later() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1"]);
    up.until_healthy();
    up.run(&["send", "general", "before"]).expect(0);
    // SIGSTOP instead of SIGKILL, so that the test decides when they continue.
    let pids = up.pids();
    signal(pids[1], Signal::STOP);
    signal(pids[2], Signal::STOP);
    let queued = up.run(&["send", "general", "queued", "--timeout", "2s"]).expect(5);
    assert!(queued.err.contains("outbox") && queued.out.is_empty(), "{queued:#?}");
    up.run(&["send", "general", "later", "--no-wait"]).expect(0);
    let page = up.run(&["status", "--timeout", "3s"]);
    assert_ne!(page.code, Some(0), "{page:#?}");
    // Applied events can still be read.
    assert!(up.run(&["history", "general"]).expect(0).out.contains("ana: before"));
    signal(pids[1], Signal::CONT);
    signal(pids[2], Signal::CONT);
    up.until_healthy();
    up.run(&["send", "general", "after"]).expect(0);
    let history = up.run(&["history", "general", "--json", "--linearizable"]).expect(0).json();
    let said: Vec<&Value> =
        history.iter().filter(|event| event["kind"] == "message").map(|event| &event["body"]).collect();
    assert_eq!(said, ["before", "queued", "later", "after"]);
    up.stop();
}
