//! Makes good histories of a private room: an owner who writes, adds and removes two users and hides the past once, and
//! what the streams and pages of the two deliver. A model of its own: it keeps for each user the seqs that are visible.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::good::{Dice, with};

pub(crate) const ROOM: u64 = 70;
const OWNER: u64 = 1;
const SESSION: u64 = 700;
const STEPS: usize = 300;

struct User {
    id: u64,
    member: bool,
    /// The seqs that the user may see.
    visible: BTreeSet<u64>,
    stream: u64,
    /// The last seq of the stream, and whether the stream goes on.
    at: u64,
    follows: bool,
}

struct Model {
    dice: Dice,
    time: u64,
    lines: Vec<Value>,
    events: Vec<Value>,
    hides_past: bool,
    users: Vec<User>,
}

/// A history of one private room that begins at this time.
pub(crate) fn history(seed: u64, time: u64) -> Vec<Value> {
    let user = |id| User { id, member: false, visible: BTreeSet::new(), stream: 0, at: 0, follows: false };
    let created =
        json!({"room": ROOM, "seq": 1, "session": 0, "no": 0, "what": "created", "body": "", "about": OWNER});
    let mut model = Model {
        dice: Dice::new(seed),
        time,
        lines: Vec::new(),
        events: vec![created],
        hides_past: false,
        users: vec![user(2), user(3)],
    };
    model.log(json!({"kind": "private", "room": ROOM, "user": OWNER}));
    for step in 0..STEPS {
        let who = model.dice.below(2);
        match model.dice.below(12) {
            _ if step == STEPS / 2 => {
                model.hides_past = true;
                model.commit("policy", "since_join", 0);
            }
            0 => model.change_member(who),
            1..=5 => model.commit("message", &format!("text {step}"), 0),
            6..=10 => model.deliver(who),
            _ => model.read_page(who),
        }
    }
    for who in 0..2 {
        if model.users[who].member {
            model.change_member(who);
        }
        model.commit("message", "between two memberships", 0);
        model.change_member(who);
        model.commit("message", "nearly the end", 0);
        for _ in 0..model.events.len() {
            model.deliver(who);
        }
        model.change_member(who);
        model.commit("message", "the end", 0);
        model.deliver(who);
        while model.users[who].follows {
            model.deliver(who);
        }
    }
    model.end()
}

impl Model {
    fn log(&mut self, mut line: Value) {
        self.time += 1 + self.dice.below(3) as u64;
        line["at"] = json!(self.time);
        self.lines.push(line);
    }

    /// The owner asks for an event and gets it.
    fn commit(&mut self, what: &str, body: &str, about: u64) {
        let (no, seq) = (self.events.len() as u64, self.events.len() as u64 + 1);
        let request = json!({"session": SESSION, "room": ROOM, "no": no});
        self.log(with(
            with(with(request.clone(), "kind", json!("invoke")), "what", json!(what)),
            "body",
            json!(body),
        ));
        let mut event =
            with(with(with(request.clone(), "what", json!(what)), "body", json!(body)), "seq", json!(seq));
        if about > 0 {
            event["about"] = json!(about);
        }
        self.events.push(event);
        for user in self.users.iter_mut().filter(|user| user.member) {
            user.visible.insert(seq);
        }
        self.log(with(with(request, "kind", json!("ok")), "seq", json!(seq)));
    }

    fn change_member(&mut self, who: usize) {
        let User { id, member, .. } = self.users[who];
        let name = format!("user{id}");
        if member {
            self.commit("member_removed", &name, id);
            self.users[who].member = false;
            return;
        }
        // The user sees the event that adds the user.
        self.users[who].member = true;
        if !self.hides_past {
            self.users[who].visible = (1..=self.events.len() as u64).collect();
        }
        self.commit("member_added", &name, id);
    }

    /// The next step of a user's stream: opens it, skips what is hidden, delivers an event, or closes it.
    fn deliver(&mut self, who: usize) {
        let User { id, member, stream, at, follows, .. } = self.users[who];
        let on = json!({"reader": format!("reader of {id}"), "stream": stream, "room": ROOM});
        if !follows {
            let opens = with(
                with(with(on, "kind", json!("resumed")), "stream", json!(stream + 1)),
                "after",
                json!(at),
            );
            self.log(with(opens, "node", json!("n1")));
            (self.users[who].stream, self.users[who].follows) = (stream + 1, true);
            return;
        }
        let next = self.users[who].visible.range(at + 1..).next().copied();
        match next {
            Some(seq) if seq > at + 1 => {
                self.log(with(with(on, "kind", json!("truncated")), "seq", json!(seq)));
                self.users[who].at = seq - 1;
            }
            Some(seq) => {
                self.observe(id, &on, seq);
                self.users[who].at = seq;
            }
            None if member => {}
            None => {
                self.log(with(with(on, "kind", json!("closed")), "user", json!(id)));
                self.users[who].follows = false;
            }
        }
    }

    /// A page of history with the visible events from a random one on, up to the first hidden one.
    fn read_page(&mut self, who: usize) {
        let from = 1 + self.dice.below(self.events.len()) as u64;
        let User { id, visible, .. } = &self.users[who];
        let id = *id;
        let Some(first) = visible.range(from..).next().copied() else { return };
        let page: Vec<u64> = visible
            .range(first..)
            .zip(first..)
            .filter(|(seq, dense)| **seq == *dense)
            .map(|(seq, _)| *seq)
            .collect();
        let on = json!({"reader": format!("history of {id}"), "stream": self.time, "room": ROOM});
        for seq in page {
            self.observe(id, &on, seq);
        }
    }

    fn observe(&mut self, user: u64, on: &Value, seq: u64) {
        let event = self.events[usize::try_from(seq).unwrap() - 1].clone();
        let line = with(with(event, "kind", json!("observed")), "user", json!(user));
        let line = with(with(line, "reader", on["reader"].clone()), "stream", on["stream"].clone());
        self.log(line);
    }

    fn end(mut self) -> Vec<Value> {
        for replica in ["n1", "n2", "n3"] {
            let events = self.events.clone();
            self.log(json!({"kind": "final_read", "reader": replica, "room": ROOM, "after": 0, "last": events.len()}));
            for event in events {
                self.log(with(with(event, "kind", json!("final")), "reader", json!(replica)));
            }
        }
        self.lines
    }
}
