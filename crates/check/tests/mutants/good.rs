//! Makes good histories: a model of a correct cluster, and of clients that pipeline, give up, are
//! refused, resume on another node, and read.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// The size of a history.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) sessions: u64,
    pub(crate) rooms: u64,
    pub(crate) subscribers: usize,
    pub(crate) steps: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { sessions: 4, rooms: 2, subscribers: 3, steps: 1_500 }
    }
}

/// xorshift64*: the seed alone decides.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound as u64).unwrap()
    }
}

struct Sent {
    no: u64,
    body: String,
}

/// One session in one room.
struct Client {
    session: u64,
    room: u64,
    next: u64,
    /// Sent and not yet committed, in order.
    pending: VecDeque<Sent>,
    /// Committed and not yet answered.
    answers: Vec<(u64, Option<u64>)>,
    /// Whether the session gave up on an uncommitted request: no later request can be committed then.
    stopped: bool,
}

struct Subscriber {
    name: String,
    stream: u64,
    /// Position in each room.
    at: Vec<usize>,
}

struct Model {
    dice: Dice,
    time: u64,
    lines: Vec<Value>,
    /// The events of each room, as the fields of a line.
    rooms: Vec<Vec<Value>>,
    clients: Vec<Client>,
    subscribers: Vec<Subscriber>,
    /// The last request sent to `n3`, while `n3` is cut off.
    cut: Option<u64>,
}

pub(crate) fn history(seed: u64, shape: &Shape) -> Vec<Value> {
    let mut model = Model::new(seed, shape);
    for _ in 0..shape.steps {
        match model.dice.below(10) {
            0..=2 => model.send(),
            3 | 4 => model.decide(),
            5 | 6 => model.answer(),
            7 | 8 => model.deliver(),
            _ => match model.dice.below(4) {
                0 => model.resume(),
                1 => model.read(),
                2 => model.cut_or_heal(),
                _ => model.caught_up(),
            },
        }
    }
    model.end()
}

impl Model {
    fn new(seed: u64, shape: &Shape) -> Self {
        let created =
            |room| json!({"room": room, "seq": 1, "session": 0, "no": 0, "what": "created", "body": ""});
        let mut model = Self {
            dice: Dice::new(seed),
            time: 0,
            lines: Vec::new(),
            rooms: (1..=shape.rooms).map(|room| vec![created(room)]).collect(),
            clients: Vec::new(),
            subscribers: Vec::new(),
            cut: None,
        };
        for room in 1..=shape.rooms {
            for session in 1..=shape.sessions {
                let (pending, answers) = (VecDeque::new(), Vec::new());
                model.clients.push(Client { session, room, next: 1, pending, answers, stopped: false });
            }
        }
        for number in 0..shape.subscribers {
            let at = vec![0; model.rooms.len()];
            model.subscribers.push(Subscriber { name: format!("tail-{number}"), stream: 0, at });
        }
        model
    }

    fn log(&mut self, mut line: Value) {
        self.time += 1 + self.dice.below(3) as u64;
        line["at"] = json!(self.time);
        self.lines.push(line);
    }

    fn send(&mut self) {
        let at = self.dice.below(self.clients.len());
        let client = &mut self.clients[at];
        if client.stopped || client.pending.len() + client.answers.len() >= 4 {
            return;
        }
        let (session, room, no) = (client.session, client.room, client.next);
        client.next += 1;
        let body = format!("s{session} r{room} n{no}");
        client.pending.push_back(Sent { no, body: body.clone() });
        self.log(json!({"kind": "invoke", "session": session, "room": room, "no": no, "what": "message", "body": body}));
    }

    fn decide(&mut self) {
        let at = self.dice.below(self.clients.len());
        let refuse = self.dice.below(8) == 0;
        let client = &mut self.clients[at];
        let Some(sent) = client.pending.pop_front() else { return };
        if refuse {
            client.answers.push((sent.no, None));
            return;
        }
        let events = &mut self.rooms[usize::try_from(client.room).unwrap() - 1];
        let seq = events.len() as u64 + 1;
        client.answers.push((sent.no, Some(seq)));
        events.push(json!({
            "room": client.room, "seq": seq, "session": client.session, "no": sent.no, "what": "message", "body": sent.body,
        }));
    }

    fn answer(&mut self) {
        let at = self.dice.below(self.clients.len());
        let (gives_up, undecided) = (self.dice.below(15) == 0, self.dice.below(40) == 0);
        let client = &mut self.clients[at];
        let (session, room) = (client.session, client.room);
        if undecided && let Some(sent) = client.pending.pop_front() {
            client.stopped = true;
            client.pending.clear();
            self.log(json!({"kind": "unknown", "session": session, "room": room, "no": sent.no}));
        } else if let Some((no, seq)) = client.answers.pop() {
            // Answers come last one first: their order need not be the order of events.
            let line = match seq {
                Some(_) if gives_up => json!({"kind": "unknown"}),
                Some(seq) => json!({"kind": "ok", "seq": seq}),
                None => json!({"kind": "refused", "code": "text_too_long"}),
            };
            let line =
                with(with(with(line, "session", json!(session)), "room", json!(room)), "no", json!(no));
            self.log(line);
        }
    }

    fn deliver(&mut self) {
        if self.subscribers.is_empty() {
            return;
        }
        let (who, room) = (self.dice.below(self.subscribers.len()), self.dice.below(self.rooms.len()));
        for _ in 0..self.dice.below(6) {
            self.deliver_one(who, room);
        }
    }

    fn deliver_one(&mut self, who: usize, room: usize) -> bool {
        let subscriber = &mut self.subscribers[who];
        let Some(event) = self.rooms[room].get(subscriber.at[room]) else { return false };
        subscriber.at[room] += 1;
        let line = with(event.clone(), "kind", json!("observed"));
        let line = with(with(line, "reader", json!(subscriber.name)), "stream", json!(subscriber.stream));
        self.log(line);
        true
    }

    fn resume(&mut self) {
        if self.subscribers.is_empty() {
            return;
        }
        let who = self.dice.below(self.subscribers.len());
        self.subscribers[who].stream += 1;
        for room in 0..self.rooms.len() {
            let node = format!("n{}", 1 + self.dice.below(3));
            let Subscriber { name, stream, at } = &self.subscribers[who];
            let line = json!({
                "kind": "resumed", "reader": name, "stream": stream, "room": room + 1, "after": at[room], "node": node,
            });
            self.log(line);
        }
    }

    fn caught_up(&mut self) {
        if self.subscribers.is_empty() {
            return;
        }
        let (who, room) = (self.dice.below(self.subscribers.len()), self.dice.below(self.rooms.len()));
        let Subscriber { name, stream, at } = &self.subscribers[who];
        if *stream > 0 {
            let line = json!({
                "kind": "caught_up", "reader": name, "stream": stream, "room": room + 1, "seq": at[room],
            });
            self.log(line);
        }
    }

    /// Cuts `n3` off and sends it a request without an answer, or ends the cut.
    fn cut_or_heal(&mut self) {
        let (session, room) = (900, 1);
        if let Some(no) = self.cut.take() {
            self.log(json!({"kind": "healed", "node": "n3"}));
            self.log(json!({"kind": "unknown", "session": session, "room": room, "no": no}));
            return;
        }
        let no = self.time + 1;
        self.cut = Some(no);
        self.log(json!({"kind": "cut", "node": "n3"}));
        self.log(json!({
            "kind": "invoke", "session": session, "room": room, "no": no, "what": "message", "body": "?", "node": "n3",
        }));
    }

    fn read(&mut self) {
        let room = self.dice.below(self.rooms.len());
        let begun = self.time + 1;
        let last = self.rooms[room].len();
        self.time += 2;
        self.log(json!({"kind": "read", "begun": begun, "room": room + 1, "last": last, "node": "n1"}));
    }

    fn end(mut self) -> Vec<Value> {
        for who in 0..self.subscribers.len() {
            for room in 0..self.rooms.len() {
                while self.deliver_one(who, room) {}
            }
        }
        for replica in ["n1", "n2", "n3"] {
            for room in 0..self.rooms.len() {
                let events = self.rooms[room].clone();
                self.log(json!({
                    "kind": "final_read", "reader": replica, "room": room + 1, "after": 0, "last": events.len(),
                }));
                for event in events {
                    self.log(with(with(event, "kind", json!("final")), "reader", json!(replica)));
                }
            }
        }
        self.lines
    }
}

pub(crate) fn with(mut line: Value, field: &str, value: Value) -> Value {
    line[field] = value;
    line
}
