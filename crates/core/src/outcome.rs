//! The outcome of a command: its reply, the changes to write, the event to publish.

use crate::access::Member;
use crate::event::RoomEvent;
use crate::id::{RequestNo, RoomId, Seq, SessionId, UserId};
use crate::message::MessageState;
use crate::record::{
    Credential, DirectoryEntry, Invite, MetaHead, NodeRecord, OpenSession, RoomHead, RoomInfo, SessionRecord,
    UserRecord,
};
use crate::refusal::Refusal;
use crate::ring::Layout;
use crate::session::StoredReply;

/// The outcome of one command. A value, so that it can be printed, compared and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The answer to the command's proposer.
    pub reply: Reply,
    /// The changes to write in one transaction with the applied index.
    pub changes: Vec<Change>,
    /// The event to publish once the changes are applied, if any.
    pub event: Option<RoomEvent>,
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request became this event.
    Acked {
        /// The event's position in the room.
        seq: Seq,
        /// The event's time, milliseconds since 1970.
        time_ms: i64,
        /// The request had been decided before; this is the first answer again.
        duplicate: bool,
    },
    /// The request was valid and made no event: the state already was as requested, or it moved a read marker.
    Unchanged,
    /// The request was decided before, and its stored answer is gone. It had one effect, or was refused.
    Forgotten,
    /// A final no.
    Refused(Refusal),
    /// The room directory has the room.
    RoomCreated {
        /// The room's id.
        room: RoomId,
        /// Whether this command created the room.
        created: bool,
    },
    /// A session was given out.
    SessionOpened {
        /// The session's id.
        session: SessionId,
        /// The id of the session's user.
        user: UserId,
    },
    /// The command took effect, now or earlier.
    Done,
    /// An account was made or changed, now or earlier.
    Account {
        /// The account's user.
        user: UserId,
        /// How often the account's password was set.
        credential_revision: u32,
    },
}

/// One row to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces a room's head.
    RoomHead(RoomId, RoomHead),
    /// Replaces a room's description.
    RoomInfo(RoomId, RoomInfo),
    /// Replaces a room's topic.
    Topic(RoomId, String),
    /// Adds or removes a member.
    Member {
        /// The room.
        room: RoomId,
        /// The user.
        user: UserId,
        /// What the room knows of the user from now on; `None` if nothing.
        member: Option<Member>,
    },
    /// Replaces what the room knows of a message.
    Message {
        /// The room.
        room: RoomId,
        /// The message.
        seq: Seq,
        /// Its state from now on.
        state: MessageState,
    },
    /// Replaces the content of events by [`crate::EventKind::erased`], for good.
    Erase {
        /// The room.
        room: RoomId,
        /// A message and its edits.
        seqs: Vec<Seq>,
        /// The event that deleted the message.
        by: Seq,
    },
    /// Passes `reply` and `settled` to [`crate::session::SessionRoom::record`].
    Replied {
        /// The session that sent the request.
        session: SessionId,
        /// The room of the request.
        room: RoomId,
        /// The reply to store for repeats.
        reply: StoredReply,
        /// The client has the answers of all requests up to this number.
        settled: RequestNo,
    },
    /// Replaces the count of [`crate::View::session_rooms`].
    SessionRooms(SessionId, u32),
    /// Replaces the meta shard's counters.
    Meta(MetaHead),
    /// Adds a room to the room directory.
    Directory(DirectoryEntry),
    /// Adds or replaces a user.
    User(UserRecord),
    /// Adds or replaces a session.
    Session(SessionRecord),
    /// Removes a session that has ended, also from the ended sessions that shards must still hear of.
    SessionForgotten(SessionId),
    /// Replaces the list of a user's open sessions.
    OpenSessions(UserId, Vec<OpenSession>),
    /// Adds a session to those of which shards must still hear that they have ended.
    Ending(SessionId),
    /// Replaces a user's password.
    Credential(Credential),
    /// Reserves the folded form of a user's name, so that no new account looks alike; see [`crate::name::folded`].
    Folded {
        /// The folded form.
        folded: String,
        /// The user's name.
        name: String,
    },
    /// Adds or replaces an invite; removes one without uses.
    Invite(Invite),
    /// Data shard: the session has ended. Its request numbers and stored replies are dropped, and
    /// [`crate::View::session_rooms`] is [`crate::session::ENDED`] from now on.
    SessionEnded(SessionId),
    /// Adds or replaces a node.
    Node(NodeRecord),
    /// Replaces the layout.
    Layout(Layout),
}

impl Outcome {
    pub(crate) fn reply(reply: Reply) -> Self {
        Self { reply, changes: Vec::new(), event: None }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::reply(Reply::Refused(refusal))
    }
}
