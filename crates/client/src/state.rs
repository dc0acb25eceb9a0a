//! The state that the client's tasks share: the outbox, the connection of each room, and the requests in flight.
//!
//! One lock protects it, is held briefly and never across an await. Decisions are made here and in `outbox`; the tasks
//! in `link` and `sender` only carry them out. Wakers and waiters are collected under the lock and woken after its
//! release.

mod in_flight;
mod queue;
mod results;
mod routing;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use conclave_core::limits::SEND_BATCH_MAX;
use conclave_net::CaId;
use conclave_proto::chat::{SendMessageRequest, send_message_request};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::SendError;
use crate::limits::{OUTBOX_REQUESTS_MAX, ROOM_NAMES_MAX, SEND_BATCH_BYTES_MAX};
use crate::nodes::Nodes;
use crate::outbox::{Requests, RoomKey, Settled};
use crate::types::{Ack, Content, Position, RefusedRequest, Route, Session};
use in_flight::InFlight;
pub(crate) use queue::{Queue, QueuedBatch};

/// The receiver of a request's outcome.
pub(crate) type Waiter = oneshot::Sender<Result<Ack, SendError>>;

/// The tasks and waiters to wake once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    pub(crate) settled: Vec<Settled<Waiter>>,
    /// The waiters that get `failed`.
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) failed: Option<SendError>,
    pub(crate) feeds: Vec<Waker>,
    /// Whether to wake the supervisor.
    pub(crate) supervisor: bool,
    /// Whether to wake the writer of the outbox file.
    pub(crate) queue: bool,
}

/// Id of a link, unique within the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// One `SendMessages` stream.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: Arc<str>,
    /// The waker of the stream, while it has nothing to send.
    pub(crate) feed: Option<Waker>,
    /// Rooms with requests to send, first come first served.
    pub(crate) ready: VecDeque<RoomKey>,
    pub(crate) in_flight: InFlight,
    /// Time of the last result, or of the first send after the link was idle if that is later.
    last_progress: Instant,
    /// Smoothed round-trip time of requests.
    smoothed_rtt: Duration,
    /// How often the link was found silent since the last result.
    races: u32,
    /// When the link was found silent and its rooms moved to other links.
    silent_since: Option<Instant>,
    pub(crate) cancel: CancellationToken,
}

/// The link of a room, and where the room is queued.
#[derive(Clone, Copy, Debug, Default)]
struct RoomLink {
    link: Option<LinkId>,
    /// The room is in its link's `ready`, or in `unrouted`.
    queued: bool,
    /// The room is in `held`.
    held: bool,
    /// The room changes its link once it has no requests in flight.
    changing: bool,
}

/// The state that the client's tasks share. The module describes its lock.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) requests: Requests<Waiter>,
    paths: Vec<RoomLink>,
    pub(crate) links: HashMap<LinkId, Link>,
    next_link: u64,
    /// Rooms with requests to send and no link.
    unrouted: Vec<RoomKey>,
    /// Rooms that must wait before they may send again.
    held: Vec<RoomKey>,
    route: Route,
    nodes: Arc<Nodes>,
    routed_version: u64,
    /// The supervisor has a timer set and polls again without being woken.
    watched: bool,
    /// The links of all rooms must be reconsidered.
    pub(crate) reroute: bool,
    /// The records for the outbox file, if there is one.
    pub(crate) queue: Option<Queue>,
    pub(crate) session: Option<Arc<Identity>>,
    names: HashMap<u64, Arc<str>>,
    /// Nodes that have refused the session since the last one accepted it.
    pub(crate) auth_failures: u32,
    /// The requests that were refused while nobody waited for them, such as those of an earlier process.
    pub(crate) refused: Vec<RefusedRequest>,
    pub(crate) closed: bool,
}

/// The session and its secret.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) session: Session,
    pub(crate) token: String,
    /// The certificate authority of the cluster; only its servers may see the token. `None` for a cluster without TLS.
    pub(crate) authority: Option<CaId>,
}

impl Identity {
    /// Whether the session is open. Until the first one could be opened, a durable outbox keeps requests without it.
    pub(crate) fn is_open(&self) -> bool {
        !self.token.is_empty()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("session", &self.session).finish_non_exhaustive()
    }
}

impl ClientState {
    pub(crate) fn new(route: Route, nodes: Arc<Nodes>, durable: bool) -> Self {
        Self {
            requests: Requests::new(durable),
            paths: Vec::new(),
            links: HashMap::new(),
            next_link: 0,
            unrouted: Vec::new(),
            held: Vec::new(),
            route,
            nodes,
            routed_version: 0,
            watched: false,
            reroute: false,
            queue: durable.then(Queue::default),
            session: None,
            names: HashMap::new(),
            auth_failures: 0,
            refused: Vec::new(),
            closed: false,
        }
    }

    fn path(&mut self, room: RoomKey) -> &mut RoomLink {
        let at = usize::try_from(room.0).unwrap_or(usize::MAX);
        if self.paths.len() <= at {
            self.paths.resize_with(at + 1, RoomLink::default);
        }
        &mut self.paths[at]
    }

    /// Queues the room at its link, or for routing, if it has something to send.
    pub(crate) fn enqueue(&mut self, room: RoomKey, now: Instant, wakes: &mut Wakes) {
        let path = *self.path(room);
        if path.queued || path.changing {
            return;
        }
        if !self.requests.ready(room, now) {
            if self.requests.held_until(room).is_some() && !path.held {
                self.path(room).held = true;
                self.held.push(room);
                wakes.supervisor = true;
            }
            return;
        }
        self.path(room).queued = true;
        match path.link.and_then(|link| self.links.get_mut(&link)) {
            Some(link) => {
                link.ready.push_back(room);
                wakes.feeds.extend(link.feed.take());
            }
            None => {
                self.path(room).link = None;
                self.unrouted.push(room);
                wakes.supervisor = true;
            }
        }
    }

    /// The address of a link, and the token that cancels it.
    pub(crate) fn link(&self, id: LinkId) -> Option<(Arc<str>, CancellationToken)> {
        self.links.get(&id).map(|link| (Arc::clone(&link.address), link.cancel.clone()))
    }

    /// Registers the waker of a stream that has nothing to send.
    pub(crate) fn wait_for_more(&mut self, id: LinkId, waker: &Waker) {
        if let Some(link) = self.links.get_mut(&id) {
            link.feed = Some(waker.clone());
        }
    }

    /// Whether any request was ever submitted.
    pub(crate) fn has_rooms(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Takes requests for one frame of a stream. Returns whether the link still exists.
    pub(crate) fn fill_batch(
        &mut self,
        id: LinkId,
        batch: &mut Vec<SendMessageRequest>,
        wakes: &mut Wakes,
    ) -> bool {
        let now = Instant::now();
        let Some(link) = self.links.get_mut(&id) else { return false };
        if link.in_flight.count() == 0 {
            link.last_progress = now;
            // The supervisor must notice if no result arrives.
            wakes.supervisor |= !self.watched;
        }
        let mut bytes = 0;
        while let Some(link) = self.links.get_mut(&id) {
            let has_space = |batch: &Vec<_>, bytes: usize, link: &Link| {
                batch.len() < SEND_BATCH_MAX && bytes < SEND_BATCH_BYTES_MAX && link.in_flight.has_space()
            };
            if !has_space(batch, bytes, link) {
                break;
            }
            let Some(room) = link.ready.pop_front() else { break };
            if self.requests.ready(room, now) {
                while has_space(batch, bytes, link) {
                    let Some((sent, request)) = self.requests.take(room) else { break };
                    bytes += content_len(&request);
                    link.in_flight.push(sent, now);
                    batch.push(request);
                }
            }
            self.path(room).queued = false;
            self.enqueue(room, now, wakes);
        }
        true
    }

    /// Releases a room from its link once it has nothing in flight there, if it is to change its link.
    fn finish_change(&mut self, room: RoomKey) {
        if self.path(room).changing && !self.requests.has_in_flight(room) {
            let path = self.path(room);
            path.changing = false;
            path.link = None;
        }
    }

    /// Takes a room off its link now. Its requests in flight are sent again on the next link.
    fn detach(&mut self, room: RoomKey, now: Instant, wakes: &mut Wakes) {
        let path = *self.path(room);
        if let Some(link) = path.link.and_then(|link| self.links.get_mut(&link))
            && path.queued
        {
            link.ready.retain(|other| *other != room);
        }
        let path = self.path(room);
        // A room in `unrouted` has no link and stays there.
        if path.link.take().is_some() {
            path.queued = false;
        }
        path.changing = false;
        if self.requests.has_in_flight(room)
            && self.requests.lost(room)
            && let Some(queue) = &mut self.queue
        {
            queue.rewrite = true;
            wakes.queue = true;
        }
        self.enqueue(room, now, wakes);
    }

    /// The outbox file contains, for each room, the requests up to the first number and the settlements up to the
    /// second. If the numbers have changed since, the file is about to be rewritten: then this does nothing, for a request that
    /// the file has under another number or session would be sent again after a crash.
    pub(crate) fn stored(&mut self, marks: impl IntoIterator<Item = (RoomKey, u64, u64)>, wakes: &mut Wakes) {
        if self.queue.as_ref().is_some_and(|queue| queue.rewrite) {
            return;
        }
        let now = Instant::now();
        for (room, number, settled) in marks {
            self.requests.stored(room, number);
            self.requests.settled_stored(room, settled);
            self.enqueue(room, now, wakes);
        }
    }

    /// An append to the outbox file failed: fails the requests that are not stored. Returns false, and does nothing, if
    /// the file is about to be rewritten, which will store them.
    pub(crate) fn not_stored(&mut self, why: &str, wakes: &mut Wakes) -> bool {
        let Some(queue) = self.queue.as_mut().filter(|queue| !queue.rewrite) else { return false };
        queue.drop_submitted();
        wakes.failed = Some(SendError::Outbox(why.to_owned()));
        wakes.waiters.extend(self.requests.drop_unstored());
        self.requests.drop_unstored_positions();
        true
    }

    /// Submits a request. Returns its number and, with a durable outbox, the serial to wait for (else 0).
    pub(crate) fn submit(
        &mut self,
        room: &str,
        content: Content,
        waiter: Waiter,
        wakes: &mut Wakes,
    ) -> (u64, u64) {
        let key = self.requests.room(room);
        let copy = self.queue.is_some().then(|| content.clone());
        let number = self.requests.submit(key, content, waiter);
        let mut serial = 0;
        if let (Some(queue), Some(content)) = (&mut self.queue, copy) {
            serial = queue.submitted(key, room, number, content);
            wakes.queue = true;
        } else {
            self.enqueue(key, Instant::now(), wakes);
        }
        (number, serial)
    }

    /// Whether the outbox has room for this many requests more.
    ///
    /// # Errors
    /// If the client takes no requests at all: it is closed, or has no session.
    pub(crate) fn has_room_for(&self, count: usize) -> Result<bool, SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        if self.session.is_none() {
            return Err(SendError::Auth("this client has no session".to_owned()));
        }
        let unsettled = self.requests.unsettled_count();
        // An empty outbox takes any number: nothing would ever make more room.
        Ok(count == 0 || unsettled == 0 || unsettled + count <= OUTBOX_REQUESTS_MAX)
    }

    /// Moves a consumer's positions and submits its replies, as one record in the outbox file. Returns the numbers of the
    /// replies and, with a durable outbox, the serial to wait for (else 0).
    pub(crate) fn submit_replies(
        &mut self,
        positions: &[Position],
        replies: Vec<(String, Content, Waiter)>,
        wakes: &mut Wakes,
    ) -> (Vec<u64>, u64) {
        let mut numbers = Vec::with_capacity(replies.len());
        let mut serial = 0;
        for (room, content, waiter) in replies {
            let (number, submitted) = self.submit(&room, content, waiter, wakes);
            numbers.push(number);
            serial = submitted;
        }
        for position in positions {
            self.requests.reach(position.room_id, position.seq);
            if let Some(queue) = &mut self.queue {
                serial = queue.reached(position.room_id, position.seq);
            }
        }
        wakes.queue |= serial > 0;
        (numbers, serial)
    }

    /// Continues under a new session.
    pub(crate) fn session_changed(&mut self, identity: Identity, wakes: &mut Wakes) {
        // A request with a new number must not be sent on a stream of the old session.
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            self.remove_link(link, wakes);
        }
        self.session = Some(Arc::new(identity));
        self.requests.session_changed();
        if let Some(queue) = &mut self.queue {
            queue.rewrite = true;
            wakes.queue = true;
        }
        let now = Instant::now();
        for room in self.requests.keys().collect::<Vec<_>>() {
            self.enqueue(room, now, wakes);
        }
        wakes.supervisor = true;
    }

    /// Remembers a room's id.
    pub(crate) fn learn_name(&mut self, room_id: u64, name: &str) {
        if room_id != 0 && self.names.len() < ROOM_NAMES_MAX && !self.names.contains_key(&room_id) {
            self.names.insert(room_id, name.into());
        }
    }

    fn learn_room(&mut self, room: RoomKey, room_id: u64) {
        if room_id != 0 && self.requests.id(room) == 0 {
            let name = Arc::clone(self.requests.name(room));
            self.learn_name(room_id, &name);
            self.reroute = self.route == Route::Leader;
            if self.nodes.shards() == 0 {
                self.nodes.changed.notify_one();
            }
        }
    }

    /// The name of a room, if it is known.
    pub(crate) fn room_name(&self, room_id: u64) -> Option<Arc<str>> {
        self.names.get(&room_id).cloned()
    }

    /// Removes a link whose stream ended. Its rooms go to other links, and their requests in flight are sent again.
    pub(crate) fn remove_link(&mut self, id: LinkId, wakes: &mut Wakes) {
        let Some(link) = self.links.remove(&id) else { return };
        link.cancel.cancel();
        let now = Instant::now();
        for room in self.requests.keys().collect::<Vec<_>>() {
            if self.path(room).link == Some(id) {
                self.detach(room, now, wakes);
            }
        }
        wakes.feeds.extend(link.feed);
        wakes.supervisor = true;
    }
}

fn content_len(request: &SendMessageRequest) -> usize {
    match &request.content {
        Some(send_message_request::Content::Text(text) | send_message_request::Content::Topic(text)) => {
            text.len()
        }
        Some(send_message_request::Content::Action(action)) => action.encoded_len(),
        Some(send_message_request::Content::Join(_) | send_message_request::Content::Leave(_)) | None => 0,
    }
}
