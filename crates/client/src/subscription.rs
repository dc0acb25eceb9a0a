//! Subscriptions: streams of events that continue on another node after a failure.

mod moving;
mod opening;
mod reading;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_core::Refusal;
use conclave_core::limits::KEEPALIVE_INTERVAL;
use conclave_proto::chat::{self, Certainty, Event};
use conclave_proto::status::from_status;
use tokio::time::{Instant, Sleep};
use tonic::{Status, Streaming};

use crate::error::{CallError, is_auth};
use crate::handle::Handle;
use crate::position::Positions;
use crate::raw::{Frame, RawBatch};
use crate::retry;
use crate::types::{Batch, Incoming};
use moving::StreamMove;
use opening::Opening;

/// Consecutive refusals after which a subscription fails: a single node may lag behind the others.
const REFUSALS_MAX: u32 = 3;
/// The same for a subscription that was open before: its rooms existed then.
const REFUSALS_AFTER_OPEN_MAX: u32 = 12;
/// A stream without any frame for this long is given up: two and a half keepalive intervals.
const SILENCE_MAX: Duration = KEEPALIVE_INTERVAL.saturating_mul(5).checked_div(2).expect("two is not zero");

/// Events of rooms, each once, in order and without a gap. No task runs behind it: a caller that does not ask for the
/// next event slows the stream down, and dropping the subscription ends the stream.
pub struct Subscription {
    handle: Arc<Handle>,
    positions: Positions,
    phase: Phase,
    /// The rest of a batch that `next` returns one by one.
    batch: std::vec::IntoIter<Event>,
    /// The token before that batch.
    token_before: Bytes,
    /// The preferred nodes for the next stream.
    targets: VecDeque<Arc<str>>,
    failures: u32,
    refusals: u32,
    /// Consecutive nodes that were full or leaving.
    redirects: u32,
    was_open: bool,
}

enum Phase {
    /// Opens a stream at this time.
    Idle {
        at: Instant,
    },
    Opening(Box<Opening>),
    Open(Box<Open>),
}

struct Open {
    address: Arc<str>,
    stream: Streaming<Frame>,
    last_frame: Instant,
    /// Fires when the stream may have been silent for `SILENCE_MAX`; it is reset lazily.
    alarm: Pin<Box<Sleep>>,
    /// Frames that were already read, to be returned before those of the stream.
    first: VecDeque<Frame>,
    /// The move to another node, if the node has asked for one.
    moving: Option<Box<StreamMove>>,
}

enum Step {
    Batch(RawBatch),
    Other(Incoming),
    /// Nothing for the caller.
    Nothing,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("positions", &self.positions).finish_non_exhaustive()
    }
}

impl Subscription {
    pub(crate) fn new(handle: Arc<Handle>, positions: Positions) -> Self {
        Self {
            handle,
            positions,
            phase: Phase::Idle { at: Instant::now() },
            batch: Vec::new().into_iter(),
            token_before: Bytes::new(),
            targets: VecDeque::new(),
            failures: 0,
            refusals: 0,
            redirects: 0,
            was_open: false,
        }
    }

    /// Returns the next item. Reconnects without limit, and fails only where a retry cannot help. Cancel safe.
    ///
    /// # Errors
    /// If a room does not exist, the token is invalid, or the session is not accepted.
    pub async fn next(&mut self) -> Result<Incoming, CallError> {
        loop {
            if let Some(event) = self.batch.next() {
                return Ok(Incoming::Event(event));
            }
            let token_before = self.positions.token().clone();
            match self.step().await? {
                Step::Batch(batch) => {
                    self.batch = decode_events(&batch)?.into_iter();
                    self.token_before = token_before;
                }
                Step::Other(incoming) => return Ok(incoming),
                Step::Nothing => {}
            }
        }
    }

    /// Returns the next events, as many as arrived together. Keepalives and changes of connection are skipped. Cancel
    /// safe.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub async fn next_batch(&mut self) -> Result<Batch, CallError> {
        let rest: Vec<_> = self.batch.by_ref().collect();
        if !rest.is_empty() {
            return Ok(Batch { events: rest, token: self.positions.token().clone() });
        }
        let batch = self.next_raw_batch().await?;
        Ok(Batch { events: decode_events(&batch)?, token: batch.token })
    }

    /// Returns the next events undecoded, which is cheapest at high rates. Events of a batch that
    /// [`Subscription::next`] has begun to return are not among them.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub async fn next_raw_batch(&mut self) -> Result<RawBatch, CallError> {
        loop {
            if let Step::Batch(batch) = self.step().await? {
                return Ok(batch);
            }
        }
    }

    /// The name of a room of this subscription, if it is known.
    #[must_use]
    pub fn room_name(&self, room_id: u64) -> Option<Arc<str>> {
        self.positions.name(room_id).or_else(|| self.handle.shared.lock().room_name(room_id))
    }

    /// A token that resumes after the returned events, on any node and in any process. Events that arrived together
    /// share a token: until the last of them is returned, this is the token before them, so that resuming may repeat
    /// events but never skips one.
    #[must_use]
    pub fn token(&self) -> Bytes {
        if self.batch.as_slice().is_empty() {
            self.positions.token().clone()
        } else {
            self.token_before.clone()
        }
    }

    /// The last event of each room (room id, seq) that was received.
    pub fn positions(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.positions.seqs()
    }

    /// The address of the node that the stream is open to, if there is one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match &self.phase {
            Phase::Open(open) => Some(&open.address),
            Phase::Idle { .. } | Phase::Opening(_) => None,
        }
    }

    async fn step(&mut self) -> Result<Step, CallError> {
        let cancel = self.handle.shared.cancel.clone();
        if cancel.is_cancelled() {
            return Err(CallError::Closed);
        }
        if let Some(code) = self.positions.over() {
            return Err(shut_out(code));
        }
        match &mut self.phase {
            Phase::Idle { at } => {
                tokio::select! {
                    () = tokio::time::sleep_until(*at) => {}
                    () = cancel.cancelled() => return Err(CallError::Closed),
                }
                self.begin();
                Ok(Step::Nothing)
            }
            Phase::Opening(opening) => {
                let (address, opened) = tokio::select! {
                    opened = opening.first(&self.handle) => opened,
                    () = cancel.cancelled() => return Err(CallError::Closed),
                };
                match opened {
                    Ok(stream) => Ok(self.opened(address, stream, VecDeque::new())),
                    Err(status) => self.failed(&address, &status),
                }
            }
            Phase::Open(_) => self.read().await,
        }
    }

    fn begin(&mut self) {
        #[cfg(debug_assertions)]
        self.positions.off_by_one();
        let nodes = &self.handle.shared.nodes;
        let target =
            std::iter::from_fn(|| self.targets.pop_front()).find(|target| !nodes.refuses_clients(target));
        match target.or_else(|| nodes.pick(&[]).map(|pick| pick.address)) {
            Some(address) => {
                let opening = Opening::begin(&self.handle, &address, self.positions.request());
                self.phase = Phase::Opening(Box::new(opening));
            }
            None => self.wait(Duration::ZERO),
        }
    }

    fn opened(&mut self, address: Arc<str>, stream: Streaming<Frame>, first: VecDeque<Frame>) -> Step {
        let node = address.to_string();
        self.was_open = true;
        self.redirects = 0;
        self.handle.shared.nodes.mark_subscribed(&address);
        let now = Instant::now();
        let alarm = Box::pin(tokio::time::sleep_until(now + SILENCE_MAX));
        self.phase =
            Phase::Open(Box::new(Open { address, stream, last_frame: now, alarm, first, moving: None }));
        Step::Other(Incoming::Connected { node })
    }

    /// Handles the end of an open stream.
    fn lost(&mut self, status: &Status) -> Result<Step, CallError> {
        let Phase::Open(open) = &mut self.phase else { return Ok(Step::Nothing) };
        if let Some(moving) = open.moving.take() {
            self.targets = moving.targets();
        }
        let address = Arc::clone(&open.address);
        self.failed(&address, status)
    }

    fn failed(&mut self, address: &str, status: &Status) -> Result<Step, CallError> {
        let failure = from_status(status);
        let was_connected = matches!(self.phase, Phase::Open(_));
        if let Some(targets) = self.handle.shared.nodes.redirected(address, &failure) {
            return Ok(self.redirected(targets, failure, was_connected));
        }
        if let Some(code) = self.positions.closed().filter(|_| failure.certainty() == Certainty::Refused) {
            let error = shut_out(code);
            self.wait(Duration::ZERO);
            return Err(error);
        }
        self.handle.shared.nodes.mark_failed(address);
        let awaits_session = is_auth(&failure.code) && self.handle.shared.awaits_session();
        if failure.certainty() == Certainty::Refused && !awaits_session {
            self.refusals += 1;
            let max =
                if self.was_open && !is_auth(&failure.code) { REFUSALS_AFTER_OPEN_MAX } else { REFUSALS_MAX };
            if self.refusals >= max {
                self.wait(Duration::ZERO);
                return Err(CallError::last_word(failure));
            }
        }
        self.wait(Duration::from_millis(failure.retry_after_ms.into()));
        if was_connected {
            return Ok(Step::Other(Incoming::Disconnected { why: failure.message }));
        }
        Ok(Step::Nothing)
    }

    /// The node is full or leaving, and has named others. This counts as a failure only if all nodes answer so.
    fn redirected(&mut self, targets: Vec<Arc<str>>, failure: chat::Failure, was_connected: bool) -> Step {
        self.targets = targets.into();
        let all = u32::try_from(self.handle.shared.nodes.count()).unwrap_or(u32::MAX);
        let delay = retry::delay((self.redirects + 1).saturating_sub(all), rand::random());
        self.redirects = self.redirects.saturating_add(1);
        self.phase = Phase::Idle { at: Instant::now() + delay };
        if was_connected || self.redirects == all.saturating_add(1) {
            return Step::Other(Incoming::Disconnected { why: failure.message });
        }
        Step::Nothing
    }

    /// Tries each node once without delay, then with growing delays.
    fn wait(&mut self, after: Duration) {
        let all = u32::try_from(self.handle.shared.nodes.count()).unwrap_or(u32::MAX);
        let delay = retry::delay((self.failures + 1).saturating_sub(all), rand::random());
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Idle { at: Instant::now() + delay.max(after) };
    }
}

/// The error of a subscription whose last room was closed with this code.
fn shut_out(code: &str) -> CallError {
    let message = Refusal::from_word(code, 0).map_or_else(|| code.to_owned(), |why| why.to_string());
    CallError::Refused { code: code.to_owned(), message }
}

/// Decodes a batch. Damaged events are an error and never skipped.
fn decode_events(batch: &RawBatch) -> Result<Vec<Event>, CallError> {
    batch.decode().map_err(|error| CallError::Refused {
        code: "event_damaged".to_owned(),
        message: format!("the cluster sent an event that cannot be read: {error}"),
    })
}
