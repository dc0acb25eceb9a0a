//! The rows of a shard's state that commands read and change.

use crate::id::{DirectoryId, NodeId, RoomId, Seq, SessionId, UserId};

/// The meta shard's counters. Ids are given out from 1 and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaHead {
    /// The last room id given out, and so the number of rooms.
    pub last_room: RoomId,
    /// The last user id given out.
    pub last_user: UserId,
    /// The last session id given out.
    pub last_session: SessionId,
    /// What the cluster may use.
    pub feature_level: u32,
}

/// A room in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its id, from which its shard follows.
    pub room: RoomId,
    /// Its name, which is unique.
    pub name: String,
    /// Who asked for it.
    pub creator: UserId,
    /// That user's name.
    pub creator_name: String,
    /// When.
    pub created_ms: i64,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// Its id.
    pub user: UserId,
    /// Its name, which is unique.
    pub name: String,
    /// How many sessions it has opened.
    pub sessions: u32,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its id.
    pub session: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// That user's name.
    pub user_name: String,
    /// Digest of the secret half of its token.
    pub secret_digest: [u8; 16],
    /// What the client calls itself.
    pub client: String,
    /// When it was opened.
    pub opened_ms: i64,
}

/// What changes with every event. Small, because it is copied for each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomHead {
    /// The last event's place.
    pub last: Seq,
    /// The last event's time.
    pub last_time_ms: i64,
    /// How many users are members.
    pub members: u32,
}

/// What a room is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomInfo {
    /// As in the directory.
    pub name: String,
    /// What the room is for.
    pub topic: String,
    /// Who asked for it.
    pub creator: UserId,
    /// When.
    pub created_ms: i64,
}

/// A node as the meta shard knows it. Addresses are names that are resolved anew, never identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// For life.
    pub node: NodeId,
    /// For people.
    pub name: String,
    /// `host:port` of the client API.
    pub client_address: String,
    /// `host:port` for other nodes.
    pub peer_address: String,
    /// `host:port` of health and metrics.
    pub http_address: String,
    /// The data directory that the id belongs to.
    pub directory: DirectoryId,
    /// The program's version.
    pub version: String,
    /// The highest feature level that the program understands.
    pub feature_level: u32,
}
