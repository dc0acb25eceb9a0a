//! Moves a stream to another node, at the request of its node.
//!
//! The new stream begins at the current positions of the old one. Both are read until the new stream has delivered
//! everything that the old one has: repeated events are dropped, and events beyond are kept until the new stream takes
//! over. So the subscription delivers events during the move, and none is lost or repeated. If the new stream does not
//! catch up in time, the move is given up: when the old stream ends, the subscription reconnects from its positions.

mod overlap;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use conclave_proto::chat::GoAway;
use conclave_proto::status::from_status;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::opening::{OpenAttempt, open};
use crate::handle::Handle;
use crate::limits::MOVE_TIMEOUT;
use crate::position::Positions;
use crate::raw::Frame;
use overlap::{Overlap, OverlapStep};

/// A move in progress.
pub(super) struct StreamMove {
    /// The nodes to move to, the preferred first.
    targets: VecDeque<Arc<str>>,
    /// When the move is given up.
    deadline: Instant,
    attempt: Option<Attempt>,
}

enum Attempt {
    /// A stream from these positions is being opened.
    Opening(OpenAttempt, Positions),
    Open(Box<Successor>),
}

/// The stream on the other node.
pub(super) struct Successor {
    pub(super) address: Arc<str>,
    pub(super) stream: Streaming<Frame>,
    overlap: Overlap,
}

/// The result of a move.
pub(super) enum Moved {
    /// The new stream can take over: it has delivered everything that the old one has.
    Ready(Box<Successor>),
    /// The move was given up.
    GivenUp,
}

impl StreamMove {
    pub(super) fn new(go_away: &GoAway, from: &str) -> Self {
        let targets = go_away.addresses.iter().filter(|address| *address != from).take(NODES_MAX);
        let patience = MOVE_TIMEOUT.max(Duration::from_millis(go_away.in_ms.into()));
        Self {
            targets: targets.map(|address| address.as_str().into()).collect(),
            deadline: Instant::now() + patience,
            attempt: None,
        }
    }

    /// The remaining targets, to reconnect to once the old stream ends.
    pub(super) fn targets(self) -> VecDeque<Arc<str>> {
        let mut targets = self.targets;
        if let Some(Attempt::Open(successor)) = self.attempt {
            targets.push_front(successor.address);
        }
        targets
    }

    /// Advances the move while the old stream is at `positions`. Cancel safe.
    pub(super) async fn advance(&mut self, handle: &Handle, positions: &Positions) -> Moved {
        let deadline = self.deadline;
        tokio::time::timeout_at(deadline, self.run(handle, positions)).await.unwrap_or(Moved::GivenUp)
    }

    async fn run(&mut self, handle: &Handle, positions: &Positions) -> Moved {
        if !positions.complete() {
            // The caller polls the move again after the next frame of the old stream.
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
        tracing::debug!(node = %address, %status, "failed to move the subscription");
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
    /// Reads until the stream can take over from an old stream at `positions`.
    async fn advance(&mut self, positions: &Positions) -> Result<(), Status> {
        loop {
            match self.overlap.next(positions) {
                OverlapStep::TakeOver => return Ok(()),
                // The caller polls the move again after the next frame of the old stream.
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

    /// The node's address, the frames read beyond `positions`, and the stream.
    pub(super) fn into_parts(self, positions: &Positions) -> (Arc<str>, VecDeque<Frame>, Streaming<Frame>) {
        // If the batch cannot be split, it is left out. The next event then does not follow, and the subscription moves
        // on to another node.
        let first = self.overlap.first(positions).unwrap_or_default();
        (self.address, first, self.stream)
    }
}
