//! What happened in a room.

use crate::id::{RequestNo, RoomId, Seq, SessionId, UserId};

/// One event. Its [`Seq`] is its identity within the room; wall time never orders anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomEvent {
    /// Where.
    pub room: RoomId,
    /// Its place: dense, from 1.
    pub seq: Seq,
    /// Milliseconds since 1970, stamped by the leader, never running backwards within the room.
    pub time_ms: i64,
    /// Who.
    pub author: UserId,
    /// That user's name.
    pub author_name: String,
    /// Through which session; 0 for what no session did.
    pub session: SessionId,
    /// As which of its requests.
    pub request: RequestNo,
    /// What.
    pub kind: EventKind,
}

/// What kind of event. Edits, deletions, reactions and receipts will be further kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The room began. Always at seq 1.
    Created(String),
    /// Somebody said something.
    Message(String),
    /// Somebody said what the room is for.
    TopicChanged(String),
    /// Somebody became a member.
    Joined,
    /// Somebody stopped being one.
    Left,
    /// Somebody marked an event of the room, or took the mark away.
    Pinned {
        /// The event.
        target: Seq,
        /// The mark was taken away.
        off: bool,
    },
}
