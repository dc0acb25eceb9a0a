//! Arguments and results of the library's API.

use std::path::PathBuf;

use bytes::Bytes;
use conclave_core::name::{check_text, check_topic};
use conclave_core::{Action, Refusal, level};
use conclave_proto::action::from_content;
use conclave_proto::chat::{self, RoomAction, send_message_request};

/// Where requests are kept until their outcome is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outbox {
    /// In memory. Requests without an outcome are lost when the process ends.
    #[default]
    Memory,
    /// In this directory, synced before [`Client::submit`](crate::Client::submit) returns. The directory also keeps the
    /// session. One process can use it at a time.
    Durable(PathBuf),
}

/// A request that was refused while nobody waited for it. It will not be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The name of the room.
    pub room: String,
    /// What was to be sent.
    pub content: Content,
    /// Stable code, for example `room_unknown`; empty if there is none.
    pub code: String,
    /// The reason, for people.
    pub message: String,
}

/// The node that a room's requests are sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// The leader of the room's shard, or any node while the leader is unknown.
    #[default]
    Leader,
    /// The node that the client is connected to, whether it leads or not.
    Pinned,
}

/// What a request does in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A message.
    Text(String),
    /// A new topic of the room.
    Topic(String),
    /// Makes the user a member.
    Join,
    /// Ends the user's membership.
    Leave,
    /// Any action of the API, such as one of a newer feature level.
    Action(RoomAction),
}

impl Content {
    /// Refuses what the cluster would refuse, before the request gets a number.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Text(text) => check_text(text),
            Self::Topic(topic) => check_topic(topic),
            Self::Join | Self::Leave => Ok(()),
            // The cluster judges a kind that this library does not know.
            Self::Action(action) => known(action).map_or(Ok(()), |action| action.check()),
        }
    }

    /// The feature level that the cluster needs to have, as far as this library knows.
    pub(crate) fn level(&self) -> u32 {
        match self {
            Self::Text(_) | Self::Topic(_) | Self::Join | Self::Leave => level::FIRST,
            Self::Action(action) => known(action).map_or(level::FIRST, |action| action.level()),
        }
    }

    /// The protobuf form, in which it is stored and sent.
    pub(crate) fn into_wire(self) -> send_message_request::Content {
        match self {
            Self::Text(text) => send_message_request::Content::Text(text),
            Self::Topic(topic) => send_message_request::Content::Topic(topic),
            Self::Join => send_message_request::Content::Join(chat::Join {}),
            Self::Leave => send_message_request::Content::Leave(chat::Leave {}),
            Self::Action(action) => send_message_request::Content::Action(action),
        }
    }

    /// The reverse of [`Content::into_wire`].
    pub(crate) fn from_wire(content: send_message_request::Content) -> Self {
        match content {
            send_message_request::Content::Text(text) => Self::Text(text),
            send_message_request::Content::Topic(topic) => Self::Topic(topic),
            send_message_request::Content::Join(_) => Self::Join,
            send_message_request::Content::Leave(_) => Self::Leave,
            send_message_request::Content::Action(action) => Self::Action(action),
        }
    }
}

/// The action, if this library knows its kind.
fn known(action: &RoomAction) -> Option<Action> {
    from_content(send_message_request::Content::Action(action.clone())).ok()
}

/// The acknowledgement (tick): the request is on disk at a majority of the room's replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The room's id.
    pub room_id: u64,
    /// The request's number in the room.
    pub request_no: u64,
    /// The event's seq; 0 if nothing had to change, or if the cluster no longer has the reply (`forgotten`).
    pub seq: u64,
    /// The event's time, milliseconds since 1970.
    pub time_ms: i64,
    /// The request had been applied before; this is the first reply again.
    pub duplicate: bool,
    /// The cluster no longer keeps the reply. The request took effect once or was refused.
    pub forgotten: bool,
}

/// A request in the outbox whose outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The room's name.
    pub room: String,
    /// The request's number in the room.
    pub request_no: u64,
    /// What it does.
    pub content: Content,
}

/// How far a consumer has come in a room: it is done with the events up to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The room's id.
    pub room_id: u64,
    /// The seq of the last event that it is done with.
    pub seq: u64,
}

/// The session of this client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The session's id: events that it caused carry it.
    pub id: u64,
    /// The user's id.
    pub user_id: u64,
    /// The user's name.
    pub user: String,
    /// Id of the cluster that opened the session.
    pub cluster_id: String,
}

/// Where a subscription begins in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the next event.
    #[default]
    Now,
    /// With this many of the newest past events.
    Last(u32),
    /// After this seq; 0 is everything.
    After(u64),
}

/// A room to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// The room's name.
    pub room: String,
    /// Whether to become a member first.
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

    /// Sets where to begin.
    #[must_use]
    pub fn from(mut self, from: Start) -> Self {
        self.from = from;
        self
    }

    /// Joins the room first.
    #[must_use]
    pub fn join(mut self) -> Self {
        self.join = true;
        self
    }
}

/// An item of a subscription.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Incoming {
    /// The next event of a room. Its seq is the seq of the room's previous event plus one.
    Event(chat::Event),
    /// Every event that the node had when the stream reached the end has been delivered.
    CaughtUp {
        /// The newest seq of each room.
        rooms: Vec<chat::RoomPosition>,
        /// Token to resume from here.
        token: Bytes,
    },
    /// A stream was opened.
    Connected {
        /// The address of the node.
        node: String,
    },
    /// The stream ended, or could not be opened because all nodes are full. The subscription reopens it on any node
    /// that accepts it.
    Disconnected {
        /// The reason, for people.
        why: String,
    },
    /// The subscription leaves events out: retention has deleted them, or the user was no member then. The next event is
    /// `first_seq`.
    Truncated {
        /// The room's id.
        room_id: u64,
        /// The seq of the next event.
        first_seq: u64,
    },
    /// Nothing more of the room may be seen: the last event was delivered. The subscription goes on with its other rooms, and
    /// fails without any.
    RoomClosed {
        /// The room's id.
        room_id: u64,
        /// Stable code, for example `not_a_member`.
        code: String,
    },
    /// A sign of life while there are no events.
    Keepalive {
        /// Whether the node is in contact with a leader for each of the subscription's rooms.
        quorum: bool,
        /// Token to resume from here.
        token: Bytes,
    },
}

/// Events of one room, in order and without a gap: cheaper than single events at high rates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Consecutive events of one room.
    pub events: Vec<chat::Event>,
    /// Token to resume after the last of them.
    pub token: Bytes,
}

/// The events of a room to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// The newest.
    #[default]
    Newest,
    /// The newest with a seq smaller than this.
    Before(u64),
    /// The oldest with a seq greater than this.
    After(u64),
}

/// A page of history to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The room's name.
    pub room: String,
    /// Which events to read.
    pub window: Window,
    /// The maximum number of events; 0 is the server's default.
    pub limit: u32,
    /// Whether to include every event that was acknowledged before the call, which needs a majority. Otherwise the node
    /// answers with the events that it has applied.
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

    /// The protobuf form.
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

/// The answer to a ping.
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
