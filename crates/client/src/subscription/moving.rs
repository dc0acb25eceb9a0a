//! Moving a stream to another node, as a node asks for it.
//!
//! The stream on the other node begins where this one stood. Both are read until the other one has brought everything
//! that this one has: what it repeats is dropped here, and what it brings beyond that is kept until it takes over. So
//! nothing waits for the move, and nothing is lost or repeated by it. If the two cannot be brought together in time,
//! the move is given up: a stream that ends is then continued in the ordinary way, from the positions.

mod overlap;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use conclave_proto::chat::GoAway;
use conclave_proto::status::from_status;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::opening::{Try, open};
use crate::handle::Handle;
use crate::limits::MOVE_PATIENCE;
use crate::position::Positions;
use crate::raw::Frame;
use overlap::{Overlap, OverlapStep};

/// A move that is under way.
pub(super) struct Move {
    /// Where to, best first.
    targets: VecDeque<Arc<str>>,
    /// Until when this is tried.
    deadline: Instant,
    attempt: Option<Attempt>,
}

enum Attempt {
    /// Asked for what follows there.
    Opening(Try, Positions),
    Open(Box<Successor>),
}

/// The stream on the other node.
pub(super) struct Successor {
    pub(super) address: Arc<str>,
    pub(super) stream: Streaming<Frame>,
    overlap: Overlap,
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
        tokio::time::timeout_at(deadline, self.run(handle, positions)).await.unwrap_or(Moved::GivenUp)
    }

    async fn run(&mut self, handle: &Handle, positions: &Positions) -> Moved {
        if !positions.complete() {
            // The stream is asked again after its next frame.
            return std::future::pending().await;
        }
        loop {
            match &mut self.attempt {
                None => {
                    let Some(target) = self.targets.pop_front() else { return Moved::GivenUp };
                    if !handle.shared.nodes.refuses_clients(&target) {
                        let opening = open(handle, &target, positions.request());
                        self.attempt = Some(Attempt::Opening(opening, positions.clone()));
                    }
                }
                Some(Attempt::Opening(opening, asked)) => {
                    let (address, opened) = opening.await;
                    let overlap = Overlap::new(asked.clone());
                    self.attempt = match opened {
                        Ok(stream) => Some(Attempt::Open(Box::new(Successor { address, stream, overlap }))),
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
            None => handle.shared.nodes.mark_failed(address),
        }
    }
}

impl Successor {
    /// Reads until it can take over from a stream at `positions`.
    async fn advance(&mut self, positions: &Positions) -> Result<(), Status> {
        loop {
            match self.overlap.next(positions) {
                OverlapStep::TakeOver => return Ok(()),
                // The stream is asked again after the next frame of the other one.
                OverlapStep::Wait => std::future::pending().await,
                OverlapStep::Read => {}
            }
            let Some(frame) = self.stream.message().await? else {
                return Err(Status::unavailable("the node ended the stream"));
            };
            let taken = self.overlap.take(frame, positions);
            taken.map_err(|misplaced| Status::data_loss(misplaced.to_string()))?;
        }
    }

    /// Its node, what has been read from it beyond `positions`, and the rest.
    pub(super) fn into_parts(self, positions: &Positions) -> (Arc<str>, VecDeque<Frame>, Streaming<Frame>) {
        // Events that cannot be cut are left to the check of what follows, which sends the stream elsewhere.
        let first = self.overlap.first(positions).unwrap_or_default();
        (self.address, first, self.stream)
    }
}
