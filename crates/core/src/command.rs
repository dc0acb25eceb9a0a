//! The commands that a shard's log can contain.

use crate::access::{Powers, RoomKind};
use crate::action::Action;
use crate::id::{RequestNo, RoomId, SessionId, UserId};
use crate::level;
use crate::people::{AccountChange, Closing, LogIn};
use crate::record::{Founding, Invite, NodeRecord, Person, Phc, Registration};
use crate::ring::Layout;

/// One instruction to the state machine. A command concerns one room, or the meta shard.
///
/// Values that differ between replicas (time, random ids) are part of the command: the leader
/// stamped them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Data shard: create a room that the room directory already lists. Idempotent. The room directory
    /// and the room live in different shards; a gateway that finds the room missing repeats this.
    OpenRoom {
        /// The id that the room directory gave out.
        room: RoomId,
        /// The room's name in the room directory.
        name: String,
        /// The user who asked for the room.
        creator: Person,
        /// The rights with which the room begins; `None` for a room of the first feature level.
        founding: Option<Founding>,
    },
    /// Data shard: an action of a session in a room.
    Act {
        /// The room of the action.
        room: RoomId,
        /// The session, and the request's number in it.
        origin: Origin,
        /// The action itself.
        action: Action,
    },
    /// Meta shard: add a room to the room directory. Idempotent by name.
    CreateRoom {
        /// The name; see [`crate::name::check_room_name`].
        name: String,
        /// The user who asks for the room.
        creator: UserId,
        /// Who finds and reads the room, open or private; `None` for a room of the first feature level.
        kind: Option<RoomKind>,
    },
    /// Meta shard: add the direct conversation between these people to the room directory. Idempotent by people. Feature
    /// level 2.
    OpenDirect {
        /// The user who asks for the conversation, one of the people.
        creator: UserId,
        /// 1 to [`crate::limits::DIRECT_PEOPLE_MAX`] users, ascending; a conversation of one is notes to self.
        people: Vec<UserId>,
    },
    /// Meta shard: open a session for the user of this name. The first session of a name creates the user.
    OpenSession {
        /// The user's name; see [`crate::name::check_user_name`].
        user: String,
        /// Digest of the secret half of the session's token.
        secret_digest: [u8; 16],
        /// The client's description of itself; a longer one than
        /// [`crate::limits::CLIENT_NAME_BYTES_MAX`] is truncated.
        client: String,
    },
    /// Meta shard: a node registers its addresses. Refused if the node's id belongs to another data dir.
    RegisterNode(NodeRecord),
    /// Meta shard: replace the layout of version `replaces`.
    SetLayout {
        /// The new layout; its version is `replaces + 1`.
        layout: Layout,
        /// The version of the layout that the new one was computed from.
        replaces: u64,
    },
    /// Meta shard: raise the cluster's feature level to one that every node supports.
    SetFeatureLevel(u32),
    /// Meta shard: make an account, or change one. Feature level 2, as all that follow.
    SetAccount(AccountChange),
    /// Meta shard: set a user's password. Refused if it was set since `expects_revision`.
    SetPassword {
        /// The user.
        user: UserId,
        /// The hashed password.
        phc: Phc,
        /// [`crate::record::UserRecord::credential_revision`] that the caller has seen.
        expects_revision: u32,
        /// The sessions of the user that end with the earlier password; the user in it is not looked at.
        closing: Option<Closing>,
    },
    /// Meta shard: add an invite, or withdraw one.
    PutInvite(Invite),
    /// Meta shard: make an account with a password, by an invite or where everybody may. An invite for the name of an
    /// account without a password claims it.
    Register {
        /// Digest of the invite's secret.
        invite: Option<[u8; 16]>,
        /// The name; see [`crate::name::check_user_name`].
        name: String,
        /// The hashed password.
        phc: Phc,
    },
    /// Meta shard: open a session for a user whose password a gateway has checked.
    LogIn(LogIn),
    /// Meta shard: set who may make accounts.
    SetRegistration(Registration),
    /// Meta shard: close sessions.
    CloseSessions(Closing),
    /// Meta shard: remove the rows of closed sessions. Proposed once every data shard has decided
    /// [`Command::EndSession`] for them.
    ForgetSessions(Vec<SessionId>),
    /// Meta shard: note the days on which sessions were seen, days since 1970.
    SeenSessions(Vec<(SessionId, u32)>),
    /// Data shard: the session has ended. Its request numbers are dropped, and nothing of it is decided any more.
    EndSession {
        /// The session.
        session: SessionId,
    },
}

impl Command {
    /// Whether a client asked for the command. All others are few, small, and keep the cluster in order.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        match self {
            Self::OpenRoom { .. }
            | Self::Act { .. }
            | Self::CreateRoom { .. }
            | Self::OpenDirect { .. }
            | Self::OpenSession { .. }
            | Self::SetAccount(_)
            | Self::SetPassword { .. }
            | Self::PutInvite(_)
            | Self::Register { .. }
            | Self::LogIn(_)
            | Self::SetRegistration(_) => true,
            // To close sessions, and to forget them, keeps the cluster in order.
            Self::RegisterNode(_)
            | Self::SetLayout { .. }
            | Self::SetFeatureLevel(_)
            | Self::CloseSessions(_)
            | Self::ForgetSessions(_)
            | Self::SeenSessions(_)
            | Self::EndSession { .. } => false,
        }
    }

    /// The level that a cluster needs to have before this command may stand in one of its logs.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Act { action, origin, .. } if origin.powers == Powers::default() => action.level(),
            Self::Act { .. }
            | Self::OpenDirect { .. }
            | Self::OpenRoom { founding: Some(_), .. }
            | Self::CreateRoom { kind: Some(_), .. } => level::RIGHTS,
            // A node that does not understand a level must stop instead of deciding differently.
            Self::SetFeatureLevel(level) => *level,
            Self::OpenRoom { .. }
            | Self::CreateRoom { .. }
            | Self::OpenSession { .. }
            | Self::RegisterNode(_)
            | Self::SetLayout { .. } => level::FIRST,
            Self::SetAccount(_)
            | Self::SetPassword { .. }
            | Self::PutInvite(_)
            | Self::Register { .. }
            | Self::LogIn(_)
            | Self::SetRegistration(_)
            | Self::CloseSessions(_)
            | Self::ForgetSessions(_)
            | Self::SeenSessions(_)
            | Self::EndSession { .. } => level::ACCOUNTS,
        }
    }
}

/// The session that acts, and the number of the request in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The session; stamped by the gateway from the token.
    pub session: SessionId,
    /// The session's user; stamped by the gateway from the token.
    pub author: UserId,
    /// The author's name.
    pub author_name: String,
    /// The request's number; 0 only for actions that are idempotent by themselves.
    pub request: RequestNo,
    /// The client has the answers of all requests up to this number.
    pub settled: RequestNo,
    /// What the author may do in every room; stamped by the gateway from the account.
    pub powers: Powers,
}
