//! What the client's tasks share: the outbox, which connection each room's requests take, and what is under way.
//!
//! One lock, held for moments and never across an await. Decisions are made here and in `outbox`; the tasks in
//! `link` and `sender` only carry them out. Wakers and waiters are collected and woken after the lock is released.

mod in_flight;
mod queue;
mod results;
mod routing;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use conclave_core::limits::SEND_BATCH_MAX;
use conclave_proto::chat::{SendMessageRequest, send_message_request};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::SendError;
use crate::limits::{ROOM_NAMES_MAX, SEND_BATCH_BYTES_MAX};
use crate::nodes::Nodes;
use crate::outbox::{Requests, RoomKey, Settled};
use crate::types::{Ack, Content, Route, Session};
use in_flight::InFlight;
pub(crate) use queue::{Queue, QueuedBatch};

/// Whoever waits for a request.
pub(crate) type Waiter = oneshot::Sender<Result<Ack, SendError>>;

/// What is to be woken once the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    pub(crate) settled: Vec<Settled<Waiter>>,
    /// Whoever is told `failed`.
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) failed: Option<SendError>,
    pub(crate) feeds: Vec<Waker>,
    /// The supervisor has something to do.
    pub(crate) supervisor: bool,
    /// The writer of the outbox file has.
    pub(crate) queue: bool,
}

/// A connection's name in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// One `SendMessages` stream.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: Arc<str>,
    /// The stream's task waits for something to send.
    pub(crate) feed: Option<Waker>,
    /// Rooms with something to send, in the order in which they got it.
    pub(crate) ready: VecDeque<RoomKey>,
    pub(crate) in_flight: InFlight,
    /// The last result, or when the oldest request without one was sent if that is later.
    last_progress: Instant,
    /// How long requests usually take.
    usual: Duration,
    /// How often it was found silent since the last result.
    races: u32,
    /// Since when its rooms have been moved away because of that.
    silent_since: Option<Instant>,
    pub(crate) cancel: CancellationToken,
}

/// How a room's requests travel.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    link: Option<LinkId>,
    /// It is in its link's `ready`, or in `unrouted`.
    queued: bool,
    /// It is in `held`.
    held: bool,
    /// It goes elsewhere once nothing is under way.
    changing: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) requests: Requests<Waiter>,
    paths: Vec<Path>,
    pub(crate) links: HashMap<LinkId, Link>,
    next_link: u64,
    /// Rooms with something to send and no link.
    unrouted: Vec<RoomKey>,
    /// Rooms that must wait before they send again.
    held: Vec<RoomKey>,
    route: Route,
    nodes: Arc<Nodes>,
    routed_version: u64,
    /// The supervisor looks again by itself.
    watched: bool,
    /// Another look at where rooms should go is due.
    pub(crate) reroute: bool,
    /// What is to be written to the outbox file, if there is one.
    pub(crate) queue: Option<Queue>,
    pub(crate) session: Option<Arc<Identity>>,
    names: HashMap<u64, Arc<str>>,
    /// Nodes that did not accept the session, since one did.
    pub(crate) auth_failures: u32,
    pub(crate) closed: bool,
}

/// The session and its secret.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) session: Session,
    pub(crate) token: String,
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
            closed: false,
        }
    }

    fn path(&mut self, room: RoomKey) -> &mut Path {
        let at = usize::try_from(room.0).unwrap_or(usize::MAX);
        if self.paths.len() <= at {
            self.paths.resize_with(at + 1, Path::default);
        }
        &mut self.paths[at]
    }

    /// Puts the room where it will be sent from, if it has something to send.
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

    /// A stream's address, and what ends it.
    pub(crate) fn link(&self, id: LinkId) -> Option<(Arc<str>, CancellationToken)> {
        self.links.get(&id).map(|link| (Arc::clone(&link.address), link.cancel.clone()))
    }

    /// Nothing is waiting to be sent over the stream.
    pub(crate) fn wait_for_more(&mut self, id: LinkId, waker: &Waker) {
        if let Some(link) = self.links.get_mut(&id) {
            link.feed = Some(waker.clone());
        }
    }

    /// Whether anything was ever sent.
    pub(crate) fn has_rooms(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Takes requests for one frame of a stream. Whether the stream still exists.
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
            // Somebody must notice if nothing comes back.
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

    /// Lets a room take its new way once nothing is under way on the old one.
    fn finish_change(&mut self, room: RoomKey) {
        if self.path(room).changing && !self.requests.has_in_flight(room) {
            let path = self.path(room);
            path.changing = false;
            path.link = None;
        }
    }

    /// The room goes elsewhere now; what is under way is sent there again.
    fn detach(&mut self, room: RoomKey, now: Instant, wakes: &mut Wakes) {
        let path = *self.path(room);
        if let Some(link) = path.link.and_then(|link| self.links.get_mut(&link))
            && path.queued
        {
            link.ready.retain(|other| *other != room);
        }
        let path = self.path(room);
        // A room in `unrouted` has no link and is left there.
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

    /// Requests (room, up to which number) and settlements (up to which number) are on disk.
    pub(crate) fn stored(&mut self, marks: impl IntoIterator<Item = (RoomKey, u64, u64)>, wakes: &mut Wakes) {
        let now = Instant::now();
        for (room, number, settled) in marks {
            self.requests.stored(room, number);
            self.requests.settled_stored(room, settled);
            self.enqueue(room, now, wakes);
        }
    }

    /// The outbox file did not take what was to be appended. Whether that decides what becomes of it; if the file is
    /// about to be rewritten, it does not.
    pub(crate) fn not_stored(&mut self, why: &str, wakes: &mut Wakes) -> bool {
        let Some(queue) = self.queue.as_mut().filter(|queue| !queue.rewrite) else { return false };
        queue.drop_submitted();
        wakes.failed = Some(SendError::Outbox(why.to_owned()));
        wakes.waiters.extend(self.requests.drop_unstored());
        true
    }

    /// Takes a request. What a durable outbox's caller waits for.
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

    /// Continues under a new session.
    pub(crate) fn session_changed(&mut self, identity: Identity, wakes: &mut Wakes) {
        // Nothing with a new number may go out over a stream of the old session.
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

    /// The name of a room that was met.
    pub(crate) fn room_name(&self, room_id: u64) -> Option<Arc<str>> {
        self.names.get(&room_id).cloned()
    }

    /// A stream is over. Its rooms go elsewhere, and what is under way is sent again.
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
        _ => 0,
    }
}
