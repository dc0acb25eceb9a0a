//! Makes good histories of a room whose messages are edited and deleted, and damages them. A model of its own: it keeps what
//! each event was, and what erases it.

use conclave_check::Property;
use serde_json::{Value, json};

use crate::damage::Damage;
use crate::good::{Dice, with};

pub(crate) const ROOM: u64 = 80;
const STEPS: usize = 160;
const USERS: u64 = 3;

struct Model {
    dice: Dice,
    time: u64,
    lines: Vec<Value>,
    /// What each event was when it was decided.
    events: Vec<Value>,
    /// The deletion that erases an event, by the event's place; 0 for none.
    erased: Vec<u64>,
    /// How far the follower has come.
    followed: usize,
}

/// A history of one room that begins at this time.
pub(crate) fn history(seed: u64, time: u64) -> Vec<Value> {
    let created = json!({"room": ROOM, "seq": 1, "session": 0, "no": 0, "what": "created", "body": ""});
    let mut model = Model {
        dice: Dice::new(seed),
        time,
        lines: Vec::new(),
        events: vec![created],
        erased: vec![0],
        followed: 0,
    };
    // One message that is edited and stays, and one that is deleted with its edit, whatever the seed says.
    for _ in 0..2 {
        model.commit(1, "message", "said", 0);
        let said = model.events.len() as u64;
        model.commit(1, "edited", &format!("of {said}"), said);
    }
    model.delete(4);
    for step in 0..STEPS {
        let message = model.message();
        match (model.dice.below(10), message) {
            (0 | 1, Some((seq, author))) => model.commit(author, "edited", &format!("edit {step}"), seq),
            (2, Some((seq, _))) => model.commit(2, "reacted", "+1", seq),
            (3, Some((seq, _))) => model.delete(seq),
            (4 | 5, _) => model.follow(),
            (6, _) => model.show_page(),
            _ => model.commit(1 + step as u64 % USERS, "message", &format!("text {step}"), 0),
        }
    }
    model.show_page();
    model.end()
}

impl Model {
    fn log(&mut self, mut line: Value) {
        self.time += 1 + self.dice.below(3) as u64;
        line["at"] = json!(self.time);
        self.lines.push(line);
    }

    /// A message that is there, and its author.
    fn message(&mut self) -> Option<(u64, u64)> {
        let at = self.dice.below(self.events.len());
        let event = &self.events[at];
        (event["what"] == "message" && self.erased[at] == 0)
            .then(|| (at as u64 + 1, event["author"].as_u64().unwrap()))
    }

    fn commit(&mut self, author: u64, what: &str, body: &str, about: u64) {
        let (session, seq) = (800 + author, self.events.len() as u64 + 1);
        let no = 1 + self.events.iter().filter(|event| event["session"] == session).count() as u64;
        let mut event = json!({
            "room": ROOM, "seq": seq, "session": session, "no": no, "what": what, "body": body, "author": author,
        });
        if about > 0 {
            event["about"] = json!(about);
        }
        let mut invoke = with(event.clone(), "kind", json!("invoke"));
        for field in ["seq", "author"] {
            invoke.as_object_mut().unwrap().remove(field);
        }
        self.log(invoke);
        self.events.push(event);
        self.erased.push(0);
        self.log(json!({"kind": "ok", "session": session, "room": ROOM, "no": no, "seq": seq}));
    }

    fn delete(&mut self, message: u64) {
        self.commit(1, "deleted", "", message);
        let by = self.events.len() as u64;
        for (event, erased) in self.events.iter().zip(&mut self.erased) {
            if event["seq"] == message || event["what"] == "edited" && event["about"] == message {
                *erased = by;
            }
        }
    }

    /// An event as it is now.
    fn now(&self, at: usize) -> Value {
        let event = self.events[at].clone();
        match self.erased[at] {
            0 => event,
            by => with(with(with(event, "what", json!("erased")), "body", json!("")), "about", json!(by)),
        }
    }

    /// The follower gets some events, each as it is at that time.
    fn follow(&mut self) {
        for _ in 0..8 {
            if self.followed < self.events.len() {
                let line = with(self.now(self.followed), "kind", json!("observed"));
                self.followed += 1;
                self.log(with(with(line, "reader", json!("follower")), "stream", json!(1)));
            }
        }
    }

    /// A page with every message.
    fn show_page(&mut self) {
        let last = self.events.len();
        for at in 0..last {
            let event = self.now(at);
            if event["what"] != "message" && event["what"] != "erased" {
                continue;
            }
            let seq = at as u64 + 1;
            let edit = self.events.iter().rev().find(|edit| edit["what"] == "edited" && edit["about"] == seq);
            let mut shown = json!({
                "kind": "shown", "reader": "pages", "room": ROOM, "seq": seq, "last": last, "what": event["what"], "body": event["body"],
            });
            if let Some(edit) = edit.filter(|_| event["what"] == "message").cloned() {
                shown["body"] = edit["body"].clone();
                shown["edited"] = edit["seq"].clone();
            }
            self.log(shown);
        }
    }

    fn end(mut self) -> Vec<Value> {
        for replica in ["n1", "n2", "n3"] {
            let last = self.events.len();
            self.log(
                json!({"kind": "final_read", "reader": replica, "room": ROOM, "after": 0, "last": last}),
            );
            for at in 0..last {
                let event = self.now(at);
                self.log(with(with(event, "kind", json!("final")), "reader", json!(replica)));
            }
        }
        self.lines
    }
}

/// The request of an event, and so what the event was.
fn asked(lines: &[Value], event: &Value) -> Value {
    let same = |line: &&Value| {
        line["kind"] == "invoke"
            && ["room", "session", "no"].iter().all(|field| line[*field] == event[*field])
    };
    lines.iter().find(same).unwrap().clone()
}

/// Adds a history of edits behind the others, and returns where the first line is for which `which` holds.
fn at(lines: &mut Vec<Value>, seed: u64, which: impl Fn(&Value) -> bool) -> usize {
    let time = lines.iter().filter_map(|line| line["at"].as_u64()).max().unwrap_or(0);
    lines.extend(history(seed, time));
    lines.iter().position(|line| line["room"] == ROOM && which(line)).unwrap()
}

/// A replica has, at the end, what an event was before it was erased.
fn keeps(lines: &mut Vec<Value>, seed: u64, what: &str) {
    at(lines, seed, |_| true);
    let kept = |line: &&Value| {
        line["kind"] == "final"
            && line["reader"] == "n2"
            && line["what"] == "erased"
            && asked(lines, line)["what"] == what
    };
    let event = lines.iter().find(kept).unwrap().clone();
    let was = asked(lines, &event);
    let there = lines.iter().position(|line| *line == event).unwrap();
    for field in ["what", "body", "about"] {
        lines[there][field] = was[field].clone();
    }
    if was["about"].is_null() {
        lines[there].as_object_mut().unwrap().remove("about");
    }
}

/// A page as it is where a message was edited.
fn edited_page(line: &Value) -> bool {
    line["kind"] == "shown" && line["edited"].is_u64()
}

pub(crate) const ALL: &[Damage] = &[
    Damage {
        name: "a replica keeps the text of a deleted message",
        breaks: Property::DeletedGone,
        does: |lines, seed| keeps(lines, seed, "message"),
    },
    Damage {
        name: "a replica keeps an edit of a deleted message",
        breaks: Property::DeletedGone,
        does: |lines, seed| keeps(lines, seed, "edited"),
    },
    Damage {
        name: "a page shows a deleted message",
        breaks: Property::DeletedGone,
        does: |lines, seed| {
            let at = at(lines, seed, |line| line["kind"] == "shown" && line["what"] == "erased");
            lines[at]["what"] = json!("message");
        },
    },
    Damage {
        name: "something is erased that nobody deleted",
        breaks: Property::DeletedGone,
        does: |lines, seed| {
            at(lines, seed, |_| true);
            // The last page shows as a message only what nobody deletes.
            let shown = |line: &Value| line["kind"] == "shown" && line["what"] == "message";
            let at = lines.iter().rposition(shown).unwrap();
            lines[at]["what"] = json!("erased");
        },
    },
    Damage {
        name: "a stream shows a deleted message at a node that had the deletion",
        breaks: Property::DeletedGone,
        does: |lines, seed| {
            at(lines, seed, |_| true);
            let erased =
                |line: &&Value| line["kind"] == "final" && line["room"] == ROOM && line["what"] == "erased";
            let event = lines.iter().find(|line| erased(line)).unwrap().clone();
            let was = asked(lines, &event);
            let last = lines.iter().filter(|line| line["kind"] == "final" && line["room"] == ROOM);
            let last = last.max_by_key(|line| line["seq"].as_u64()).unwrap().clone();
            let time = lines.iter().filter_map(|line| line["at"].as_u64()).max().unwrap();
            let on = |line: Value, kind: &str, stream: u64| {
                let line = with(with(line, "kind", json!(kind)), "reader", json!("late"));
                with(with(line, "stream", json!(stream)), "at", json!(time + stream))
            };
            let opens = |stream, after: u64| {
                on(with(json!({"room": ROOM, "node": "n1"}), "after", json!(after)), "resumed", stream)
            };
            let seq = event["seq"].as_u64().unwrap();
            lines.push(opens(1, last["seq"].as_u64().unwrap() - 1));
            lines.push(on(last, "observed", 1));
            lines.push(opens(2, seq - 1));
            let mut shown = on(event, "observed", 2);
            for field in ["what", "body"] {
                shown[field] = was[field].clone();
            }
            shown.as_object_mut().unwrap().remove("about");
            lines.push(shown);
        },
    },
    Damage {
        name: "an edit is of another message than was asked for",
        breaks: Property::NoPhantom,
        does: |lines, seed| {
            let at = at(lines, seed, |line| line["kind"] == "final" && line["what"] == "edited");
            let seq = lines[at]["seq"].clone();
            let edited =
                |line: &Value| line["room"] == ROOM && line["what"] == "edited" && line["seq"] == seq;
            for line in lines.iter_mut().filter(|line| edited(line)) {
                line["about"] = json!(1);
            }
        },
    },
    Damage {
        name: "a page shows the text from before the edit",
        breaks: Property::FoldAgrees,
        does: |lines, seed| {
            let at = at(lines, seed, edited_page);
            lines[at].as_object_mut().unwrap().remove("edited");
        },
    },
    Damage {
        name: "a page shows a text that nobody wrote",
        breaks: Property::FoldAgrees,
        does: |lines, seed| {
            let at = at(lines, seed, edited_page);
            lines[at]["body"] = json!("something else");
        },
    },
    Damage {
        name: "a page shows the edit of another message",
        breaks: Property::FoldAgrees,
        does: |lines, seed| {
            let at = at(lines, seed, edited_page);
            let edited = lines[at]["edited"].as_u64().unwrap();
            let other = |line: &&Value| {
                line["kind"] == "final" && line["what"] == "message" && line["seq"].as_u64() > Some(edited)
            };
            let other = lines.iter().find(other).unwrap()["seq"].clone();
            lines[at]["edited"] = other;
        },
    },
    Damage {
        name: "somebody edits the message of somebody else",
        breaks: Property::AuthorOnly,
        does: |lines, seed| {
            at(lines, seed, |_| true);
            for line in lines.iter_mut().filter(|line| line["room"] == ROOM && line["what"] == "edited") {
                line["author"] = json!(9);
            }
        },
    },
    Damage {
        name: "a message is edited after its deletion",
        breaks: Property::AuthorOnly,
        does: |lines, seed| {
            let at = at(lines, seed, |line| line["kind"] == "invoke" && line["what"] == "deleted");
            let message = lines[at]["about"].clone();
            let is_later = |line: &&Value| {
                line["room"] == ROOM && line["what"] == "edited" && line["seq"].as_u64() > Some(6)
            };
            let seq = lines.iter().find(is_later).unwrap()["seq"].clone();
            for line in lines.iter_mut().filter(|line| line["room"] == ROOM && line["seq"] == seq) {
                if line["what"] == "edited" {
                    line["about"] = message.clone();
                    line["author"] = json!(1);
                }
            }
        },
    },
];
