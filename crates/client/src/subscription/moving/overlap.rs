//! Decides when a new stream can take over from an old one of the same rooms. Pure.
//!
//! What must stay true: at most one batch of the new stream goes beyond the old one, and this batch is kept. So once
//! the new stream has everything that the old one has, it can take over without losing or repeating an event.

use std::collections::VecDeque;

use conclave_proto::chat::{StreamFrame, stream_frame};
use prost::DecodeError;

use crate::position::{Positions, SequenceError};
use crate::raw::{Frame, RawBatch};

/// The progress of the new stream.
#[derive(Debug)]
pub(super) struct Overlap {
    /// The positions up to which the new stream was read.
    positions: Positions,
    /// The batch that goes beyond the old stream.
    ahead: Option<RawBatch>,
    /// Whether the new stream has sent `CaughtUp`.
    caught_up: bool,
}

/// The next step with the new stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverlapStep {
    /// Read the new stream.
    Read,
    /// Wait: the new stream is ahead in one room and behind in another; the old stream has to catch up first.
    Wait,
    /// Let the new stream take over.
    TakeOver,
}

impl Overlap {
    /// A new stream that was opened from `positions`.
    pub(super) fn new(positions: Positions) -> Self {
        Self { positions, ahead: None, caught_up: false }
    }

    /// The next step while the old stream is at `positions`.
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

    /// Takes a frame that was read from the new stream.
    pub(super) fn take(&mut self, frame: Frame, positions: &Positions) -> Result<(), SequenceError> {
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
                // The node lacks events, is leaving itself, or knows of the end of a membership before the old stream has
                // delivered it: not a node to move to.
                Some(
                    stream_frame::Frame::Truncated(_)
                    | stream_frame::Frame::GoAway(_)
                    | stream_frame::Frame::RoomClosed(_),
                ) => {
                    return Err(SequenceError::CannotServe);
                }
                _ => {}
            },
        }
        Ok(())
    }

    /// The frames to deliver before the rest of the new stream when it takes over from an old one at `positions`.
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

/// Whether some of the events go beyond `positions`.
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

    /// A node's stream: each step of the plan sends this many events of this room, as far as there are any.
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

    /// Takes a frame as a subscription does; an event out of sequence is an error.
    fn deliver(frame: Frame, positions: &mut Positions) -> Result<(), SequenceError> {
        match frame {
            Frame::Events(batch) => positions.accept(batch.room_seqs(), &batch.token),
            Frame::Other(StreamFrame { frame: Some(stream_frame::Frame::CaughtUp(caught_up)) }) => {
                positions.caught_up(&caught_up.rooms, &caught_up.resume_token)
            }
            Frame::Other(_) => Ok(()),
        }
    }

    fn plan() -> impl Strategy<Value = Vec<(usize, u64)>> {
        // The plan ends with all events of every room.
        let everything = (0..ROOMS).map(|room| (room, EVENTS));
        proptest::collection::vec((0..ROOMS, 1_u64..6), 0..60)
            .prop_map(move |steps| steps.into_iter().chain(everything.clone()).collect())
    }

    proptest! {
        /// However the two streams batch and interleave their events, and in whichever order they are read, every event
        /// is delivered once.
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
            prop_assert!(moved, "the new stream takes over once both have sent everything");
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
    fn a_node_that_lacks_events_or_leaves_is_no_target() {
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
