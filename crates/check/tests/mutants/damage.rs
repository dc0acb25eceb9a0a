//! The kinds of damage, each with the property that must be violated.

use conclave_check::Property;
use serde_json::{Value, json};

use crate::good::{Dice, with};
use crate::private;

pub(crate) struct Damage {
    pub(crate) name: &'static str,
    pub(crate) breaks: Property,
    pub(crate) does: fn(&mut Vec<Value>, u64),
}

const fn damage(name: &'static str, breaks: Property, does: fn(&mut Vec<Value>, u64)) -> Damage {
    Damage { name, breaks, does }
}

pub(crate) const ALL: &[Damage] = &[
    damage("an acked event is missing at one replica", Property::AckedKept, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "ok") && line["seq"] != 0);
        let ack = lines[at].clone();
        lines.retain(|line| {
            !(is(line, "final") && line["reader"] == "n2" && same(line, &ack, &["room", "seq"]))
        });
    }),
    damage("the end of a room is missing at one replica", Property::AckedKept, |lines, _| {
        let ack = lines
            .iter()
            .filter(|line| is(line, "ok"))
            .max_by_key(|line| line["seq"].as_u64())
            .unwrap()
            .clone();
        let cut = |line: &Value| line["room"] == ack["room"] && line["seq"].as_u64() >= ack["seq"].as_u64();
        lines.retain(|line| !(is(line, "final") && line["reader"] == "n3" && cut(line)));
        for line in lines.iter_mut() {
            if is(line, "final_read") && line["reader"] == "n3" && line["room"] == ack["room"] {
                line["last"] = json!(ack["seq"].as_u64().unwrap() - 1);
            }
        }
    }),
    damage("another event is where the ack said", Property::AckedKept, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "ok") && line["seq"] != 0);
        let seq = lines[at]["seq"].as_u64().unwrap();
        lines[at]["seq"] = json!(seq - 1);
    }),
    damage("a retry became a second event", Property::NoDuplicate, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "observed") && line["no"] != 0);
        append_everywhere(lines, &lines[at].clone());
    }),
    damage("a retry was acked with another seq", Property::NoDuplicate, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "ok") && line["seq"] != 0);
        let seq = lines[at]["seq"].as_u64().unwrap();
        let again = with(lines[at].clone(), "seq", json!(seq + 1));
        lines.insert(at + 1, again);
    }),
    damage("one replica has another event at a seq", Property::OneOrder, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "final") && line["no"] != 0);
        lines[at]["body"] = json!("something else");
    }),
    damage("one subscriber sees two events the other way round", Property::OneOrder, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "observed") && line["seq"] == 2);
        let first = lines[at].clone();
        let next = |line: &Value| {
            is(line, "observed") && same(line, &first, &["reader", "room"]) && line["seq"] == 3
        };
        let Some(other) = lines.iter().position(next) else { return };
        let second = lines[other].clone();
        for field in ["session", "no", "body"] {
            lines[at][field] = second[field].clone();
            lines[other][field] = first[field].clone();
        }
    }),
    damage("what was acked before is ordered after", Property::OneOrder, |lines, _| {
        // A send that ends before the first one begins, with a greater seq.
        let first = lines.iter().position(|line| is(line, "invoke")).unwrap();
        let request = json!({"session": 99, "room": lines[first]["room"], "no": 1, "at": 0});
        lines.insert(0, with(request.clone(), "kind", json!("ok")));
        lines[0]["seq"] = json!(1_000_000);
        lines.insert(
            0,
            with(with(with(request, "kind", json!("invoke")), "what", json!("message")), "body", json!("x")),
        );
    }),
    damage("a subscriber misses an event", Property::NoGap, |lines, seed| {
        let at = pick_followed(lines, seed);
        lines.remove(at);
    }),
    damage("a subscriber gets an event twice", Property::NoGap, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "observed"));
        lines.insert(at, lines[at].clone());
    }),
    damage("a subscriber is told too early that it has caught up", Property::NoGap, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "caught_up"));
        let seq = lines[at]["seq"].as_u64().unwrap();
        lines[at]["seq"] = json!(seq + 1);
    }),
    damage("all replicas have a hole", Property::NoGap, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "final") && line["reader"] == "n1");
        let hole = lines[at].clone();
        lines.retain(|line| !(is(line, "final") && same(line, &hole, &["room", "seq"])));
    }),
    damage(
        "two requests of a session were decided in the wrong order",
        Property::SenderOrder,
        |lines, seed| {
            let at = pick(lines, seed, |line| is(line, "final") && line["no"].as_u64() > Some(1));
            let late = lines[at].clone();
            let before = |line: &&Value| {
                is(line, "final")
                    && same(line, &late, &["room", "session"])
                    && line["no"].as_u64() < late["no"].as_u64()
            };
            let Some(early) = lines.iter().find(before).cloned() else {
                lines[at]["no"] = json!(0);
                lines[at]["seq"] = json!(0);
                append_everywhere(lines, &with(with(late, "no", json!(1)), "body", json!("x")));
                return;
            };
            for line in lines.iter_mut().filter(|line| line["seq"].is_u64() && !is(line, "caught_up")) {
                if same(line, &late, &["room", "session", "no"]) {
                    line["no"] = early["no"].clone();
                } else if same(line, &early, &["room", "session", "no"]) {
                    line["no"] = late["no"].clone();
                }
            }
        },
    ),
    damage("a late request appears after its successors", Property::SenderOrder, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "final") && line["no"].as_u64() > Some(1));
        let event = with(with(lines[at].clone(), "no", json!(1)), "body", json!("late"));
        append_everywhere(lines, &event);
    }),
    damage("a subscriber continues one event too late", Property::ResumeExact, |lines, seed| {
        let at = pick_resumed(lines, seed);
        lines.remove(at);
    }),
    damage("a subscriber continues one event too early", Property::ResumeExact, |lines, seed| {
        let at = pick_resumed(lines, seed);
        let seq = lines[at]["seq"].as_u64().unwrap();
        let early = with(lines[at].clone(), "seq", json!(seq - 1));
        lines.insert(at, early);
    }),
    damage("a subscriber asks for the wrong place", Property::ResumeExact, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "resumed") && line["after"] != 0);
        let after = lines[at]["after"].as_u64().unwrap();
        lines[at]["after"] = json!(after - 1);
    }),
    damage("an event that nobody sent", Property::NoPhantom, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "observed") && line["no"] != 0);
        append_everywhere(lines, &with(lines[at].clone(), "no", json!(1_000_000)));
    }),
    damage("an event of no session", Property::NoPhantom, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "observed") && line["no"] != 0);
        append_everywhere(lines, &with(with(lines[at].clone(), "no", json!(0)), "session", json!(0)));
    }),
    damage("a text that was changed everywhere", Property::NoPhantom, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "final") && line["no"] != 0);
        let event = lines[at].clone();
        let seen = |line: &&mut Value| is(line, "final") || is(line, "observed");
        for line in lines.iter_mut().filter(seen) {
            if same(line, &event, &["room", "seq"]) {
                line["body"] = json!("changed");
            }
        }
    }),
    damage("a refused send appears", Property::NoPhantom, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "refused"));
        let refused = lines[at].clone();
        let sent = |line: &&Value| is(line, "invoke") && same(line, &refused, &["session", "room", "no"]);
        let sent = lines.iter().find(sent).unwrap().clone();
        append_everywhere(lines, &sent);
    }),
    damage("an event is seen before it is sent", Property::NoPhantom, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "observed") && line["no"] != 0);
        lines[at]["at"] = json!(0);
    }),
    damage("an ack of what was never sent", Property::NoPhantom, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "ok"));
        let ack = lines[at].clone();
        lines.retain(|line| !(is(line, "invoke") && same(line, &ack, &["session", "room", "no"])));
    }),
    damage("a read misses what was acked before it", Property::ReadsFresh, |lines, _| {
        let ack = lines.iter().rfind(|line| is(line, "ok") && line["seq"] != 0).unwrap().clone();
        let at = ack["at"].as_u64().unwrap() + 1;
        let last = ack["seq"].as_u64().unwrap() - 1;
        lines.push(json!({"kind": "read", "begun": at, "at": at + 1, "room": ack["room"], "last": last}));
    }),
    damage("a read goes back behind another one", Property::ReadsFresh, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "read"));
        let read = lines[at].clone();
        let (ended, last) = (read["at"].as_u64().unwrap(), read["last"].as_u64().unwrap());
        let stale = with(with(read, "begun", json!(ended + 1)), "at", json!(ended + 2));
        lines.insert(at + 1, with(stale, "last", json!(last - 1)));
    }),
    damage("a replica lacks an event before others", Property::ReplicasAgree, |lines, seed| {
        let at = pick_copied(lines, seed);
        lines.remove(at);
    }),
    damage("a replica has two events the other way round", Property::ReplicasAgree, |lines, seed| {
        let at = pick_copied(lines, seed);
        for field in ["session", "no", "body"] {
            let first = lines[at][field].clone();
            lines[at][field] = lines[at + 1][field].clone();
            lines[at + 1][field] = first;
        }
    }),
    damage("a replica has another text", Property::ReplicasAgree, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "final") && line["no"] != 0);
        lines[at]["body"] = json!("something else");
    }),
    damage("a node that is cut off acks", Property::MinoritySilent, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "invoke") && line["node"] == "n3");
        let ack = with(with(lines[at].clone(), "kind", json!("ok")), "seq", json!(0));
        lines.insert(at + 1, ack);
    }),
    damage("a node that is cut off answers a read", Property::MinoritySilent, |lines, seed| {
        let at = pick(lines, seed, |line| is(line, "invoke") && line["node"] == "n3");
        let now = lines[at]["at"].clone();
        let read = json!({"kind": "read", "begun": now, "at": now, "room": 1, "last": 1, "node": "n3"});
        lines.insert(at + 1, read);
    }),
    damage("a stream goes on after its reader was removed", Property::AccessExact, |lines, seed| {
        with_private_room(lines, seed);
        let removed = pick(lines, seed, |line| is(line, "closed"));
        let (closed, seq) = (lines[removed].clone(), last_seq(lines, removed) + 1);
        lines.insert(removed, delivered(lines, &closed, seq));
    }),
    damage("somebody who was never a member gets events", Property::AccessExact, |lines, seed| {
        with_private_room(lines, seed);
        let at = pick(lines, seed, |line| is(line, "observed") && line["room"] == private::ROOM);
        lines.insert(at, with(with(lines[at].clone(), "user", json!(9)), "reader", json!("thief")));
    }),
    damage("a new member sees the past of a room that hides it", Property::AccessExact, |lines, seed| {
        with_private_room(lines, seed);
        let end = lines.last().unwrap()["at"].clone();
        // The last event before the last membership of this user, when the room hid its past.
        let added = lines.iter().rfind(|line| line["what"] == "member_added" && line["about"] == 3).unwrap();
        let seq = added["seq"].as_u64().unwrap() - 1;
        let reader = json!({"user": 3, "reader": "history of 3", "stream": 1_000_000, "at": end});
        lines.push(delivered(lines, &reader, seq));
    }),
    damage("a reader gets the past before somebody adds the reader", Property::AccessExact, |lines, seed| {
        with_private_room(lines, seed);
        let at = pick(lines, seed, |line| is(line, "observed") && line["room"] == private::ROOM);
        let name = format!("user{}", lines[at]["user"]);
        let adds =
            |line: &Value| is(line, "invoke") && line["what"] == "member_added" && line["body"] == *name;
        let added = lines.iter().position(adds).unwrap();
        let early = with(lines[at].clone(), "at", json!(lines[added]["at"].as_u64().unwrap() - 1));
        lines.insert(added, early);
    }),
    damage("a stream ends before the last event of a membership", Property::AccessExact, |lines, seed| {
        with_private_room(lines, seed);
        let last = |lines: &[Value], closed: usize| {
            let of = |line: &Value| {
                is(line, "observed") && same(line, &lines[closed], &["reader", "stream", "room"])
            };
            lines.iter().rposition(of)
        };
        let ends = |at: &usize| is(&lines[*at], "closed") && last(lines, *at).is_some();
        let ends: Vec<usize> = (0..lines.len()).filter(ends).collect();
        let closed = ends[Dice::new(seed ^ 0x5eed).below(ends.len())];
        lines.remove(last(lines, closed).unwrap());
    }),
    damage("a stream skips an event of a membership", Property::AccessExact, |lines, seed| {
        with_private_room(lines, seed);
        // From there on every event that a user sees comes behind the beginning of the membership.
        let hides = lines.iter().find(|line| is(line, "final") && line["what"] == "policy").unwrap();
        let hides = hides["seq"].as_u64();
        let at = pick(lines, seed, |line| {
            is(line, "observed")
                && line["room"] == private::ROOM
                && line["what"] == "message"
                && line["seq"].as_u64() > hides
                && line["reader"].as_str().is_some_and(|name| name.starts_with("reader"))
        });
        let next = lines[at]["seq"].as_u64().unwrap() + 1;
        lines[at] = with(with(lines[at].clone(), "kind", json!("truncated")), "seq", json!(next));
    }),
];

/// Adds the history of a private room behind the others.
fn with_private_room(lines: &mut Vec<Value>, seed: u64) {
    let time = lines.iter().filter_map(|line| line["at"].as_u64()).max().unwrap();
    lines.extend(private::history(seed, time));
}

/// The last seq that the stream of the line `at` had reached before that line.
fn last_seq(lines: &[Value], at: usize) -> u64 {
    let reached = |line: &Value| match line["kind"].as_str()? {
        "observed" => line["seq"].as_u64(),
        "resumed" => line["after"].as_u64(),
        "truncated" => line["seq"].as_u64().map(|seq| seq - 1),
        _ => None,
    };
    let on = |line: &&Value| same(line, &lines[at], &["reader", "stream", "room"]);
    lines[..at].iter().rev().filter(on).find_map(reached).unwrap()
}

/// The event of the private room at `seq`, delivered to the reader of `on`.
fn delivered(lines: &[Value], on: &Value, seq: u64) -> Value {
    let event = |line: &&Value| is(line, "final") && line["room"] == private::ROOM && line["seq"] == seq;
    let mut event = with(lines.iter().find(event).unwrap().clone(), "kind", json!("observed"));
    for field in ["user", "reader", "stream", "at"] {
        event[field] = on[field].clone();
    }
    event
}

fn is(line: &Value, kind: &str) -> bool {
    line["kind"] == kind
}

fn same(line: &Value, other: &Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| line[field] == other[field])
}

/// One of the lines that match, chosen by the seed.
fn pick(lines: &[Value], seed: u64, fits: impl Fn(&Value) -> bool) -> usize {
    let fitting: Vec<usize> = (0..lines.len()).filter(|at| fits(&lines[*at])).collect();
    assert!(!fitting.is_empty(), "the history is too short");
    fitting[Dice::new(seed ^ 0x5eed).below(fitting.len())]
}

/// An event that is neither the first of its stream nor the last.
fn pick_followed(lines: &[Value], seed: u64) -> usize {
    let on = |at: usize, other: usize| {
        is(&lines[other], "observed") && same(&lines[other], &lines[at], &["reader", "stream", "room"])
    };
    let inner = |at: usize| {
        is(&lines[at], "observed")
            && (0..at).any(|other| on(at, other))
            && (at + 1..lines.len()).any(|other| on(at, other))
    };
    let inner: Vec<usize> = (0..lines.len()).filter(|at| inner(*at)).collect();
    inner[Dice::new(seed ^ 0x5eed).below(inner.len())]
}

/// An event of the second replica that is followed by another one there.
fn pick_copied(lines: &[Value], seed: u64) -> usize {
    let copied = |at: usize| is(&lines[at], "final") && lines[at]["reader"] == "n2";
    let follows = |at: usize| copied(at) && copied(at + 1) && same(&lines[at], &lines[at + 1], &["room"]);
    let fitting: Vec<usize> = (0..lines.len() - 1).filter(|at| follows(*at)).collect();
    fitting[Dice::new(seed ^ 0x5eed).below(fitting.len())]
}

/// The first event of a stream that was resumed, if another one follows.
fn pick_resumed(lines: &[Value], seed: u64) -> usize {
    let events = |line: &Value| {
        let line = line.clone();
        let on =
            move |other: &Value| is(other, "observed") && same(other, &line, &["reader", "stream", "room"]);
        (0..lines.len()).filter(move |at| on(&lines[*at]))
    };
    let resumed = lines.iter().filter(|line| is(line, "resumed"));
    let first: Vec<usize> =
        resumed.filter(|line| events(line).count() > 1).filter_map(|line| events(line).next()).collect();
    first[Dice::new(seed ^ 0x5eed).below(first.len())]
}

/// Adds the event at the end of its room, for every reader and replica.
fn append_everywhere(lines: &mut Vec<Value>, event: &Value) {
    let end = lines.iter().filter(|line| is(line, "final_read") && line["room"] == event["room"]);
    let seq = end.filter_map(|line| line["last"].as_u64()).max().unwrap() + 1;
    let mut appended = Vec::with_capacity(lines.len() + 3);
    for line in lines.drain(..) {
        let of_room = line["room"] == event["room"];
        if is(&line, "final_read") && of_room {
            appended.push(with(line, "last", json!(seq)));
            continue;
        }
        let last = is(&line, "final") && of_room && line["seq"] == seq - 1;
        let reader = line["reader"].clone();
        appended.push(line);
        if last {
            let mut copy = json!({"kind": "final", "what": "message", "seq": seq, "reader": reader});
            for field in ["room", "session", "no", "body"] {
                copy[field] = event[field].clone();
            }
            appended.push(copy);
        }
    }
    *lines = appended;
}
