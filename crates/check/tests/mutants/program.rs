//! The program's exit codes and output, and the recorder whose output it reads.

use std::path::PathBuf;
use std::process::{Command, Output};

use conclave_check::{Event, History, Options, Property, What};

use crate::good::{self, Shape};

fn run(name: &str, content: &str, flags: &[&str]) -> Output {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
    std::fs::write(&file, content).unwrap();
    Command::new(env!("CARGO_BIN_EXE_conclave-check")).args(flags).arg(file).output().unwrap()
}

fn good_text() -> String {
    good::history(7, &Shape::default()).iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn each_outcome_has_its_exit_code() {
    let good = good_text();
    assert_eq!(run("good", &good, &["--require", "all"]).status.code(), Some(0));
    let last = good.lines().last().unwrap();
    let bad = good.clone() + &last.replace("\"seq\":", "\"seq\":1");
    let broken = run("bad", &bad, &[]);
    assert_eq!(broken.status.code(), Some(1), "{}", String::from_utf8_lossy(&broken.stdout));
    assert!(String::from_utf8_lossy(&broken.stdout).contains("BROKEN"));
    assert_eq!(run("empty", "", &[]).status.code(), Some(2));
    assert_eq!(run("few", &good, &["--min-acked", "1000000"]).status.code(), Some(2));
    for (name, unreadable) in [
        ("noise", "not json\n"),
        ("kind", "{\"kind\":\"surprise\",\"room\":1}\n"),
        ("field", "{\"kind\":\"ok\",\"room\":1,\"session\":1,\"no\":1,\"at\":1}\n"),
        ("extra", "{\"kind\":\"unknown\",\"room\":1,\"session\":1,\"no\":1,\"at\":1,\"extra\":1}\n"),
        ("bytes", "{\"kind\":\"ok\",\"room\":-1}\n"),
    ] {
        let output = run(name, unreadable, &[]);
        assert_eq!(output.status.code(), Some(3), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("line 1"), "{name}");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_conclave-check")).arg("/nonexistent").output().unwrap();
    assert_eq!(missing.status.code(), Some(3));
    assert_eq!(run("flag", &good, &["--surprise"]).status.code(), Some(3));
}

#[test]
fn the_verdict_can_be_printed_as_json() {
    let output = run("json", &good_text(), &["--json"]);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["outcome"], "passed");
    let every = Property::every().count();
    assert_eq!(verdict["findings"].as_array().unwrap().len(), every);
}

#[test]
fn what_is_recorded_can_be_judged() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("recorded.jsonl");
    for history in [History::in_memory(), History::create(&file).unwrap()] {
        let long = "long ".repeat(1_000);
        record(&history, &long);
        history.finish().unwrap();
        if history.lines().is_empty() {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.lines().all(|line| line.len() < 400), "long texts are shortened");
            let output = run("recorded-again", &text, &["--require", "all"]);
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
        } else {
            let report = history.check(&Options::default()).unwrap();
            assert!(report.passed(), "{report}");
        }
    }
}

/// Records four concurrent clients, each in its own thread.
fn record(history: &History, long: &str) {
    let seq = std::sync::Mutex::new(1);
    let said = std::sync::Mutex::new(vec![(0, 0, String::new())]);
    std::thread::scope(|scope| {
        for session in 1..=4 {
            let (seq, said) = (&seq, &said);
            scope.spawn(move || {
                for no in 1..=50 {
                    let text =
                        if no % 10 == 0 { format!("{long}{session}{no}") } else { format!("\"{no}\"\n") };
                    history.invoke(session, 1, no, &text);
                    if no == 25 {
                        history.refused(session, 1, no, "text_too_long");
                        continue;
                    }
                    let mut said = said.lock().unwrap();
                    let mut seq = seq.lock().unwrap();
                    *seq += 1;
                    said.push((session, no, text));
                    let place = *seq;
                    drop((said, seq));
                    if no == 50 { history.unknown(session, 1, no) } else { history.ok(session, 1, no, place) }
                }
            });
        }
    });
    let said = said.into_inner().unwrap();
    let event = |at: usize| {
        let (session, no, text) = &said[at];
        let what = if at == 0 { What::Created } else { What::Message };
        Event { seq: at as u64 + 1, session: *session, no: *no, what, body: text, about: 0, author: 0 }
    };
    let half = said.len() / 2;
    for at in 0..said.len() {
        if at == half {
            history.caught_up("tail", 0, 1, half as u64);
            history.resumed("tail", 1, 1, half as u64, "n2");
        }
        history.observed("tail", u64::from(at >= half), 1, &event(at));
    }
    history.read(history.now(), 1, said.len() as u64, "n1");
    for replica in ["n1", "n2", "n3"] {
        history.final_read(replica, 1, 0, (0..said.len()).map(event));
    }
}

#[test]
fn a_recorded_delivery_to_a_removed_member_is_found() {
    let (owner, member, session) = (10, 11, 5);
    let report = |leaks: bool| {
        let history = History::in_memory();
        history.private(1, owner);
        let mut events = vec![Event::created(1)];
        for (no, what, body) in [
            (1, What::MemberAdded, "ben"),
            (2, What::Message, "for both"),
            (3, What::MemberRemoved, "ben"),
            (4, What::Message, "for one"),
        ] {
            history.invoke_other(session, 1, no, what, body);
            history.ok(session, 1, no, no + 1);
            let about = if what == What::Message { 0 } else { member };
            events.push(Event { seq: no + 1, session, no, what, body, about, author: 0 });
        }
        history.resumed("ben", 1, 1, 0, "n1");
        let delivered = if leaks { &events[..] } else { &events[..4] };
        delivered.iter().for_each(|event| history.observed_by(member, "ben", 1, 1, event));
        history.closed(member, "ben", 1, 1);
        history.final_read("n1", 1, 0, events);
        history.check(&Options { required: vec![Property::AccessExact], ..Options::default() }).unwrap()
    };
    assert!(report(false).passed(), "{}", report(false));
    let leaked = report(true);
    assert_eq!(leaked.finding(Property::AccessExact).unwrap().violations, 1, "{leaked}");
    let why = &leaked.finding(Property::AccessExact).unwrap().witness.as_ref().unwrap().sentence;
    assert_eq!(why, "ben got 1:5 for user 11, who was a member up to 1:4 only");
}
