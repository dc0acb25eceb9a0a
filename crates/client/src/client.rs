//! The handle that programs hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave_proto::chat;

use crate::error::{CallError, ConnectError, SendError};
use crate::subscription::Subscription;
use crate::types::{Ack, Content, Follow, HistoryQuery, Pending, Pong, Session};

/// Where requests wait until they are certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outbox {
    /// In memory: what is not certain when the process dies is lost with it.
    #[default]
    Memory,
    /// In this directory, synced before [`Client::submit`] returns. It also keeps the session. One process at a time.
    Durable(PathBuf),
}

/// Which node gets a room's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// The leader of the room's shard, where it is known.
    #[default]
    Leader,
    /// The node that the client is connected to, whoever leads.
    Pinned,
}

/// Finds the addresses of nodes. They are asked for anew whenever no known node can be reached.
pub trait Finder: std::fmt::Debug + Send + Sync + 'static {
    /// `host:port` of the client APIs, best first.
    fn find(&self) -> futures::future::BoxFuture<'_, Vec<String>>;
}

/// Makes a [`Client`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    servers: Vec<String>,
    finder: Option<Arc<dyn Finder>>,
    user: String,
    name: String,
    outbox: Outbox,
    route: Route,
    patience: Option<Duration>,
}

impl Builder {
    /// The addresses (`host:port`) of some nodes; the others are learned.
    #[must_use]
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// Finds addresses some other way than by a list.
    #[must_use]
    pub fn finder(mut self, finder: Arc<dyn Finder>) -> Self {
        self.finder = Some(finder);
        self
    }

    /// Who sends.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// What kind of client this is, for people.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where requests wait. The default is memory.
    #[must_use]
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// Which node gets a room's requests.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// How long a call (and opening a session) is tried before it fails. The default is 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// A client without a session, which asks no server anything yet: for [`Client::status`] and [`Client::ping`],
    /// which must work when there is no majority.
    ///
    /// # Errors
    /// If there are no addresses.
    pub fn observe(self) -> Result<Client, ConnectError> {
        Err(ConnectError::Call(CallError::Closed))
    }

    /// Opens a session, or continues the one that the durable outbox keeps. In the latter case no
    /// server needs to be reachable.
    ///
    /// # Errors
    /// See [`ConnectError`].
    #[expect(clippy::unused_async, reason = "interface first")]
    pub async fn connect(self) -> Result<Client, ConnectError> {
        Err(ConnectError::Call(CallError::Closed))
    }
}

/// One user's connection to a cluster. Cheap to clone; all clones are one client with one session.
#[derive(Clone, Debug)]
pub struct Client {}

#[expect(clippy::unused_async, clippy::unused_self, reason = "interface first")]
impl Client {
    /// Makes a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Takes a request for a room. When this returns it is in the outbox (with a durable one: on
    /// disk), has its number, and will be sent until it is certain. Waits while the room has too many requests waiting.
    ///
    /// # Errors
    /// If the request can never be accepted, or the outbox cannot take it.
    pub async fn submit(&self, _room: &str, _content: Content) -> Result<Ticket, SendError> {
        Err(SendError::Closed)
    }

    /// Sends a message and waits for its tick, however long that takes.
    ///
    /// # Errors
    /// If it is refused, or the outbox cannot take it. Never because of the network.
    pub async fn send(&self, room: &str, text: impl Into<String>) -> Result<Ack, SendError> {
        self.submit(room, Content::Text(text.into())).await?.wait().await
    }

    /// Becomes a member of a room.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn join(&self, room: &str) -> Result<Ack, SendError> {
        self.submit(room, Content::Join).await?.wait().await
    }

    /// Ends the membership of a room.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn leave(&self, room: &str) -> Result<Ack, SendError> {
        self.submit(room, Content::Leave).await?.wait().await
    }

    /// Says what a room is for.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn set_topic(&self, room: &str, topic: impl Into<String>) -> Result<Ack, SendError> {
        self.submit(room, Content::Topic(topic.into())).await?.wait().await
    }

    /// What is in the outbox and not certain yet, in order within each room.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        Vec::new()
    }

    /// How many requests are not certain yet.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        0
    }

    /// Waits until every request is certain, at most so long. How many are left.
    pub async fn flush(&self, _patience: Duration) -> usize {
        0
    }

    /// Follows rooms.
    #[must_use]
    pub fn subscribe(&self, _rooms: Vec<Follow>) -> Subscription {
        Subscription {}
    }

    /// Continues a subscription after the event that a token came with, and follows further rooms.
    #[must_use]
    pub fn resume(&self, _token: bytes::Bytes, _more: Vec<Follow>) -> Subscription {
        Subscription {}
    }

    /// Reads events that have already happened.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn history(&self, _query: HistoryQuery) -> Result<chat::HistoryResponse, CallError> {
        Err(CallError::Closed)
    }

    /// A page of the room directory: names greater than `after`, at most `limit` (0: the server's default).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn rooms(&self, _after: &str, _limit: u32) -> Result<chat::ListRoomsResponse, CallError> {
        Err(CallError::Closed)
    }

    /// The whole room directory.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn all_rooms(&self) -> Result<Vec<chat::Room>, CallError> {
        Err(CallError::Closed)
    }

    /// Makes a room, if it is not there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn create_room(&self, _name: &str) -> Result<chat::CreateRoomResponse, CallError> {
        Err(CallError::Closed)
    }

    /// What some node knows of the whole cluster.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<chat::GetServerStatusResponse, CallError> {
        Err(CallError::Closed)
    }

    /// What the node at this address knows of itself.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status_of(&self, _address: &str) -> Result<chat::GetServerStatusResponse, CallError> {
        Err(CallError::Closed)
    }

    /// Asks the node at this address for a sign of life; any node if it is empty.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ping(&self, _address: &str) -> Result<Pong, CallError> {
        Err(CallError::Closed)
    }

    /// Who this client is to the cluster.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::default()
    }

    /// The addresses of all known nodes, best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// The name of a room, if this client has come across it.
    #[must_use]
    pub fn room_name(&self, _room_id: u64) -> Option<Arc<str>> {
        None
    }

    /// Stops sending, ends the library's tasks, and writes what a durable outbox has still to write.
    /// Tickets that wait end with [`SendError::Closed`].
    pub async fn close(self) {}
}

/// Stands for a request until it is certain. Dropping it changes nothing: the request is still sent.
#[derive(Debug)]
pub struct Ticket {
    request_no: u64,
}

#[expect(clippy::unused_async, reason = "interface first")]
impl Ticket {
    /// The request's number in its room.
    #[must_use]
    pub fn request_no(&self) -> u64 {
        self.request_no
    }

    /// Waits for the tick, however long that takes.
    ///
    /// # Errors
    /// If the request is refused, or the client is closed.
    pub async fn wait(self) -> Result<Ack, SendError> {
        Err(SendError::Closed)
    }

    /// Waits for the tick, at most so long; then the answer is [`SendError::Queued`], the request
    /// stays in the outbox, and waiting can go on.
    ///
    /// # Errors
    /// As [`Ticket::wait`], and [`SendError::Queued`].
    pub async fn wait_for(&mut self, _patience: Duration) -> Result<Ack, SendError> {
        Err(SendError::Closed)
    }
}
