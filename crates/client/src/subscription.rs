//! Streams of events that continue on another node.

mod moving;
mod opening;

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_core::limits::{KEEPALIVE_INTERVAL, NODES_MAX};
use conclave_proto::chat::{self, Certainty, Event, GoAway, StreamFrame, stream_frame};
use conclave_proto::status::from_status;
use tokio::time::{Instant, Sleep};
use tonic::{Status, Streaming};

use crate::client::Handle;
use crate::error::{CallError, is_auth};
use crate::position::Positions;
use crate::raw::{Frame, RawBatch};
use crate::retry;
use crate::types::{Batch, Incoming};
use moving::{Move, Moved, Successor};
use opening::Opening;

/// Refusals, one after the other, before they are believed: a node may lag behind the others.
const REFUSALS_MAX: u32 = 3;
/// A stream that was open before is given more: what it asks for was there.
const REFUSALS_AFTER_OPEN_MAX: u32 = 12;
/// A stream on which even the signs of life are missing is given up: two and a half intervals.
const SILENCE_MAX: Duration = KEEPALIVE_INTERVAL.saturating_mul(5).checked_div(2).expect("two is not zero");

/// Events of rooms, each once, in order and without a gap. Nothing runs behind it: who does not ask for the next
/// event slows the stream down, and dropping it ends it.
pub struct Subscription {
    handle: Arc<Handle>,
    positions: Positions,
    phase: Phase,
    /// The rest of a batch that is being given out one by one.
    batch: std::vec::IntoIter<Event>,
    /// The token before that batch.
    token_before: Bytes,
    /// Where to open the next stream, if that can be chosen.
    targets: VecDeque<Arc<str>>,
    failures: u32,
    refusals: u32,
    /// Nodes, one after the other, that were full or leaving.
    redirects: u32,
    was_open: bool,
}

enum Phase {
    /// Opens a stream then.
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
    /// Fires at the earliest when the stream has been silent for too long.
    alarm: Pin<Box<Sleep>>,
    /// Frames that have been read already.
    first: VecDeque<Frame>,
    /// The node has asked to continue elsewhere.
    moving: Option<Box<Move>>,
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

    /// What comes next. Reconnects by itself, for ever; fails only where trying again cannot help. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// A room that is not there, a token that does not fit, a session that is not accepted.
    pub async fn next(&mut self) -> Result<Incoming, CallError> {
        loop {
            if let Some(event) = self.batch.next() {
                return Ok(Incoming::Event(event));
            }
            let token_before = self.positions.token().clone();
            match self.step().await? {
                Step::Batch(batch) => {
                    self.batch = whole(&batch)?.into_iter();
                    self.token_before = token_before;
                }
                Step::Other(incoming) => return Ok(incoming),
                Step::Nothing => {}
            }
        }
    }

    /// The next events, as many as came together. Signs of life and changes of connection are passed over.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub async fn next_batch(&mut self) -> Result<Batch, CallError> {
        let rest: Vec<_> = self.batch.by_ref().collect();
        if !rest.is_empty() {
            return Ok(Batch { events: rest, token: self.positions.token().clone() });
        }
        let batch = self.next_raw_batch().await?;
        Ok(Batch { events: whole(&batch)?, token: batch.token })
    }

    /// The next events as they came: what is cheapest at high rates. Events that [`Subscription::next`] has begun to
    /// give out are not among them.
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

    /// The name of a room of this subscription, once it is known.
    #[must_use]
    pub fn room_name(&self, room_id: u64) -> Option<Arc<str>> {
        self.positions.name(room_id).or_else(|| self.handle.shared.lock().room_name(room_id))
    }

    /// Resumes on any node and in any process after what was given out. Events that came together share a token: until
    /// the last of them is given out, this is the one before them, so that resuming repeats some but never skips any.
    #[must_use]
    pub fn token(&self) -> Bytes {
        if self.batch.as_slice().is_empty() {
            self.positions.token().clone()
        } else {
            self.token_before.clone()
        }
    }

    /// The last event of each room (room id, seq) that came in.
    pub fn positions(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.positions.seqs()
    }

    /// The address of the node that the events come from, while there is one.
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
        let nodes = &self.handle.shared.nodes;
        let target =
            std::iter::from_fn(|| self.targets.pop_front()).find(|target| !nodes.takes_nobody(target));
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
        self.handle.shared.nodes.settled(&address);
        let now = Instant::now();
        let alarm = Box::pin(tokio::time::sleep_until(now + SILENCE_MAX));
        self.phase =
            Phase::Open(Box::new(Open { address, stream, last_frame: now, alarm, first, moving: None }));
        Step::Other(Incoming::Connected { node })
    }

    async fn read(&mut self) -> Result<Step, CallError> {
        enum Came {
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
        let came = tokio::select! {
            biased;
            moved = moved => Came::Moved(moved),
            frame = stream.message() => Came::Frame(frame),
            () = alarm => Came::Silence,
        };
        match came {
            Came::Frame(Ok(Some(frame))) => {
                open.last_frame = Instant::now();
                self.frame(frame)
            }
            Came::Frame(Ok(None)) => self.lost(&Status::unavailable("the node ended the stream")),
            Came::Frame(Err(status)) => self.lost(&status),
            Came::Silence => {
                let due = open.last_frame + SILENCE_MAX;
                if due <= Instant::now() {
                    return self.lost(&Status::unavailable("the node has been silent for too long"));
                }
                open.alarm.as_mut().reset(due);
                Ok(Step::Nothing)
            }
            Came::Moved(Moved::Ready(successor)) => self.take_over(*successor),
            Came::Moved(Moved::GivenUp) => {
                if let Some(moving) = open.moving.take() {
                    self.targets = moving.targets();
                }
                Ok(Step::Nothing)
            }
        }
    }

    /// Continues with the other stream, of which everything up to here has been read.
    fn take_over(&mut self, successor: Successor) -> Result<Step, CallError> {
        let Successor { address, stream, ahead, caught_up, .. } = successor;
        let mut first = VecDeque::new();
        if caught_up {
            let frame = Some(stream_frame::Frame::CaughtUp(self.positions.as_caught_up()));
            first.push_back(Frame::Other(StreamFrame { frame }));
        }
        if let Some(batch) = ahead {
            match batch.without(|room, seq| seq <= self.positions.seq(room)) {
                Ok(batch) => first.push_back(Frame::Events(batch)),
                Err(error) => return self.failed(&address, &Status::data_loss(error.to_string())),
            }
        }
        Ok(self.opened(address, stream, first))
    }

    fn frame(&mut self, frame: Frame) -> Result<Step, CallError> {
        let checked = match &frame {
            Frame::Events(batch) => self.positions.accept(batch.heads(), &batch.token),
            Frame::Other(frame) => match &frame.frame {
                Some(stream_frame::Frame::CaughtUp(caught_up)) => {
                    self.positions.caught_up(&caught_up.rooms, &caught_up.resume_token)
                }
                _ => Ok(()),
            },
        };
        if let Err(misplaced) = checked {
            tracing::warn!(%misplaced, "a node sent events that do not follow; reading them elsewhere");
            return self.lost(&Status::data_loss(misplaced.to_string()));
        }
        if self.failures > 0 || self.refusals > 0 {
            (self.failures, self.refusals) = (0, 0);
            if let Phase::Open(open) = &self.phase {
                self.handle.shared.nodes.worked(&open.address);
            }
        }
        Ok(match frame {
            Frame::Events(batch) => Step::Batch(batch),
            Frame::Other(frame) => frame.frame.map_or(Step::Nothing, |frame| self.sign(frame)),
        })
    }

    /// A frame without events.
    fn sign(&mut self, frame: stream_frame::Frame) -> Step {
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
                self.positions.renew(&alive.resume_token);
                for leader in &alive.leaders {
                    shared.nodes.learn(leader);
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
            stream_frame::Frame::ClusterView(view) => {
                shared.nodes.see(&view);
                Step::Nothing
            }
            stream_frame::Frame::GoAway(go_away) => {
                self.go_away(&go_away);
                Step::Nothing
            }
            // Events come the other way.
            stream_frame::Frame::Events(_) => Step::Nothing,
        }
    }

    /// Begins to move to another node. This one is read until that one has taken over.
    fn go_away(&mut self, go_away: &GoAway) {
        let nodes = &self.handle.shared.nodes;
        let Phase::Open(open) = &mut self.phase else { return };
        tracing::debug!(node = %open.address, reason = %go_away.reason, "the node asks to continue elsewhere");
        nodes.add(go_away.addresses.iter().map(String::as_str));
        let mut addresses = go_away.clone();
        if go_away.stay_away {
            nodes.leaving(&open.address);
            self.handle.shared.supervisor.notify_one();
            // It is left in any case: better for somewhere.
            let other = nodes.pick(&[Arc::clone(&open.address)]);
            addresses.addresses.extend(other.map(|pick| pick.address.to_string()));
        }
        if open.moving.is_none() {
            open.moving = Some(Box::new(Move::new(&addresses, &open.address)));
        }
    }

    /// An open stream ended.
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
        self.handle.shared.nodes.failed(address);
        if failure.certainty() == Certainty::Refused {
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

    /// The node is full or leaves, and says who is not. That is no failure of anybody, unless all say so.
    fn redirected(&mut self, targets: Vec<Arc<str>>, failure: chat::Failure, was_connected: bool) -> Step {
        self.targets.extend(targets);
        self.targets.truncate(NODES_MAX);
        let all = u32::try_from(self.handle.shared.nodes.count()).unwrap_or(u32::MAX);
        let delay = retry::delay((self.redirects + 1).saturating_sub(all), rand::random());
        self.redirects = self.redirects.saturating_add(1);
        self.phase = Phase::Idle { at: Instant::now() + delay };
        if was_connected || self.redirects == all.saturating_add(1) {
            return Step::Other(Incoming::Disconnected { why: failure.message });
        }
        Step::Nothing
    }

    /// Each node is tried once at once, then with growing delays.
    fn wait(&mut self, after: Duration) {
        let all = u32::try_from(self.handle.shared.nodes.count()).unwrap_or(u32::MAX);
        let delay = retry::delay((self.failures + 1).saturating_sub(all), rand::random());
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Idle { at: Instant::now() + delay.max(after) };
    }
}

/// Events that passed as such and still are not what they should be are never skipped in silence.
fn whole(batch: &RawBatch) -> Result<Vec<Event>, CallError> {
    batch.decode().map_err(|error| CallError::Refused {
        code: "event_damaged".to_owned(),
        message: format!("the cluster sent an event that cannot be read: {error}"),
    })
}
