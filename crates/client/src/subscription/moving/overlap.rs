//! Two streams of the same rooms, read side by side until the second one can take over from the first. Pure.
//!
//! What must stay true: what the second one has brought beyond the first is at most one batch, and it is kept. So at
//! the moment when the second one has all that the first one has, it can take over with nothing lost or repeated.

use std::collections::VecDeque;

use conclave_proto::chat::{StreamFrame, stream_frame};
use prost::DecodeError;

use crate::position::{Misplaced, Positions};
use crate::raw::{Frame, RawBatch};

/// How far the second stream is.
#[derive(Debug)]
pub(super) struct Overlap {
    /// Up to where it has been read.
    positions: Positions,
    /// What it has brought beyond the first one.
    ahead: Option<RawBatch>,
    /// It has said that it has brought everything there was.
    caught_up: bool,
}

/// What to do with the second stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverlapStep {
    /// Read from it.
    Read,
    /// Wait: it is ahead in one room and behind in another, and the first stream will make up for that.
    Wait,
    /// Let it take over.
    TakeOver,
}

impl Overlap {
    /// A stream that was asked for what follows `positions`.
    pub(super) fn new(positions: Positions) -> Self {
        Self { positions, ahead: None, caught_up: false }
    }

    /// What to do, with the first stream at `positions`.
    pub(super) fn next(&mut self, positions: &Positions) -> OverlapStep {
        self.ahead.take_if(|batch| !has_news(batch, positions));
        let behind = |(room, seq): (u64, u64)| self.positions.seq(room) < seq;
        match &self.ahead {
            Some(_) if positions.seqs().any(behind) => OverlapStep::Wait,
            Some(_) => OverlapStep::TakeOver,
            None if self.caught_up && !positions.seqs().any(behind) => OverlapStep::TakeOver,
            None => OverlapStep::Read,
        }
    }

    /// Takes a frame that was read from the second stream.
    pub(super) fn take(&mut self, frame: Frame, positions: &Positions) -> Result<(), Misplaced> {
        match frame {
            Frame::Events(batch) => {
                self.positions.accept(batch.room_seqs(), &batch.token)?;
                if has_news(&batch, positions) {
                    self.ahead = Some(batch);
                }
            }
            Frame::Other(frame) => match frame.frame {
                Some(stream_frame::Frame::CaughtUp(caught_up)) => {
                    self.positions.caught_up(&caught_up.rooms, &caught_up.resume_token)?;
                    self.caught_up = true;
                }
                // It lacks something, or asks to be left: no place to go to.
                Some(stream_frame::Frame::Truncated(_) | stream_frame::Frame::GoAway(_)) => {
                    return Err(Misplaced::CannotServe);
                }
                _ => {}
            },
        }
        Ok(())
    }

    /// What comes before the rest of the second stream when it takes over from a first one at `positions`.
    pub(super) fn first(self, positions: &Positions) -> Result<VecDeque<Frame>, DecodeError> {
        let mut first = VecDeque::new();
        if self.caught_up {
            let frame = Some(stream_frame::Frame::CaughtUp(positions.as_caught_up()));
            first.push_back(Frame::Other(StreamFrame { frame }));
        }
        if let Some(batch) = self.ahead {
            first.push_back(Frame::Events(batch.skip_first(|room, seq| seq <= positions.seq(room))?));
        }
        Ok(first)
    }
}

/// Whether some of these events go beyond `positions`.
fn has_news(batch: &RawBatch, positions: &Positions) -> bool {
    batch.events().any(|event| event.seq > positions.seq(event.room_id))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use conclave_proto::chat::{CaughtUp, Event, EventBatch, RoomPosition};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    const ROOMS: usize = 3;
    const EVENTS: u64 = 40;

    fn caught_up(seqs: [u64; ROOMS]) -> Frame {
        let position = |(room_id, seq)| RoomPosition { room_id, seq, name: String::new() };
        let rooms = (1..).zip(seqs).map(position).collect();
        let frame = Some(stream_frame::Frame::CaughtUp(CaughtUp { rooms, ..CaughtUp::default() }));
        Frame::Other(StreamFrame { frame })
    }

    /// A node's stream: at every step so many events of that room, as far as there are any.
    struct Stream {
        seqs: [u64; ROOMS],
        said: bool,
        plan: std::vec::IntoIter<(usize, u64)>,
    }

    impl Stream {
        fn read(&mut self) -> Option<Frame> {
            for (room, count) in self.plan.by_ref() {
                let last = (self.seqs[room] + count).min(EVENTS);
                let event = |seq| Event { room_id: room as u64 + 1, seq, ..Event::default() };
                let events: Vec<_> = (self.seqs[room] + 1..=last).map(event).collect();
                self.seqs[room] = last;
                if !events.is_empty() {
                    let batch = EventBatch { events, resume_token: Bytes::from_static(b"t") };
                    let frame = StreamFrame { frame: Some(stream_frame::Frame::Events(batch)) };
                    return Frame::decode(frame.encode_to_vec().as_slice()).ok();
                }
            }
            (!std::mem::replace(&mut self.said, true)).then(|| caught_up(self.seqs))
        }
    }

    /// Takes a frame as a subscription does; anything that does not follow is an error.
    fn deliver(frame: Frame, positions: &mut Positions) -> Result<(), Misplaced> {
        match frame {
            Frame::Events(batch) => positions.accept(batch.room_seqs(), &batch.token),
            Frame::Other(StreamFrame { frame: Some(stream_frame::Frame::CaughtUp(caught_up)) }) => {
                positions.caught_up(&caught_up.rooms, &caught_up.resume_token)
            }
            Frame::Other(_) => Ok(()),
        }
    }

    fn plan() -> impl Strategy<Value = Vec<(usize, u64)>> {
        // At the end, everything that there is.
        let everything = (0..ROOMS).map(|room| (room, EVENTS));
        proptest::collection::vec((0..ROOMS, 1_u64..6), 0..60)
            .prop_map(move |steps| steps.into_iter().chain(everything.clone()).collect())
    }

    proptest! {
        /// However the two streams cut and mix their events, and whichever is read when: every event comes once.
        #[test]
        fn nothing_is_lost_or_repeated(
            start in proptest::array::uniform3(0_u64..10),
            old in plan(),
            new in plan(),
            turns in proptest::collection::vec(any::<bool>(), 0..300),
        ) {
            let mut positions = Positions::new(Vec::new(), Bytes::new());
            prop_assert!(deliver(caught_up(start), &mut positions).is_ok());
            let mut overlap = Overlap::new(positions.clone());
            let mut old = Stream { seqs: start, said: true, plan: old.into_iter() };
            let mut new = Stream { seqs: start, said: false, plan: new.into_iter() };
            let mut turns = turns.into_iter();
            let moved = loop {
                let next = overlap.next(&positions);
                if next == OverlapStep::TakeOver {
                    break true;
                }
                let from_new = next == OverlapStep::Read && turns.next().unwrap_or(true);
                match if from_new { new.read() } else { old.read() } {
                    Some(frame) if from_new => prop_assert!(overlap.take(frame, &positions).is_ok()),
                    Some(frame) => prop_assert!(deliver(frame, &mut positions).is_ok()),
                    None if from_new || next == OverlapStep::Wait => break false,
                    None => {}
                }
            };
            prop_assert!(moved, "the two come together once both have brought everything");
            for frame in overlap.first(&positions).unwrap() {
                prop_assert!(deliver(frame, &mut positions).is_ok());
            }
            while let Some(frame) = new.read() {
                prop_assert!(deliver(frame, &mut positions).is_ok());
            }
            prop_assert!(positions.seqs().all(|(_, seq)| seq == EVENTS));
        }
    }

    #[test]
    fn a_node_that_lacks_something_is_no_place_to_go_to() {
        let positions = Positions::new(Vec::new(), Bytes::new());
        let mut overlap = Overlap::new(positions.clone());
        for frame in [
            stream_frame::Frame::GoAway(conclave_proto::chat::GoAway::default()),
            stream_frame::Frame::Truncated(conclave_proto::chat::Truncated::default()),
        ] {
            let frame = Frame::Other(StreamFrame { frame: Some(frame) });
            assert!(overlap.take(frame, &positions).is_err());
        }
        assert_eq!(overlap.next(&positions), OverlapStep::Read);
    }
}
