//! What goes in and out of the library.

use std::path::PathBuf;

use bytes::Bytes;
use conclave_core::Refusal;
use conclave_core::name::{check_text, check_topic};
use conclave_proto::chat::{self, send_message_request};

/// Where requests wait until they are certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outbox {
    /// In memory: what is not certain when the process dies is lost with it.
    #[default]
    Memory,
    /// In this directory, synced before [`Client::submit`](crate::Client::submit) returns. It also keeps the session. One process at a time.
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

/// What a request does in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Says something.
    Text(String),
    /// Says what the room is for.
    Topic(String),
    /// Makes the user a member.
    Join,
    /// Ends the user's membership.
    Leave,
}

impl Content {
    /// What the cluster would refuse anyway is refused here, before it gets a number.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Text(text) => check_text(text),
            Self::Topic(topic) => check_topic(topic),
            Self::Join | Self::Leave => Ok(()),
        }
    }

    /// As it is stored and sent.
    pub(crate) fn into_wire(self) -> send_message_request::Content {
        match self {
            Self::Text(text) => send_message_request::Content::Text(text),
            Self::Topic(topic) => send_message_request::Content::Topic(topic),
            Self::Join => send_message_request::Content::Join(chat::Join {}),
            Self::Leave => send_message_request::Content::Leave(chat::Leave {}),
        }
    }

    /// From how it is stored and sent.
    pub(crate) fn from_wire(content: send_message_request::Content) -> Self {
        match content {
            send_message_request::Content::Text(text) => Self::Text(text),
            send_message_request::Content::Topic(topic) => Self::Topic(topic),
            send_message_request::Content::Join(_) => Self::Join,
            send_message_request::Content::Leave(_) => Self::Leave,
        }
    }
}

/// The tick: the request is on disk at a majority of the room's replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Which room.
    pub room_id: u64,
    /// The request's number in the room.
    pub request_no: u64,
    /// The event's place in the room; 0 where nothing had to change, or where it is forgotten.
    pub seq: u64,
    /// The event's time, milliseconds since 1970.
    pub time_ms: i64,
    /// It had been decided before; a repeat got the first answer.
    pub duplicate: bool,
    /// Decided so long ago that the cluster no longer knows the answer. It took effect or was refused, once.
    pub forgotten: bool,
}

/// A request in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The room's name.
    pub room: String,
    /// The request's number in the room.
    pub request_no: u64,
    /// What it does.
    pub content: Content,
}

/// Who this client is to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The session's id: events that it caused carry it.
    pub id: u64,
    /// The user's id.
    pub user_id: u64,
    /// The user's name.
    pub user: String,
    /// The cluster that gave the session out.
    pub cluster_id: String,
}

/// Where a subscription begins in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what happens from now on.
    #[default]
    Now,
    /// With this many events that have already happened.
    Last(u32),
    /// After this seq; 0 is everything.
    After(u64),
}

/// A room to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// The room's name.
    pub room: String,
    /// Become a member first.
    pub join: bool,
    /// Where to begin.
    pub from: Start,
}

impl Follow {
    /// Follows a room from now on, without joining it.
    #[must_use]
    pub fn room(name: impl Into<String>) -> Self {
        Self { room: name.into(), join: false, from: Start::Now }
    }

    /// The same, beginning elsewhere.
    #[must_use]
    pub fn from(mut self, from: Start) -> Self {
        self.from = from;
        self
    }

    /// The same, as a member.
    #[must_use]
    pub fn join(mut self) -> Self {
        self.join = true;
        self
    }
}

/// What a subscription brings.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Incoming {
    /// The next event of a room: its seq is the last one plus one.
    Event(chat::Event),
    /// Everything that had happened when the stream reached the node's end has been delivered.
    CaughtUp {
        /// Where each room stands.
        rooms: Vec<chat::RoomPosition>,
        /// Resumes here.
        token: Bytes,
    },
    /// A stream is open.
    Connected {
        /// The address of the node.
        node: String,
    },
    /// The stream ended, or could not be opened because all nodes are full. It is continued as soon as some node takes it.
    Disconnected {
        /// For people.
        why: String,
    },
    /// Retention has passed the subscription by: what lies between was deleted, and the next event is `first_seq`.
    Truncated {
        /// Where.
        room_id: u64,
        /// The next event.
        first_seq: u64,
    },
    /// A sign of life, and how the cluster is.
    Keepalive {
        /// Whether the node hears from a leader for each of the subscription's rooms.
        quorum: bool,
        /// Resumes here.
        token: Bytes,
    },
}

/// Events of one room, in order and without a gap; what is cheapest at high rates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Consecutive events of one room.
    pub events: Vec<chat::Event>,
    /// Resumes after the last of them.
    pub token: Bytes,
}

/// Which events of a room to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// The newest.
    #[default]
    Newest,
    /// The newest with a smaller seq.
    Before(u64),
    /// The oldest with a greater seq.
    After(u64),
}

/// A page of history to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The room's name.
    pub room: String,
    /// Which events.
    pub window: Window,
    /// At most so many; 0 is the server's default.
    pub limit: u32,
    /// See every event acknowledged before the call; needs a majority. Otherwise what the node has applied.
    pub linearizable: bool,
}

impl HistoryQuery {
    /// The newest events of a room.
    #[must_use]
    pub fn newest(room: impl Into<String>, limit: u32) -> Self {
        Self { room: room.into(), window: Window::Newest, limit, linearizable: false }
    }

    /// The oldest events after a seq.
    #[must_use]
    pub fn after(room: impl Into<String>, seq: u64, limit: u32) -> Self {
        Self { room: room.into(), window: Window::After(seq), limit, linearizable: false }
    }

    /// As it is sent.
    pub(crate) fn into_wire(self) -> chat::HistoryRequest {
        let consistency =
            if self.linearizable { chat::Consistency::Linearizable } else { chat::Consistency::Local };
        chat::HistoryRequest {
            room: Some(chat::RoomRef { name: self.room, id: 0 }),
            limit: self.limit,
            consistency: consistency.into(),
            r#where: match self.window {
                Window::Newest => None,
                Window::Before(seq) => Some(chat::history_request::Where::BeforeSeq(seq)),
                Window::After(seq) => Some(chat::history_request::Where::AfterSeq(seq)),
            },
        }
    }
}

/// Answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The address that was asked.
    pub address: String,
    /// The node's id.
    pub node_id: u64,
    /// The node's version.
    pub version: String,
    /// The node's clock, milliseconds since 1970.
    pub time_ms: i64,
    /// How long the answer took.
    pub took: std::time::Duration,
}
