//! Moving a stream to another node, as a node asks for it.
//!
//! The stream on the other node begins where this one stood. Both are read until the other one has brought everything
//! that this one has: what it repeats is dropped here, and what it brings beyond that is kept until it takes over. So
//! nothing waits for the move, and nothing is lost or repeated by it. If the two cannot be brought together in time,
//! the move is given up: a stream that ends is then continued in the ordinary way, from the positions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::{MOVE_PATIENCE, NODES_MAX};
use conclave_proto::chat::{GoAway, stream_frame};
use conclave_proto::status::from_status;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::opening::{Try, open};
use crate::client::Handle;
use crate::position::{Misplaced, Positions};
use crate::raw::{Frame, RawBatch};

/// A move that is under way.
pub(super) struct Move {
    /// Where to, best first.
    targets: VecDeque<Arc<str>>,
    /// Until when this is tried.
    deadline: Instant,
    attempt: Option<Attempt>,
}

enum Attempt {
    Opening(Try),
    Open(Box<Successor>),
}

/// The stream on the other node.
pub(super) struct Successor {
    pub(super) address: Arc<str>,
    pub(super) stream: Streaming<Frame>,
    /// Up to where it has been read.
    positions: Positions,
    /// What it has brought beyond the stream that it follows. Nothing more is read from it meanwhile.
    pub(super) ahead: Option<RawBatch>,
    /// It has said that it has brought everything there was.
    pub(super) caught_up: bool,
}

/// What came of it.
pub(super) enum Moved {
    /// The other stream can take over now: it has everything that the old one has brought.
    Ready(Box<Successor>),
    /// Not this time.
    GivenUp,
}

impl Move {
    pub(super) fn new(go_away: &GoAway, from: &str) -> Self {
        let targets = go_away.addresses.iter().filter(|address| *address != from).take(NODES_MAX);
        let patience = MOVE_PATIENCE.max(Duration::from_millis(go_away.in_ms.into()));
        Self {
            targets: targets.map(|address| address.as_str().into()).collect(),
            deadline: Instant::now() + patience,
            attempt: None,
        }
    }

    /// Where it would still have gone: for continuing there once the old stream ends.
    pub(super) fn targets(self) -> VecDeque<Arc<str>> {
        let mut targets = self.targets;
        if let Some(Attempt::Open(successor)) = self.attempt {
            targets.push_front(successor.address);
        }
        targets
    }

    /// Goes on with the move, next to a stream that stands at `positions`. Dropping the future loses nothing.
    pub(super) async fn advance(&mut self, handle: &Handle, positions: &Positions) -> Moved {
        let deadline = self.deadline;
        tokio::time::timeout_at(deadline, self.go_on(handle, positions)).await.unwrap_or(Moved::GivenUp)
    }

    async fn go_on(&mut self, handle: &Handle, positions: &Positions) -> Moved {
        if !positions.complete() {
            // The stream is asked again after its next frame.
            return std::future::pending().await;
        }
        loop {
            match &mut self.attempt {
                None => {
                    let Some(target) = self.targets.pop_front() else { return Moved::GivenUp };
                    if !handle.shared.nodes.takes_nobody(&target) {
                        self.attempt = Some(Attempt::Opening(open(handle, &target, positions.request())));
                    }
                }
                Some(Attempt::Opening(opening)) => {
                    let (address, opened) = opening.await;
                    self.attempt = match opened {
                        Ok(stream) => Some(Attempt::Open(Box::new(Successor {
                            address,
                            stream,
                            positions: positions.clone(),
                            ahead: None,
                            caught_up: false,
                        }))),
                        Err(status) => {
                            self.failed(handle, &address, &status);
                            None
                        }
                    };
                }
                Some(Attempt::Open(successor)) => match successor.advance(positions).await {
                    Ok(()) => {
                        let Some(Attempt::Open(successor)) = self.attempt.take() else { continue };
                        return Moved::Ready(successor);
                    }
                    Err(status) => {
                        let address = Arc::clone(&successor.address);
                        self.attempt = None;
                        self.failed(handle, &address, &status);
                    }
                },
            }
        }
    }

    fn failed(&mut self, handle: &Handle, address: &Arc<str>, status: &Status) {
        tracing::debug!(node = %address, %status, "could not move there");
        match handle.shared.nodes.redirected(address, &from_status(status)) {
            Some(others) => {
                let new = |other: &Arc<str>| other != address && !self.targets.contains(other);
                let others: Vec<_> = others.into_iter().filter(new).collect();
                let space = NODES_MAX.saturating_sub(self.targets.len());
                self.targets.extend(others.into_iter().take(space));
            }
            None => handle.shared.nodes.failed(address),
        }
    }
}

impl Successor {
    /// Reads until it has everything that `positions` has.
    async fn advance(&mut self, positions: &Positions) -> Result<(), Status> {
        loop {
            let behind = |(room, seq): (u64, u64)| self.positions.seq(room) < seq;
            let proven = self.caught_up || self.ahead.is_some();
            if proven && !positions.seqs().any(behind) {
                return Ok(());
            }
            if let Some(batch) = &self.ahead {
                if self.is_ahead(batch, positions) {
                    // In its other rooms it is behind, and the old stream will pass it here, too.
                    return std::future::pending().await;
                }
                self.ahead = None;
            }
            match self.stream.message().await? {
                Some(frame) => {
                    self.take(frame, positions).map_err(|error| Status::data_loss(error.to_string()))?
                }
                None => return Err(Status::unavailable("the node ended the stream")),
            }
        }
    }

    fn take(&mut self, frame: Frame, positions: &Positions) -> Result<(), Misplaced> {
        match frame {
            Frame::Events(batch) => {
                self.positions.accept(batch.heads(), &batch.token)?;
                if self.is_ahead(&batch, positions) {
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
                    return Err(Misplaced::NotHere);
                }
                _ => {}
            },
        }
        Ok(())
    }

    /// Whether some of these events go beyond `positions`.
    fn is_ahead(&self, batch: &RawBatch, positions: &Positions) -> bool {
        batch.events().any(|event| event.seq > positions.seq(event.room_id))
    }
}
