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
    /// The number of users who are active cluster admins.
    pub admins: u32,
    /// The number of invites that can still be used.
    pub invites: u32,
    /// What the cluster's admins have set.
    pub settings: Settings,
}

/// What the admins of a cluster have set. The default is the state of a cluster in which nobody has set anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Who may make accounts.
    pub registration: Registration,
}

/// Who may make accounts, and whether a name without a password can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// Everybody may take a free name, with a password or without one. A name without a password opens to everybody.
    #[default]
    Open,
    /// Everybody with an invite. A name without a password opens to nobody.
    Invite,
    /// Only the cluster's admins make accounts. A name without a password opens to nobody.
    Closed,
}

/// What a user is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserKind {
    /// A person.
    #[default]
    Person,
    /// A program, which has tokens and no password.
    Bot,
    /// A person from outside, who sees only the rooms of an invitation.
    Guest,
}

/// What a user may do in the whole cluster. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterRole {
    /// Nothing beside the own account.
    #[default]
    None,
    /// Read the settings and the accounts.
    Auditor,
    /// Drain nodes and spread clients.
    Operator,
    /// Everything, such as accounts and settings.
    Admin,
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
    /// How many sessions the user has opened, ever.
    pub sessions: u32,
    /// What the user is.
    pub kind: UserKind,
    /// What the user may do in the whole cluster.
    pub role: ClusterRole,
    /// The user's sessions are ended, and no new one can be opened.
    pub disabled: bool,
    /// How often the password was set; 0 without a password.
    pub credential_revision: u32,
    /// How many sessions are open: the length of the user's list of [`OpenSession`]. Sessions of feature level 1 that
    /// are not in the list are not counted.
    pub sessions_open: u32,
    /// When the account was made, milliseconds since 1970; 0 if it was made at feature level 1.
    pub created_ms: i64,
    /// The user's sessions that are not in the list of open ones have ended.
    pub unlisted_ended: bool,
}

impl UserRecord {
    /// A new account without a password.
    #[must_use]
    pub fn new(user: UserId, name: &str) -> Self {
        Self {
            user,
            name: name.to_owned(),
            sessions: 0,
            kind: UserKind::Person,
            role: ClusterRole::None,
            disabled: false,
            credential_revision: 0,
            sessions_open: 0,
            created_ms: 0,
            unlisted_ended: false,
        }
    }

    /// Whether the account has a password.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.credential_revision > 0
    }

    /// Whether the account counts as an admin who can act.
    #[must_use]
    pub fn is_active_admin(&self) -> bool {
        self.role == ClusterRole::Admin && !self.disabled
    }
}

/// A hashed password with its parameters and salt, in the PHC string format. Never printed by [`std::fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub struct Phc(pub String);

impl std::fmt::Debug for Phc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Phc")
    }
}

/// A user's password, hashed, in a row of its own: nobody but a log-in reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The user.
    pub user: UserId,
    /// The hashed password.
    pub phc: Phc,
    /// When the password was set, milliseconds since 1970.
    pub changed_ms: i64,
}

/// A permission to make an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Digest of the invite's secret.
    pub digest: [u8; 16],
    /// The only name that the invite is for; empty for any free name. With a name, the invite also claims the account
    /// of that name, if the account has no password.
    pub name: String,
    /// What the user will be.
    pub kind: UserKind,
    /// What the user will be allowed to do.
    pub role: ClusterRole,
    /// How often the invite can still be used.
    pub uses: u32,
    /// When the invite expires, milliseconds since 1970; 0: never.
    pub expires_ms: i64,
    /// The user who made the invite; 0 for an operator.
    pub by: UserId,
}

/// An entry of a user's list of open sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// The session.
    pub session: SessionId,
    /// The last day on which the session was seen, as [`SessionRecord::seen_day`].
    pub seen_day: u32,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionKind {
    /// A client of a person.
    #[default]
    Login,
    /// A program that acts for a person.
    Access,
    /// A bot.
    Bot,
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
    /// What the session is for.
    pub kind: SessionKind,
    /// The user's name for the session; empty for none.
    pub label: String,
    /// When the session expires, milliseconds since 1970; 0: never.
    pub expires_ms: i64,
    /// The last day on which the session was seen, days since 1970; 0 if the session was not seen since feature level 2.
    pub seen_day: u32,
    /// The session is in the user's list of open sessions, as every session that was opened at feature level 2.
    pub listed: bool,
    /// The session has ended. The row stays until every shard knows.
    pub closed: bool,
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
    /// The origin at which browsers reach the node; empty where it serves no pages for them.
    pub web_address: String,
    /// The data dir that the node id belongs to.
    pub directory: DataDirId,
    /// The program's version.
    pub version: String,
    /// The highest feature level that the program understands.
    pub feature_level: u32,
}
