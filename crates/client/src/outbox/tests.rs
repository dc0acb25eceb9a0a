//! The outbox against a model of the cluster and of a network that loses, delays and repeats.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_proto::chat::{SendMessageRequest, send_message_request};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

/// The requests of one session that the cluster has decided in one room.
#[derive(Default)]
struct Decided {
    by_number: BTreeMap<u64, (String, u64)>,
}

/// The cluster: rooms with their events, and for each session the decided requests.
#[derive(Default)]
struct Cluster {
    session: u32,
    decided: BTreeMap<(u32, u32), Decided>,
    events: BTreeMap<u32, Vec<String>>,
    /// Rooms that do not exist.
    closed: Vec<u32>,
}

impl Cluster {
    fn decide(&mut self, copy: &Copy) -> Reply {
        let room = copy.sent.room.0;
        if self.closed.contains(&room) {
            return Reply::Refused {
                code: "room_unknown".into(),
                message: String::new(),
                number_used: false,
            };
        }
        let text = text(&copy.request);
        let number = copy.request.request_no;
        let events = self.events.entry(room).or_default();
        let decided = &mut self.decided.entry((copy.session, room)).or_default().by_number;
        let next = decided.last_key_value().map_or(1, |(last, _)| last + 1);
        let ack = |seq, duplicate| {
            Reply::Acked(Ack { room_id: 1, request_no: number, seq, duplicate, ..Ack::default() })
        };
        match decided.get(&number) {
            Some((same, seq)) if *same == text => ack(*seq, true),
            Some(_) => Reply::Reused,
            None if number > next => Reply::OutOfOrder { expected: next },
            None => {
                events.push(text.clone());
                let seq = events.len() as u64;
                decided.insert(number, (text, seq));
                ack(seq, false)
            }
        }
    }
}

#[derive(Clone)]
struct Copy {
    sent: SentCopy,
    request: SendMessageRequest,
    session: u32,
}

fn text(request: &SendMessageRequest) -> String {
    match &request.content {
        Some(send_message_request::Content::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

struct World {
    outbox: Requests<String>,
    cluster: Cluster,
    /// Copies on their way to the cluster.
    in_flight: Vec<Copy>,
    /// Answers on their way back.
    answers: Vec<(SentCopy, u32, Reply)>,
    now: Instant,
    submitted: BTreeMap<u32, Vec<String>>,
    outcomes: BTreeMap<String, Result<Ack, SendError>>,
}

impl World {
    fn new() -> Self {
        Self {
            outbox: Requests::new(false),
            cluster: Cluster::default(),
            in_flight: Vec::new(),
            answers: Vec::new(),
            now: Instant::now(),
            submitted: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }

    fn submit(&mut self, room: u32) {
        let key = self.outbox.room(&format!("room{room}"));
        let mine = self.submitted.entry(key.0).or_default();
        let text = format!("{}-{}", key.0, mine.len());
        mine.push(text.clone());
        self.outbox.submit(key, Content::Text(text.clone()), text);
    }

    fn take(&mut self, count: usize) {
        for room in self.outbox.keys().collect::<Vec<_>>() {
            for _ in 0..count {
                if !self.outbox.ready(room, self.now) {
                    break;
                }
                let Some((sent, request)) = self.outbox.take(room) else { break };
                self.in_flight.push(Copy { sent, request, session: self.cluster.session });
            }
        }
    }

    fn answer(&mut self, sent: SentCopy, session: u32, reply: Reply) {
        // The streams of an older session are closed when it is changed.
        if session != self.cluster.session {
            return;
        }
        let mut settled = Vec::new();
        self.outbox.reply(sent, reply, self.now, 0.5, &mut settled);
        for settled in settled {
            let waiter = settled.waiter.expect("every request has a waiter");
            let before = self.outcomes.insert(waiter.clone(), settled.outcome);
            assert!(before.is_none(), "{waiter} was settled twice");
        }
    }

    fn change_session(&mut self) {
        if self.outbox.needs_session() {
            self.cluster.session += 1;
            self.outbox.session_changed();
        }
    }

    /// Makes one step of kind `what`. `pick` chooses among the copies or answers that it may concern.
    fn step(&mut self, what: u8, pick: usize) {
        match what {
            0..=3 => self.submit(u32::try_from(pick % 2).unwrap()),
            4..=7 => self.take(1 + pick % 5),
            // A copy arrives: mostly the oldest, sometimes any.
            8..=15 if !self.in_flight.is_empty() => {
                let at = if what < 14 { 0 } else { pick % self.in_flight.len() };
                let copy = self.in_flight.remove(at);
                let reply = self.cluster.decide(&copy);
                self.answers.push((copy.sent, copy.session, reply));
            }
            16..=21 if !self.answers.is_empty() => {
                let at = if what < 20 { 0 } else { pick % self.answers.len() };
                let (sent, session, reply) = self.answers.remove(at);
                self.answer(sent, session, reply);
            }
            // The node gives up on a copy that stays in flight, or proves that the copy is gone.
            22 if !self.in_flight.is_empty() => {
                let copy = self.in_flight[pick % self.in_flight.len()].clone();
                self.answer(copy.sent, copy.session, Reply::Unknown { after: Duration::ZERO });
            }
            23 if !self.in_flight.is_empty() => {
                let copy = self.in_flight.remove(pick % self.in_flight.len());
                self.answer(copy.sent, copy.session, Reply::NotSent { after: Duration::from_millis(5) });
            }
            // A connection breaks: copies in flight may arrive or not, answers are lost or late.
            24 => {
                for room in self.outbox.keys().collect::<Vec<_>>() {
                    self.outbox.lost(room);
                }
                if pick.is_multiple_of(2) {
                    self.answers.clear();
                }
                if pick.is_multiple_of(3) {
                    self.in_flight.truncate(pick % 4);
                }
            }
            25 => self.now += Duration::from_millis(u64::try_from(pick % 200).unwrap()),
            _ => {}
        }
        self.change_session();
    }

    /// From here on nothing fails: every request must be settled.
    fn heal(&mut self) {
        self.cluster.closed.clear();
        for room in self.outbox.keys().collect::<Vec<_>>() {
            self.outbox.lost(room);
        }
        self.change_session();
        for _ in 0..200 {
            if self.outbox.unsettled_count() == 0 {
                return;
            }
            self.now += Duration::from_secs(6);
            self.take(1_000);
            for copy in std::mem::take(&mut self.in_flight) {
                let reply = self.cluster.decide(&copy);
                self.answer(copy.sent, copy.session, reply);
                self.change_session();
            }
        }
        panic!("{} requests are never settled: {:?}", self.outbox.unsettled_count(), self.outbox);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever the network does, each request takes effect once and in order, and its waiter gets the ack.
    #[test]
    fn every_request_takes_effect_once_and_in_order(
        steps in proptest::collection::vec((0_u8..26, 0_usize..1_000), 0..150)
    ) {
        let mut world = World::new();
        for (what, pick) in steps {
            world.step(what, pick);
        }
        world.heal();
        for (room, texts) in &world.submitted {
            prop_assert_eq!(&world.cluster.events[room], texts);
            for text in texts {
                let Some(Ok(ack)) = world.outcomes.get(text) else { panic!("{text} has no tick") };
                let at = usize::try_from(ack.seq).unwrap() - 1;
                prop_assert_eq!(&world.cluster.events[room][at], text);
            }
        }
        prop_assert_eq!(world.cluster.session, 0, "nothing was wrong with the session");
    }

    /// A room that does not exist yet: a request is refused or takes effect once, and no request gets stuck.
    #[test]
    fn refusals_leave_no_gap(
        before in proptest::collection::vec((0_u8..26, 0_usize..1_000), 0..100),
        after in proptest::collection::vec((0_u8..26, 0_usize..1_000), 0..100),
    ) {
        let mut world = World::new();
        world.cluster.closed = vec![0];
        for (what, pick) in before {
            world.step(what, pick);
        }
        // Copies in flight count as refused: a copy that arrives after the room was created would be accepted although
        // a later copy was refused. The client cannot prevent that.
        world.in_flight.retain(|copy| copy.sent.room.0 != 0);
        world.cluster.closed.clear();
        for (what, pick) in after {
            world.step(what, pick);
        }
        world.heal();
        for (room, texts) in &world.submitted {
            let events = world.cluster.events.get(room).cloned().unwrap_or_default();
            let mut expected = Vec::new();
            for text in texts {
                match &world.outcomes[text] {
                    Ok(ack) => {
                        let at = usize::try_from(ack.seq).unwrap() - 1;
                        prop_assert_eq!(&events[at], text);
                        expected.push(text.clone());
                    }
                    Err(SendError::Refused { .. }) => prop_assert_eq!(*room, 0),
                    Err(other) => panic!("{other}"),
                }
            }
            prop_assert_eq!(events, expected);
        }
    }

    /// Another client uses the session's numbers: every request still gets one ack, and none gets stuck.
    #[test]
    fn a_session_that_two_clients_use_is_replaced(
        steps in proptest::collection::vec((0_u8..27, 0_usize..1_000), 0..150)
    ) {
        let mut world = World::new();
        for (what, pick) in steps {
            if what < 26 {
                world.step(what, pick);
                continue;
            }
            let room = u32::try_from(pick % 2).unwrap();
            let key = (world.cluster.session, room);
            let decided = &mut world.cluster.decided.entry(key).or_default().by_number;
            let next = decided.last_key_value().map_or(1, |(last, _)| last + 1);
            decided.insert(next, (format!("somebody else's {pick}"), 0));
        }
        world.heal();
        for text in world.submitted.values().flatten() {
            prop_assert!(matches!(world.outcomes.get(text), Some(Ok(_))), "{} has no tick", text);
        }
    }

    /// Restored requests are pending and are sent under the same numbers.
    #[test]
    fn a_restored_outbox_continues_under_the_same_numbers(
        settled in proptest::collection::vec(any::<bool>(), 0..40), first in 1_u64..50
    ) {
        let mut outbox: Requests<()> = Requests::new(true);
        let room = outbox.restore_room("general", first, first - 1);
        for (number, settled) in (first..).zip(&settled) {
            outbox.restore(room, Content::Text(number.to_string()), *settled);
        }
        let open: Vec<u64> = (first..).zip(&settled).filter(|(_, done)| !**done).map(|(number, _)| number).collect();
        prop_assert_eq!(outbox.pending().iter().map(|p| p.request_no).collect::<Vec<_>>(), open.clone());
        let now = Instant::now();
        let mut sent = Vec::new();
        while outbox.ready(room, now) {
            let Some((copy, request)) = outbox.take(room) else { break };
            prop_assert_eq!(text(&request), copy.number.to_string());
            sent.push(copy.number);
        }
        prop_assert_eq!(sent, open);
        prop_assert_eq!(outbox.submit(room, Content::Text("next".into()), ()), first + settled.len() as u64);
        prop_assert!(!outbox.ready(room, now), "not sent before it is on disk");
    }
}

#[test]
fn no_more_requests_are_in_flight_than_replies_are_kept() {
    let mut outbox: Requests<()> = Requests::new(false);
    let room = outbox.room("general");
    for _ in 0..1_000 {
        outbox.submit(room, Content::Text("x".into()), ());
    }
    let mut taken = Vec::new();
    while let Some((sent, _)) = outbox.take(room) {
        taken.push(sent);
    }
    assert_eq!(taken.len(), conclave_core::limits::STORED_REPLIES_MAX);
    let now = Instant::now();
    assert!(!outbox.ready(room, now));
    let mut settled = Vec::new();
    outbox.reply(taken[1], Reply::Acked(Ack::default()), now, 0.0, &mut settled);
    assert!(!outbox.ready(room, now), "the oldest request has no answer yet");
    outbox.reply(taken[0], Reply::Acked(Ack::default()), now, 0.0, &mut settled);
    assert_eq!(outbox.take(room).unwrap().1.settled_no, 2);
}
