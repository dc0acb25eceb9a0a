//! The rows of a shard's state that commands read and change.

use crate::access::{RoomKind, RoomPolicy};
use crate::id::{DataDirId, NodeId, RoomId, Seq, SessionId, UserId};

/// The meta shard's counters. Ids are given out from 1 and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaHead {
    /// The last room id given out, and so the number of rooms.
    pub last_room: RoomId,
    /// The last user id given out.
    pub last_user: UserId,
    /// The last session id given out.
    pub last_session: SessionId,
    /// The cluster's feature level; see [`crate::level`].
    pub feature_level: u32,
}

/// A room in the room directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The room's id, from which its shard follows.
    pub room: RoomId,
    /// The room's name, which is unique.
    pub name: String,
    /// The user who asked for the room.
    pub creator: UserId,
    /// The creator's name.
    pub creator_name: String,
    /// When the room was created, milliseconds since 1970.
    pub created_ms: i64,
    /// The rights with which the room begins; `None` for a room of the first feature level.
    pub founding: Option<Founding>,
}

/// The rights with which a room begins. Feature level 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    /// Who finds and reads the room.
    pub kind: RoomKind,
    /// The people of a direct conversation, ascending by id; empty for other rooms, where the creator is the owner.
    pub people: Vec<Person>,
}

/// A user by id and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// The user's id.
    pub user: UserId,
    /// The user's name.
    pub name: String,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// The user's id.
    pub user: UserId,
    /// The user's name, which is unique.
    pub name: String,
    /// How many sessions the user has opened.
    pub sessions: u32,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session's id.
    pub session: SessionId,
    /// The user who opened the session.
    pub user: UserId,
    /// The user's name.
    pub user_name: String,
    /// Digest of the secret half of the session's token.
    pub secret_digest: [u8; 16],
    /// The client's description of itself.
    pub client: String,
    /// When the session was opened, milliseconds since 1970.
    pub opened_ms: i64,
}

/// The part of a room's state that changes with every event. Small, because it is copied for each event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomHead {
    /// The last event's position; 0 without events.
    pub last: Seq,
    /// The last event's time, milliseconds since 1970.
    pub last_time_ms: i64,
    /// How many users are members.
    pub members: u32,
    /// The room's policy. Rooms of the first feature level are open.
    pub policy: RoomPolicy,
}

/// A room's description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomInfo {
    /// The room's name, as in the room directory.
    pub name: String,
    /// The room's topic; empty until one is set.
    pub topic: String,
    /// The user who asked for the room.
    pub creator: UserId,
    /// When the room was created, milliseconds since 1970.
    pub created_ms: i64,
}

/// A node as the meta shard knows it. Addresses are names that are resolved anew, never identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node's id, which never changes.
    pub node: NodeId,
    /// The node's name, for display.
    pub name: String,
    /// `host:port` of the client API.
    pub client_address: String,
    /// `host:port` for other nodes.
    pub peer_address: String,
    /// `host:port` of health and metrics.
    pub http_address: String,
    /// The data dir that the node id belongs to.
    pub directory: DataDirId,
    /// The program's version.
    pub version: String,
    /// The highest feature level that the program understands.
    pub feature_level: u32,
}
