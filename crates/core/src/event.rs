//! Events: the history of a room.

use crate::id::{RequestNo, RoomId, Seq, SessionId, UserId};

/// One event. Its [`Seq`] is its identity within the room; wall time never orders anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomEvent {
    /// The room of the event.
    pub room: RoomId,
    /// Its position in the room: dense, from 1.
    pub seq: Seq,
    /// Milliseconds since 1970, stamped by the leader. Never decreases within the room.
    pub time_ms: i64,
    /// The user who caused the event.
    pub author: UserId,
    /// The author's name at that time.
    pub author_name: String,
    /// The session that caused the event; 0 for none.
    pub session: SessionId,
    /// The number of the session's request; 0 for a request without a number.
    pub request: RequestNo,
    /// The event's kind and content.
    pub kind: EventKind,
}

/// The kinds of events. Edits, deletions, reactions and receipts will be further kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The room was created under this name. Always at seq 1.
    Created(String),
    /// The author posted this text.
    Message(String),
    /// The author set this topic.
    TopicChanged(String),
    /// The author became a member.
    Joined,
    /// The author stopped being a member.
    Left,
    /// The author pinned or unpinned an event of the room.
    Pinned {
        /// The seq of the pinned or unpinned event.
        target: Seq,
        /// The event was unpinned.
        off: bool,
    },
}
