//! Everyday commands: sending, reading, status, chat.

use std::io::Write as _;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DEADLINE, Up, finish, lines_of, signal, until, until_says};

/// The seq of `#general:1042`.
pub(crate) fn seq(line: &str) -> u64 {
    line.strip_prefix("#general:").and_then(|seq| seq.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn messages_rooms_and_status() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "4"]);
    sending_and_reading(&up);
    rooms_and_members(&up);
    looking(&up);
    mistakes(&up);
    chatting(&up);
    up.stop();
}

fn sending_and_reading(up: &Up) {
    let first = up.run(&["send", "general", "hello", "wide", "wörld", "日本"]).expect(0);
    let first = seq(first.lines()[0]);
    let input: String = (0..300).map(|i| format!("line {i}\n\n")).collect();
    let sent = up.feed(&["send", "#general", "-"], input.as_bytes()).expect(0);
    let seqs: Vec<u64> = sent.lines().into_iter().map(seq).collect();
    assert_eq!(seqs, (first + 1..=first + 300).collect::<Vec<_>>());

    let history =
        up.run(&["history", "general", "--json", "--limit", "301", "--linearizable"]).expect(0).json();
    assert_eq!(history.len(), 301);
    assert_eq!(history[0]["body"], "hello wide wörld 日本");
    assert_eq!(
        (&history[0]["from"], &history[0]["kind"], &history[0]["room"]),
        (&Value::from("ana"), &Value::from("message"), &Value::from("general"))
    );
    let expected = ["body", "from", "kind", "request_no", "room", "seq", "session_id", "time_ms", "ts"];
    let mut found = keys(&history[0]);
    found.sort_unstable();
    assert_eq!(found, expected);
    for (i, event) in history[1..].iter().enumerate() {
        assert_eq!(event["body"], format!("line {i}"));
    }

    let after = (first + 9).to_string();
    let page = up.run(&["history", "general", "--after", &after, "-n", "2", "--linearizable"]).expect(0);
    assert_eq!(page.lines().len(), 2, "{page:#?}");
    assert!(page.lines()[0].starts_with(&format!("#general:{}  ", first + 10)), "{page:#?}");
    assert!(page.lines()[0].ends_with("ana: line 9"), "{page:#?}");
    let page = up.run(&["history", "general", "--before", "2", "-n", "10", "--json"]).expect(0).json();
    assert_eq!(
        (page.len(), &page[0]["seq"], &page[0]["kind"]),
        (1, &Value::from(1), &Value::from("created"))
    );

    let since = (first - 1).to_string();
    let tail = up.run(&["tail", "general", "--since", &since, "--no-follow", "--json", "--linearizable"]);
    assert_eq!(tail.expect(0).json(), history);
    let last = up.run(&["tail", "general", "-n", "3", "--no-follow", "--json", "--linearizable"]);
    let last = last.expect(0).json();
    assert_eq!(last, history[298..]);

    let ack = up.run(&["send", "general", "--json", "one", "more"]).expect(0).json();
    // A repeat is possible if the first answer was late and the client raced another node.
    assert!(ack[0]["room"] == "general" && ack[0]["duplicate"].is_boolean(), "{ack:?}");
    assert_eq!(ack[0]["seq"], first + 301);
}

fn rooms_and_members(up: &Up) {
    assert_eq!(up.run(&["rooms", "create", "ops"]).expect(0).out, "#ops\n");
    assert_eq!(up.run(&["create", "ops"]).expect(0).out, "#ops (was there already)\n");
    up.run(&["send", "--create", "ci", "done"]).expect(0);
    up.run(&["join", "ops"]).expect(0);
    assert_eq!(up.run(&["join", "ops"]).expect(0).out, "#ops (nothing to change)\n");
    up.run(&["topic", "ops", "on", "call:", "ana"]).expect(0);

    let topic = "\"on call: ana\"";
    let rooms = until_says(0, &[topic], || up.run(&["rooms", "--json"])).json();
    let names: Vec<&Value> = rooms.iter().map(|room| &room["room"]).collect();
    assert_eq!(names, ["ci", "general", "ops"]);
    let mut found = keys(&rooms[0]);
    found.sort_unstable();
    assert_eq!(
        found,
        ["archived", "id", "joined", "kind", "last_seq", "members", "role", "room", "shard", "topic"]
    );
    assert_eq!((&rooms[2]["topic"], &rooms[2]["joined"]), (&Value::from("on call: ana"), &Value::from(true)));

    up.run(&["leave", "ops"]).expect(0);
    let events = up.run(&["history", "ops", "--json", "--linearizable"]).expect(0).json();
    let kinds: Vec<&Value> = events.iter().map(|event| &event["kind"]).collect();
    // Who creates a room is a member of it.
    assert_eq!(kinds, ["created", "topic", "left"]);
    until_says(0, &["on call: ana"], || up.run(&["rooms"]));
}

fn looking(up: &Up) {
    let status = until_says(0, &["\"can_lose\":1"], || up.run(&["status", "--json"])).json().remove(0);
    assert_eq!((&status["healthy"], &status["shards"]), (&Value::from(true), &Value::from(4)));
    assert_eq!(status["cluster_id"], up.ready["cluster_id"]);
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for key in
        ["name", "node_id", "address", "version", "reachable", "applied", "lag", "sync_p99_us", "clients"]
    {
        assert!(keys(&nodes[0]).contains(&key), "{key} is missing in {:#?}", nodes[0]);
    }
    assert_eq!(nodes[0]["shards"].as_array().unwrap().len(), 5);
    until_says(0, &["HEALTHY", "3/3 nodes", "can lose 1", "0 (meta)", "node3"], || up.run(&["status"]));
    until("all answer a ping", || up.run(&["ping"]).lines().len() == 3);
}

fn mistakes(up: &Up) {
    let long = "x".repeat(16 * 1024 + 1);
    for (code, args) in [
        (1, vec!["send", "general", ""]),
        (1, vec!["send", "general", &long]),
        (2, vec!["send", "General", "x"]),
        (2, vec!["send", "general"]),
        (2, vec!["sned", "general", "x"]),
        (4, vec!["send", "nowhere", "x"]),
        (4, vec!["history", "nowhere"]),
        (4, vec!["tail", "nowhere", "--no-follow"]),
        (4, vec!["join", "nowhere"]),
        (6, vec!["-s", "127.0.0.1:1", "rooms"]),
        (6, vec!["-s", "127.0.0.1:1", "status", "--timeout", "1s"]),
    ] {
        let ran = up.run(&args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:#?}");
        assert_eq!(ran.out, "", "{args:?}");
        assert!(!ran.err.is_empty(), "{args:?}");
    }
    let unknown = up.run(&["send", "nowhere", "x"]);
    assert!(
        unknown.err.contains("next: ") && unknown.err.contains("conclave create nowhere"),
        "{unknown:#?}"
    );

    // Bad lines are reported by number, and do not affect the others.
    let input = [b"good\n".as_slice(), b"\xff\xfe\n", long.as_bytes(), b"\nalso good\n"].concat();
    let ran = up.feed(&["send", "general", "-"], &input).expect(1);
    assert_eq!(ran.lines().len(), 2, "{ran:#?}");
    assert!(ran.err.contains("line 2: not UTF-8") && ran.err.contains("line 3: longer"), "{ran:#?}");
}

fn chatting(up: &Up) {
    let input = "hello from a pipe\n/jion ops\n//slash\n/rooms\n/status\n";
    let parts = ["ana: hello from a pipe ✓", "did you mean /join?", "ana: /slash ✓", "#ops", "can lose 1"];
    let ran = until_says(0, &parts, || up.feed(&["chat", "general"], input.as_bytes()));
    assert!(!ran.out.contains("ana: /jion"), "{ran:#?}");
    assert!(up.feed(&["chat", "nowhere"], b"x\n").expect(4).err.contains("no room #nowhere"));
}

#[test]
fn a_reader_with_a_resume_file_misses_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1"]);
    let file = scratch.path().join("pos");
    let file = file.to_str().unwrap();
    let mut seen = Vec::new();
    for round in 0..3 {
        let input: String = (0..20).map(|i| format!("{round}-{i}\n")).collect();
        up.feed(&["send", "general", "-"], input.as_bytes()).expect(0);
        let mut command = up.command(&["tail", "general", "--json", "--resume-file", file]);
        let mut tail = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(tail.stdout.take().unwrap());
        // The reader is killed during the round's messages, at any point between print and sync.
        loop {
            let line = lines.recv_timeout(DEADLINE).expect("the next event");
            let event: Value = serde_json::from_str(&line).unwrap();
            let stop = event["body"] == format!("{round}-{}", 5 + 7 * round);
            seen.push(event["seq"].as_u64().unwrap());
            if stop {
                break;
            }
        }
        signal(tail.id(), Signal::KILL);
        finish(tail);
        // Lines still in the pipe were printed too.
        seen.extend(
            lines.iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok()?["seq"].as_u64()),
        );
    }
    for pair in seen.windows(2) {
        assert!(pair[1] <= pair[0] + 1, "a line was skipped after {}: {seen:?}", pair[0]);
    }
    assert_eq!(seen[0], 1);
    let wrong = up.run(&["tail", "general", "--no-follow", "--resume-file", "/nowhere/pos"]).expect(1);
    assert!(wrong.err.contains("/nowhere/pos"), "{wrong:#?}");
    up.stop();
}

#[test]
fn what_became_of_the_work_decides_the_exit_code_and_not_who_reads_the_output() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--nodes", "1"]);
    // The reader of the places goes away after the first.
    let mut send = up.command(&["send", "general", "-"]);
    let mut send = send.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = send.stdin.take().unwrap();
    drop(send.stdout.take());
    for line in 0..2_000 {
        writeln!(stdin, "line {line}").unwrap();
    }
    drop(stdin);
    let sent = finish(send).expect(0);
    assert_eq!(sent.err, "");
    let history = up.run(&["history", "general", "-n", "5000", "--json", "--linearizable"]).expect(0);
    assert_eq!(history.json().iter().filter(|event| event["kind"] == "message").count(), 2_000);

    // A full disk at the output is no failure of what was done.
    for args in
        [&["create", "ops"][..], &["send", "ops", "x"], &["topic", "ops", "x"], &["admin", "rebalance"]]
    {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = finish(up.command(args).stdout(full).spawn().unwrap());
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:#?}");
        assert!(ran.err.contains("it is done, but the output cannot be written"), "{args:?}: {ran:#?}");
    }
    up.stop();
}
