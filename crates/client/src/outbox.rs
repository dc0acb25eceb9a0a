//! The outbox: what to send next, and what a reply means. Pure: no I/O, no clock, no randomness.
//!
//! What must stay true:
//!
//! * Numbers of a room are assigned without gaps, and a number keeps its content until it is settled.
//! * A request is *settled* when its final answer, an ack or a refusal, arrives: exactly once, with exactly one
//!   outcome. The exception is a request that can provably never be applied under its number; it gets another number.
//! * Any other answer leads to sending the same number again.
//!
//! The session is replaced only when it has proven unusable: another client used its numbers, or the cluster has lost
//! the replies that it had. Before that, every request that was ever sent is settled or proven never to be applied; the
//! rest gets numbers of the new session.

mod room;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use conclave_proto::chat::{SendMessageRequest, send_message_request};
use tokio::time::Instant;

use crate::SendError;
use crate::retry::Reply;
use crate::types::{Ack, Content, Pending, Position};
use room::{ItemStatus, Room};

/// Index of a room in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoomKey(pub(crate) u32);

/// One copy of a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentCopy {
    pub(crate) room: RoomKey,
    pub(crate) number: u64,
    epoch: u32,
}

/// A request that has been settled.
#[derive(Debug)]
pub(crate) struct Settled<W> {
    pub(crate) room: RoomKey,
    pub(crate) number: u64,
    /// Whether the cluster has used up the number.
    pub(crate) consumed: bool,
    pub(crate) waiter: Option<W>,
    pub(crate) outcome: Result<Ack, SendError>,
    /// The content of a request that was refused while nobody waited for it.
    pub(crate) lost: Option<Content>,
}

/// The effect of a reply beside the requests that it settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// The room sends again from its oldest request without an answer. Another node may do better.
    pub(crate) rewound: bool,
    /// Requests got new numbers: a durable outbox must be rewritten before anything is sent.
    pub(crate) renumbered: bool,
}

/// All requests of one session that are not settled.
#[derive(Debug)]
pub(crate) struct Requests<W> {
    rooms: Vec<Room<W>>,
    by_name: HashMap<Arc<str>, RoomKey>,
    durable: bool,
    /// The session is being replaced; no request is sent for the first time.
    moving: bool,
    unsettled_count: usize,
    /// The seq of the last event that a consumer is done with, by room id.
    positions: BTreeMap<u64, u64>,
    /// Those of `positions` that are on disk.
    positions_stored: BTreeMap<u64, u64>,
}

impl<W> Requests<W> {
    /// An empty outbox. If `durable`, requests are sent only after [`Requests::stored`].
    pub(crate) fn new(durable: bool) -> Self {
        Self {
            rooms: Vec::new(),
            by_name: HashMap::new(),
            durable,
            moving: false,
            unsettled_count: 0,
            positions: BTreeMap::new(),
            positions_stored: BTreeMap::new(),
        }
    }

    /// The room of that name.
    pub(crate) fn room(&mut self, name: &str) -> RoomKey {
        match self.by_name.get(name) {
            Some(&key) => key,
            None => self.restore_room(name, 1, 0),
        }
    }

    /// Restores a room from the outbox file: its next number, and the last number known to be used up.
    pub(crate) fn restore_room(&mut self, name: &str, next: u64, decided: u64) -> RoomKey {
        let name: Arc<str> = name.into();
        let key = RoomKey(u32::try_from(self.rooms.len()).expect("an outbox has fewer rooms than a u32"));
        let mut room = Room::new(Arc::clone(&name), next, decided, !self.durable);
        // Copies that the earlier process sent may still arrive at the cluster.
        room.in_doubt_upto = next - 1;
        self.rooms.push(room);
        self.by_name.insert(name, key);
        key
    }

    /// Restores a request from the outbox file under the next number of its room. It may have been sent, and is settled
    /// if `settled`.
    pub(crate) fn restore(&mut self, room: RoomKey, content: Content, settled: bool) {
        let room = &mut self.rooms[index(room)];
        let number = room.push(content, None);
        room.stored = room.stored.max(number);
        room.ever_sent = number;
        room.in_doubt_upto = number;
        if settled {
            room.items.back_mut().expect("it was just pushed").status = ItemStatus::Decided;
            room.settle_front();
            room.settled_stored = room.settled_stored.max(room.settled());
        } else {
            self.unsettled_count += 1;
        }
    }

    /// Adds a request. Returns its number.
    pub(crate) fn submit(&mut self, room: RoomKey, content: Content, waiter: W) -> u64 {
        self.unsettled_count += 1;
        self.rooms[index(room)].push(content, Some(waiter))
    }

    /// Removes every request that could not be stored; none of them was sent. Returns their waiters.
    pub(crate) fn drop_unstored(&mut self) -> Vec<W> {
        let mut waiters = Vec::new();
        for room in &mut self.rooms {
            while room.next() - 1 > room.stored {
                let Some(item) = room.items.pop_back() else { break };
                self.unsettled_count -= 1;
                waiters.extend(item.waiter);
            }
        }
        waiters
    }

    /// The positions of a consumer, by room id.
    pub(crate) fn positions(&self) -> &BTreeMap<u64, u64> {
        &self.positions
    }

    /// Moves a consumer's position forward.
    pub(crate) fn reach(&mut self, room_id: u64, seq: u64) {
        let position = self.positions.entry(room_id).or_default();
        *position = seq.max(*position);
        if !self.durable {
            self.positions_stored.insert(room_id, *position);
        }
    }

    /// Forgets the positions for which this is false.
    pub(crate) fn retain_positions(&mut self, keep: impl Fn(Position) -> bool) {
        for positions in [&mut self.positions, &mut self.positions_stored] {
            positions.retain(|&room_id, &mut seq| keep(Position { room_id, seq }));
        }
    }

    /// Records that these positions are on disk.
    pub(crate) fn positions_stored(&mut self, positions: impl IntoIterator<Item = (u64, u64)>) {
        for (room_id, seq) in positions {
            let known = self.positions_stored.entry(room_id).or_default();
            *known = seq.max(*known);
        }
    }

    /// Forgets positions that could not be stored.
    pub(crate) fn drop_unstored_positions(&mut self) {
        self.positions.clone_from(&self.positions_stored);
    }

    /// Whether it is on disk that a consumer has come this far.
    pub(crate) fn has_stored(&self, room_id: u64, seq: u64) -> bool {
        self.positions_stored.get(&room_id).is_some_and(|stored| *stored >= seq)
    }

    /// Records that the room's requests up to this number are on disk.
    pub(crate) fn stored(&mut self, room: RoomKey, number: u64) {
        let room = &mut self.rooms[index(room)];
        room.stored = room.stored.max(number);
    }

    /// Records that the settlements of the room's requests up to this number are on disk.
    pub(crate) fn settled_stored(&mut self, room: RoomKey, number: u64) {
        let room = &mut self.rooms[index(room)];
        room.settled_stored = room.settled_stored.max(number);
    }

    /// Whether the room has something to send at this time.
    pub(crate) fn ready(&self, room: RoomKey, now: Instant) -> bool {
        let room = &self.rooms[index(room)];
        room.wants_to_send(self.moving) && room.not_before.is_none_or(|at| at <= now)
    }

    /// When the room may send again, if it has something to send and must wait.
    pub(crate) fn held_until(&self, room: RoomKey) -> Option<Instant> {
        let room = &self.rooms[index(room)];
        room.not_before.filter(|_| room.wants_to_send(self.moving))
    }

    /// Takes the room's next request to send.
    pub(crate) fn take(&mut self, key: RoomKey) -> Option<(SentCopy, SendMessageRequest)> {
        let room = &mut self.rooms[index(key)];
        let (number, request) = room.take(self.moving)?;
        Some((SentCopy { room: key, number, epoch: room.epoch }, request))
    }

    /// Failures of the room since its last final answer.
    pub(crate) fn failures(&self, room: RoomKey) -> u32 {
        self.rooms[index(room)].failures
    }

    /// Whether the room has requests in flight in its current epoch.
    pub(crate) fn has_in_flight(&self, room: RoomKey) -> bool {
        self.rooms[index(room)].in_flight > 0
    }

    /// Begins a new epoch because the room's connection broke or another one is raced with it. Returns whether requests
    /// got new numbers.
    pub(crate) fn lost(&mut self, room: RoomKey) -> bool {
        self.rooms[index(room)].rewind();
        self.close_gap(room)
    }

    /// Applies the reply to one copy.
    pub(crate) fn reply(
        &mut self,
        sent: SentCopy,
        reply: Reply,
        now: Instant,
        random: f64,
        out: &mut Vec<Settled<W>>,
    ) -> Effect {
        let room = &mut self.rooms[index(sent.room)];
        let age = room.epoch.wrapping_sub(sent.epoch);
        let current = age == 0;
        // The numbers have changed their meaning since this copy was sent.
        if age > room.epoch.wrapping_sub(room.epoch_valid_from) {
            return Effect::default();
        }
        if current {
            room.in_flight = room.in_flight.saturating_sub(1);
        }
        match reply {
            Reply::Acked(ack) => {
                if ack.room_id != 0 {
                    room.id = ack.room_id;
                }
                self.decide(sent, true, Ok(ack), out);
            }
            Reply::Refused { code, message, number_used: consumed } => {
                // A refusal that did not use up the number says nothing about a later copy.
                if consumed || current {
                    self.decide(sent, consumed, Err(SendError::Refused { code, message }), out);
                }
            }
            Reply::Reused => self.release(sent),
            Reply::OutOfOrder { expected } if current => self.out_of_order(sent, expected, now, random),
            Reply::NotSent { after } | Reply::Unknown { after } if current => {
                // This copy counts as in flight, so that `rewind` marks it as in doubt.
                room.in_flight += 1;
                room.rewind();
                room.hold(after, now, random);
            }
            Reply::Auth { .. } if current => {
                room.rewind();
                room.hold(conclave_core::limits::RETRY_DELAY_MIN, now, random);
            }
            Reply::OutOfOrder { .. } | Reply::NotSent { .. } | Reply::Unknown { .. } | Reply::Auth { .. } => {
            }
        }
        let room = &self.rooms[index(sent.room)];
        let rewound = room.epoch.wrapping_sub(sent.epoch) != age;
        Effect { rewound, renumbered: self.close_gap(sent.room) }
    }

    fn decide(
        &mut self,
        sent: SentCopy,
        consumed: bool,
        outcome: Result<Ack, SendError>,
        out: &mut Vec<Settled<W>>,
    ) {
        let room = &mut self.rooms[index(sent.room)];
        if consumed {
            room.decided = room.decided.max(sent.number);
            room.failures = 0;
            room.not_before = None;
            // A later number was decided, so the number of the gap was used up after all.
            if room.gap.is_some_and(|gap| gap <= sent.number) {
                room.gap = None;
            }
        }
        let Some(item) = room.item(sent.number).filter(|item| item.status != ItemStatus::Decided) else {
            return;
        };
        item.status = ItemStatus::Decided;
        let waiter = item.waiter.take();
        let lost = (waiter.is_none() && outcome.is_err()).then(|| Content::from_wire(item.content.clone()));
        if !consumed && room.decided < sent.number {
            room.gap = Some(room.gap.map_or(sent.number, |gap| gap.min(sent.number)));
        }
        room.settle_front();
        self.unsettled_count -= 1;
        out.push(Settled { room: sent.room, number: sent.number, consumed, waiter, outcome, lost });
    }

    /// The number belongs to another client's request: the request needs another number.
    fn release(&mut self, sent: SentCopy) {
        let room = &mut self.rooms[index(sent.room)];
        if let Some(item) = room.item(sent.number).filter(|item| item.status == ItemStatus::Pending) {
            item.status = ItemStatus::Released;
            room.decided = room.decided.max(sent.number);
            self.moving = true;
        }
    }

    fn out_of_order(&mut self, sent: SentCopy, expected: u64, now: Instant, random: f64) {
        let moving = self.moving;
        let room = &mut self.rooms[index(sent.room)];
        let oldest = room.unsettled().map(|(number, _)| number).next().unwrap_or(room.next());
        let had_lost = expected <= room.decided_at_start;
        room.rewind();
        if had_lost {
            // The cluster asks for a number that it had decided before this request was sent: it has lost that record.
            self.release_from(sent.room, expected);
            self.moving = true;
        } else if expected < oldest && expected > room.decided {
            // The refused requests in between did not use up their numbers.
            room.gap = Some(expected);
        } else if moving && room.items.iter().any(|item| item.status == ItemStatus::Released) {
            self.release_from(sent.room, expected);
        } else {
            room.hold(std::time::Duration::ZERO, now, random);
        }
    }

    fn release_from(&mut self, room: RoomKey, number: u64) {
        let room = &mut self.rooms[index(room)];
        let first = room.first;
        for (at, item) in (first..).zip(&mut room.items) {
            if at >= number && item.status == ItemStatus::Pending {
                item.status = ItemStatus::Released;
            }
        }
    }

    /// Closes the gap that a refused request left, once nothing is in flight. Returns whether requests got new numbers.
    fn close_gap(&mut self, key: RoomKey) -> bool {
        let room = &mut self.rooms[index(key)];
        let Some(gap) = room.gap.filter(|_| room.in_flight == 0) else { return false };
        if room.unsettled().next().is_some_and(|(number, _)| number < gap) {
            return false;
        }
        if room.items.is_empty() || !room.in_doubt_from(gap) {
            room.renumber(gap, self.durable);
            return true;
        }
        // A copy with a higher number may still arrive, and would be applied once its number is the next.
        room.gap = None;
        self.release_from(key, 0);
        self.moving = true;
        false
    }

    /// Whether a new session is needed, and every request that the old one could still decide is settled.
    pub(crate) fn needs_session(&self) -> bool {
        self.moving && self.rooms.iter().all(Room::drained)
    }

    /// Renumbers all requests for a new session. A durable outbox must be rewritten before anything is sent.
    pub(crate) fn session_changed(&mut self) {
        for room in &mut self.rooms {
            room.renumber(1, self.durable);
            room.decided = 0;
            room.decided_at_start = 0;
        }
        self.moving = false;
    }

    /// Sends nothing until there is a session. All requests get the numbers of that session.
    pub(crate) fn await_session(&mut self) {
        self.session_changed();
        self.moving = true;
    }

    /// Removes the waiters of all unsettled requests; the requests stay.
    pub(crate) fn take_waiters(&mut self) -> Vec<W> {
        self.rooms.iter_mut().flat_map(|room| &mut room.items).filter_map(|item| item.waiter.take()).collect()
    }

    /// The number of requests that are not settled.
    pub(crate) fn unsettled_count(&self) -> usize {
        self.unsettled_count
    }

    /// The keys of all rooms.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RoomKey> + use<W> {
        let len = u32::try_from(self.rooms.len()).unwrap_or(u32::MAX);
        (0..len).map(RoomKey)
    }

    /// The room's name.
    pub(crate) fn name(&self, room: RoomKey) -> &Arc<str> {
        &self.rooms[index(room)].name
    }

    /// The feature level that the request needs; `None` if it is settled.
    pub(crate) fn level(&self, sent: SentCopy) -> Option<u32> {
        let room = &self.rooms[index(sent.room)];
        let mut pending = room.unsettled().filter(|_| sent.epoch == room.epoch);
        let (_, item) = pending.find(|(number, _)| *number == sent.number)?;
        Some(Content::from_wire(item.content.clone()).level())
    }

    /// The room's id; 0 until it is known.
    pub(crate) fn id(&self, room: RoomKey) -> u64 {
        self.rooms[index(room)].id
    }

    /// The room's next number, and the last number known to be used up.
    pub(crate) fn position(&self, room: RoomKey) -> (u64, u64) {
        let room = &self.rooms[index(room)];
        (room.next(), room.decided)
    }

    /// The number up to which all of the room's requests are settled.
    pub(crate) fn settled(&self, room: RoomKey) -> u64 {
        self.rooms[index(room)].settled()
    }

    /// The requests from the first unsettled one on: number, content, and whether each is settled.
    pub(crate) fn unsettled(
        &self,
        room: RoomKey,
    ) -> impl Iterator<Item = (u64, send_message_request::Content, bool)> + '_ {
        let room = &self.rooms[index(room)];
        let items = (room.first..).zip(&room.items);
        items.map(|(number, item)| (number, item.content.clone(), item.status == ItemStatus::Decided))
    }

    /// The unsettled requests with their numbers, in order within each room.
    pub(crate) fn pending(&self) -> Vec<Pending> {
        let of = |room: &Room<W>| {
            let name = room.name.to_string();
            room.unsettled()
                .map(|(request_no, item)| Pending {
                    room: name.clone(),
                    request_no,
                    content: Content::from_wire(item.content.clone()),
                })
                .collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(of).collect()
    }
}

fn index(key: RoomKey) -> usize {
    usize::try_from(key.0).unwrap_or(usize::MAX)
}
