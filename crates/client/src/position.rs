//! The positions of a subscription, and which events follow them. Pure.
//!
//! What must stay true: an event is accepted only if its seq is the room's last seq plus one. Whatever a node sends, no
//! event is delivered twice or skipped silently.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::chat::{
    CaughtUp, JoinChatRequest, RoomPosition, RoomRef, RoomSubscription, room_subscription,
};

use prost::DecodeError;

use crate::types::{Follow, Start};

/// A node sent a frame that does not follow. The stream cannot be trusted and is reopened at another node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SequenceError {
    #[error("room {room_id}: expected event {expected}, received event {got}")]
    Event { room_id: u64, got: u64, expected: u64 },
    #[error("the events are damaged: {0}")]
    Damaged(#[from] DecodeError),
    #[error("the node lacks events, or is leaving")]
    CannotServe,
}

/// The position of a subscription in each of its rooms.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    follows: Vec<Follow>,
    /// The newest token of the stream, or the token to start with.
    token: Bytes,
    rooms: BTreeMap<u64, Room>,
    /// Whether it started with a token, which may cover more rooms than `follows`.
    resumed: bool,
    /// Whether the token is one that the stream has given.
    begun: bool,
    /// Whether every room's position is known, so that the positions alone are enough to resume.
    complete: bool,
    /// The code with which the last room was closed; empty if none was.
    closed: String,
}

#[derive(Clone, Debug)]
struct Room {
    seq: u64,
    name: Option<Arc<str>>,
}

impl Positions {
    pub(crate) fn new(follows: Vec<Follow>, token: Bytes) -> Self {
        let resumed = !token.is_empty();
        Self {
            follows,
            token,
            rooms: BTreeMap::new(),
            resumed,
            begun: false,
            complete: false,
            closed: String::new(),
        }
    }

    /// The request that starts or resumes the stream.
    pub(crate) fn request(&self) -> JoinChatRequest {
        if self.complete {
            let rooms = self.rooms.iter().map(|(&id, room)| RoomSubscription {
                room: Some(RoomRef { name: room.name.as_deref().unwrap_or_default().to_owned(), id }),
                join: false,
                start: Some(room_subscription::Start::AfterSeq(room.seq)),
            });
            return JoinChatRequest { rooms: rooms.collect(), resume_token: Bytes::new() };
        }
        // A token of the stream covers all of its rooms.
        let follows: &[Follow] = if self.begun { &[] } else { &self.follows };
        let rooms = follows.iter().map(|follow| RoomSubscription {
            room: Some(RoomRef { name: follow.room.clone(), id: 0 }),
            join: follow.join,
            start: match follow.from {
                Start::Now => None,
                Start::Last(count) => Some(room_subscription::Start::Last(count)),
                Start::After(seq) => Some(room_subscription::Start::AfterSeq(seq)),
            },
        });
        JoinChatRequest { rooms: rooms.collect(), resume_token: self.token.clone() }
    }

    /// The planted bug `FollowOffByOne`: resumes at the last event instead of after it, and accepts the repeat.
    #[cfg(debug_assertions)]
    pub(crate) fn off_by_one(&mut self) {
        use conclave_core::planted::{Bug, planted};
        if self.complete && planted(Bug::FollowOffByOne) {
            self.rooms.values_mut().for_each(|room| room.seq = room.seq.saturating_sub(1));
        }
    }

    /// Accepts events (room id, seq) if they follow. If one does not follow, none of them is accepted.
    pub(crate) fn accept(
        &mut self,
        events: impl Iterator<Item = Result<(u64, u64), DecodeError>>,
        token: &Bytes,
    ) -> Result<(), SequenceError> {
        // The room of the current run of events, and its next seq. Events of one room usually stand together.
        let mut run: Option<(u64, u64)> = None;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for event in events {
            let (room_id, seq) = event?;
            let expected = match run {
                Some((room, next)) if room == room_id => next,
                _ => {
                    runs.extend(run);
                    let earlier = runs.iter().rev().find(|(room, _)| *room == room_id);
                    earlier.map_or_else(|| self.expected(room_id, seq), |(_, next)| *next)
                }
            };
            if seq != expected {
                return Err(SequenceError::Event { room_id, got: seq, expected });
            }
            run = Some((room_id, seq + 1));
        }
        for (room_id, next) in runs.into_iter().chain(run) {
            match self.rooms.get_mut(&room_id) {
                Some(room) => room.seq = next - 1,
                None => {
                    let name = self
                        .only_room()
                        .filter(|_| self.rooms.is_empty())
                        .map(|only| only.room.as_str().into());
                    self.rooms.insert(room_id, Room { seq: next - 1, name });
                }
            }
        }
        self.set_token(token);
        Ok(())
    }

    /// The expected next seq of a room; `got` if nothing is known of the room yet.
    fn expected(&self, room_id: u64, got: u64) -> u64 {
        match (self.rooms.get(&room_id), self.only_room()) {
            (Some(room), _) => room.seq + 1,
            (None, Some(Follow { from: Start::After(seq), .. })) if self.rooms.is_empty() => seq + 1,
            (None, _) => got,
        }
    }

    /// The followed room, if it is certainly the only one of the stream: then every event belongs to it.
    fn only_room(&self) -> Option<&Follow> {
        match self.follows.as_slice() {
            [only] if !self.resumed => Some(only),
            _ => None,
        }
    }

    /// Handles the node's claim that everything up to these positions was delivered.
    pub(crate) fn caught_up(&mut self, rooms: &[RoomPosition], token: &Bytes) -> Result<(), SequenceError> {
        for position in rooms {
            let name = (!position.name.is_empty()).then(|| position.name.as_str().into());
            match self.rooms.get_mut(&position.room_id) {
                Some(room) if room.seq < position.seq => {
                    let (got, expected) = (position.seq, room.seq);
                    return Err(SequenceError::Event { room_id: position.room_id, got, expected });
                }
                Some(room) => room.name = name.or(room.name.take()),
                None => {
                    self.rooms.insert(position.room_id, Room { seq: position.seq, name });
                }
            }
        }
        self.complete = self.complete || !rooms.is_empty();
        self.set_token(token);
        Ok(())
    }

    /// Handles that the events before `first_seq` were deleted.
    pub(crate) fn truncated(&mut self, room_id: u64, first_seq: u64) {
        let room = self.rooms.entry(room_id).or_insert(Room { seq: 0, name: None });
        room.seq = room.seq.max(first_seq.saturating_sub(1));
    }

    /// Handles that nothing more of a room may be seen.
    pub(crate) fn close(&mut self, room_id: u64, code: &str, token: &Bytes) {
        self.rooms.remove(&room_id);
        code.clone_into(&mut self.closed);
        self.set_token(token);
    }

    /// The code with which the last room was closed, if every room of which anything was heard is closed. If the node then
    /// refuses to go on, none is left.
    pub(crate) fn closed(&self) -> Option<&str> {
        (self.rooms.is_empty() && !self.closed.is_empty()).then_some(self.closed.as_str())
    }

    /// The code with which the last room was closed, if no room is left.
    pub(crate) fn over(&self) -> Option<&str> {
        self.closed().filter(|_| self.complete)
    }

    /// Sets a newer token.
    pub(crate) fn set_token(&mut self, token: &Bytes) {
        if !token.is_empty() {
            self.token = token.clone();
            self.begun = true;
        }
    }

    /// The token that resumes after all accepted events.
    pub(crate) fn token(&self) -> &Bytes {
        &self.token
    }

    /// The last accepted event of each room (room id, seq).
    pub(crate) fn seqs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.rooms.iter().map(|(&id, room)| (id, room.seq))
    }

    /// Whether every room's position is known, so that another stream can be opened at exactly the next events.
    pub(crate) fn complete(&self) -> bool {
        self.complete
    }

    /// The seq of the last accepted event of a room; 0 if there is none.
    pub(crate) fn seq(&self, room_id: u64) -> u64 {
        self.rooms.get(&room_id).map_or(0, |room| room.seq)
    }

    /// The positions as the `CaughtUp` frame of a node.
    pub(crate) fn as_caught_up(&self) -> CaughtUp {
        let position = |(&room_id, room): (&u64, &Room)| RoomPosition {
            room_id,
            name: room.name.as_deref().unwrap_or_default().to_owned(),
            seq: room.seq,
        };
        CaughtUp { rooms: self.rooms.iter().map(position).collect(), resume_token: self.token.clone() }
    }

    /// The room's name, if it is known.
    pub(crate) fn name(&self, room_id: u64) -> Option<Arc<str>> {
        self.rooms.get(&room_id)?.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(room_id: u64, name: &str, seq: u64) -> RoomPosition {
        RoomPosition { room_id, name: name.into(), seq }
    }

    #[test]
    fn the_first_event_must_follow_what_was_asked_for() {
        let follow = || vec![Follow::room("general").from(Start::After(4))];
        let mut positions = Positions::new(follow(), Bytes::new());
        assert!(positions.accept([(7, 6)].map(Ok).into_iter(), &Bytes::new()).is_err());
        assert!(positions.accept([(7, 5), (7, 6)].map(Ok).into_iter(), &Bytes::new()).is_ok());
        assert!(positions.accept([(7, 6)].map(Ok).into_iter(), &Bytes::new()).is_err(), "a repeat");
        assert!(positions.accept([(7, 8)].map(Ok).into_iter(), &Bytes::new()).is_err(), "a gap");
        assert_eq!(positions.name(7).as_deref(), Some("general"));
    }

    #[test]
    fn a_subscription_resumes_from_positions_once_all_are_known() {
        let mut positions = Positions::new(vec![Follow::room("a").join(), Follow::room("b")], Bytes::new());
        assert!(positions.request().rooms[0].join);
        positions.accept([(1, 3)].map(Ok).into_iter(), &Bytes::from_static(b"t1")).unwrap();
        let request = positions.request();
        assert_eq!(
            (request.rooms.len(), &request.resume_token[..]),
            (0, &b"t1"[..]),
            "the token knows both rooms"
        );
        positions.caught_up(&[at(1, "a", 3), at(2, "b", 9)], &Bytes::from_static(b"t2")).unwrap();
        positions.accept([(2, 10)].map(Ok).into_iter(), &Bytes::from_static(b"t3")).unwrap();
        let request = positions.request();
        assert!(request.resume_token.is_empty());
        let starts: Vec<_> =
            request.rooms.iter().map(|r| (r.room.as_ref().unwrap().id, r.start, r.join)).collect();
        let after = |seq| Some(room_subscription::Start::AfterSeq(seq));
        assert_eq!(starts, [(1, after(3), false), (2, after(10), false)]);
    }

    #[test]
    fn a_stream_that_broke_after_a_room_was_closed_does_not_begin_again() {
        let follow = vec![Follow::room("left").from(Start::After(0)), Follow::room("quiet")];
        let mut positions = Positions::new(follow, Bytes::new());
        positions.accept([(1, 1)].map(Ok).into_iter(), &Bytes::from_static(b"t1")).unwrap();
        positions.close(1, "not_a_member", &Bytes::from_static(b"t2"));
        let request = positions.request();
        assert_eq!((request.rooms.len(), &request.resume_token[..]), (0, &b"t2"[..]));
        assert_eq!((positions.closed(), positions.over()), (Some("not_a_member"), None));
        positions.caught_up(&[at(2, "quiet", 9)], &Bytes::from_static(b"t3")).unwrap();
        assert_eq!(positions.closed(), None, "the other room goes on");
        positions.close(2, "banned", &Bytes::from_static(b"t4"));
        assert_eq!(positions.over(), Some("banned"));
    }

    #[test]
    fn a_caught_up_frame_that_skips_events_is_refused() {
        let mut positions = Positions::new(vec![Follow::room("a")], Bytes::new());
        positions.caught_up(&[at(1, "a", 3)], &Bytes::new()).unwrap();
        assert!(positions.caught_up(&[at(1, "a", 5)], &Bytes::new()).is_err());
        positions.truncated(1, 10);
        positions.accept([(1, 10)].map(Ok).into_iter(), &Bytes::new()).unwrap();
    }

    proptest! {
        /// Whatever a node sends, each room's events are accepted once and in order.
        #[test]
        fn only_the_next_event_is_accepted(
            frames in proptest::collection::vec((1_u64..3, proptest::collection::vec(1_u64..8, 1..4)), 0..60)
        ) {
            let mut positions = Positions::new(vec![Follow::room("a"), Follow::room("b")], Bytes::new());
            positions.caught_up(&[at(1, "a", 0), at(2, "b", 0)], &Bytes::new()).unwrap();
            let mut delivered: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (room, seqs) in frames {
                if positions.accept(seqs.iter().map(|&seq| Ok((room, seq))), &Bytes::new()).is_ok() {
                    delivered.entry(room).or_default().extend(seqs);
                }
            }
            for (room, seqs) in delivered {
                prop_assert_eq!(&seqs, &(1..=seqs.len() as u64).collect::<Vec<_>>());
                prop_assert!(positions.seqs().any(|(id, seq)| id == room && seq == seqs.len() as u64));
            }
        }
    }
}
