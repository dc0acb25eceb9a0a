//! Everything that a shard's log can contain.

use crate::action::Action;
use crate::id::{RequestNo, RoomId, SessionId, UserId};
use crate::level;
use crate::record::NodeRecord;
use crate::ring::Layout;

/// What an entry asks the machine to do. One command concerns one room, or the meta shard.
///
/// Everything that is not the same on every replica (time, random ids) is in here already: the
/// leader stamped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Data shard: make the room that the directory names exist here. Idempotent. The directory and
    /// the room live in different shards; whoever finds the room missing repeats this.
    OpenRoom {
        /// As the directory gave it out.
        room: RoomId,
        /// As the directory has it.
        name: String,
        /// Who asked for the room.
        creator: UserId,
        /// That user's name.
        creator_name: String,
    },
    /// Data shard: something that a session does in a room.
    Act {
        /// Where.
        room: RoomId,
        /// Who, and as which of its requests.
        origin: Origin,
        /// What.
        action: Action,
    },
    /// Meta shard: put a room into the directory. Idempotent by name.
    CreateRoom {
        /// See [`crate::name::check_room_name`].
        name: String,
        /// Who asks.
        creator: UserId,
    },
    /// Meta shard: name a user (made at the first time) and give out a session.
    OpenSession {
        /// See [`crate::name::check_user_name`].
        user: String,
        /// Digest of the secret half of the session's token.
        secret_digest: [u8; 16],
        /// What the client calls itself.
        client: String,
    },
    /// Meta shard: a node says where it is. Refused if its id belongs to another directory.
    RegisterNode(NodeRecord),
    /// Meta shard: replace the layout of version `replaces`.
    SetLayout {
        /// The new layout; its version is `replaces + 1`.
        layout: Layout,
        /// The version that it was computed from.
        replaces: u64,
    },
    /// Meta shard: allow what every node has learned to understand.
    SetFeatureLevel(u32),
}

impl Command {
    /// The level that a cluster needs to have before this command may stand in one of its logs.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Act { action, .. } => action.level(),
            // A node that does not understand a level must not go on as if it did.
            Self::SetFeatureLevel(level) => *level,
            Self::OpenRoom { .. }
            | Self::CreateRoom { .. }
            | Self::OpenSession { .. }
            | Self::RegisterNode(_)
            | Self::SetLayout { .. } => level::FIRST,
        }
    }
}

/// Who acts, and as which of a session's requests in that room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The session; stamped by the gateway from the token.
    pub session: SessionId,
    /// The session's user; stamped by the gateway from the token.
    pub author: UserId,
    /// That user's name.
    pub author_name: String,
    /// The request's number; 0 only for what is idempotent by itself.
    pub request: RequestNo,
    /// The client has the answers of all requests up to here.
    pub settled: RequestNo,
}
