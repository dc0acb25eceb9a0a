//! Reads an open stream, and replaces it by another one at the request of its node.

use std::sync::Arc;

use conclave_proto::chat::{GoAway, stream_frame};
use tokio::time::Instant;
use tonic::Status;

use super::moving::{Moved, StreamMove, Successor};
use super::{Open, Phase, SILENCE_MAX, Step, Subscription};
use crate::error::CallError;
use crate::raw::Frame;
use crate::types::Incoming;

impl Subscription {
    pub(super) async fn read(&mut self) -> Result<Step, CallError> {
        enum Arrival {
            Frame(Result<Option<Frame>, Status>),
            Silence,
            Moved(Moved),
        }
        let Phase::Open(open) = &mut self.phase else { return Ok(Step::Nothing) };
        if let Some(frame) = open.first.pop_front() {
            return self.frame(frame);
        }
        let Open { stream, alarm, moving, .. } = &mut **open;
        let moved = async {
            match moving {
                Some(moving) => moving.advance(&self.handle, &self.positions).await,
                None => std::future::pending().await,
            }
        };
        let arrival = tokio::select! {
            biased;
            moved = moved => Arrival::Moved(moved),
            frame = stream.message() => Arrival::Frame(frame),
            () = alarm => Arrival::Silence,
        };
        match arrival {
            Arrival::Frame(Ok(Some(frame))) => {
                open.last_frame = Instant::now();
                self.frame(frame)
            }
            Arrival::Frame(Ok(None)) => self.lost(&Status::unavailable("the node ended the stream")),
            Arrival::Frame(Err(status)) => self.lost(&status),
            Arrival::Silence => {
                let due = open.last_frame + SILENCE_MAX;
                if due <= Instant::now() {
                    return self.lost(&Status::unavailable("the node has been silent for too long"));
                }
                open.alarm.as_mut().reset(due);
                Ok(Step::Nothing)
            }
            Arrival::Moved(Moved::Ready(successor)) => Ok(self.take_over(*successor)),
            Arrival::Moved(Moved::GivenUp) => {
                open.moving = None;
                Ok(Step::Nothing)
            }
        }
    }

    /// Continues with the new stream, which has delivered everything up to the positions.
    fn take_over(&mut self, successor: Successor) -> Step {
        let (address, first, stream) = successor.into_parts(&self.positions);
        self.opened(address, stream, first)
    }

    fn frame(&mut self, frame: Frame) -> Result<Step, CallError> {
        let checked = match &frame {
            Frame::Events(batch) => self.positions.accept(batch.room_seqs(), &batch.token),
            Frame::Other(frame) => match &frame.frame {
                Some(stream_frame::Frame::CaughtUp(caught_up)) => {
                    self.positions.caught_up(&caught_up.rooms, &caught_up.resume_token)
                }
                _ => Ok(()),
            },
        };
        if let Err(error) = checked {
            tracing::warn!(%error, "node sent events out of sequence, reconnecting to another node");
            return self.lost(&Status::data_loss(error.to_string()));
        }
        if self.failures > 0 || self.refusals > 0 {
            (self.failures, self.refusals) = (0, 0);
            if let Phase::Open(open) = &self.phase {
                self.handle.shared.nodes.mark_worked(&open.address);
            }
        }
        Ok(match frame {
            Frame::Events(batch) => Step::Batch(batch),
            Frame::Other(frame) => frame.frame.map_or(Step::Nothing, |frame| self.control_frame(frame)),
        })
    }

    /// Handles a frame without events.
    fn control_frame(&mut self, frame: stream_frame::Frame) -> Step {
        let shared = &self.handle.shared;
        match frame {
            stream_frame::Frame::CaughtUp(caught_up) => {
                let mut state = shared.lock();
                for room in &caught_up.rooms {
                    state.learn_name(room.room_id, &room.name);
                }
                Step::Other(Incoming::CaughtUp { rooms: caught_up.rooms, token: caught_up.resume_token })
            }
            stream_frame::Frame::Keepalive(alive) => {
                self.positions.set_token(&alive.resume_token);
                for leader in &alive.leaders {
                    shared.nodes.learn_leader(leader);
                }
                Step::Other(Incoming::Keepalive { quorum: alive.quorum, token: alive.resume_token })
            }
            stream_frame::Frame::Truncated(truncated) => {
                self.positions.truncated(truncated.room_id, truncated.first_seq);
                Step::Other(Incoming::Truncated {
                    room_id: truncated.room_id,
                    first_seq: truncated.first_seq,
                })
            }
            stream_frame::Frame::RoomClosed(closed) => {
                self.positions.close(closed.room_id, &closed.code, &closed.resume_token);
                Step::Other(Incoming::RoomClosed { room_id: closed.room_id, code: closed.code })
            }
            stream_frame::Frame::ClusterView(view) => {
                shared.nodes.observe_view(&view);
                Step::Nothing
            }
            stream_frame::Frame::GoAway(go_away) => {
                self.go_away(&go_away);
                Step::Nothing
            }
            // Frames decode events to `Frame::Events`.
            stream_frame::Frame::Events(_) => Step::Nothing,
        }
    }

    /// Begins to move to another node. The old stream is read until the new one takes over.
    fn go_away(&mut self, go_away: &GoAway) {
        let nodes = &self.handle.shared.nodes;
        let Phase::Open(open) = &mut self.phase else { return };
        tracing::debug!(node = %open.address, reason = %go_away.reason, "node asked to move the subscription");
        nodes.mark_available(go_away.addresses.iter().map(String::as_str));
        let mut addresses = go_away.clone();
        if go_away.stay_away {
            nodes.mark_leaving(&open.address);
            self.handle.shared.supervisor.notify_one();
            // The node will end the stream in any case, so any other node is a target too.
            let other = nodes.pick(&[Arc::clone(&open.address)]);
            addresses.addresses.extend(other.map(|pick| pick.address.to_string()));
        }
        if open.moving.is_none() {
            open.moving = Some(Box::new(StreamMove::new(&addresses, &open.address)));
        }
    }
}
