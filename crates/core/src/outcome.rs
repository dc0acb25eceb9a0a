//! What a command did: its reply, the changes to write, the event to publish.

use crate::event::RoomEvent;
use crate::id::{RequestNo, RoomId, Seq, SessionId, UserId};
use crate::record::{DirectoryEntry, MetaHead, NodeRecord, RoomHead, RoomInfo, SessionRecord, UserRecord};
use crate::refusal::Refusal;
use crate::ring::Layout;
use crate::session::StoredReply;

/// What one command did. A value, so that it can be printed, compared and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For whoever proposed the command.
    pub reply: Reply,
    /// What to write, together with the applied index.
    pub changes: Vec<Change>,
    /// What to publish once the changes are applied.
    pub event: Option<RoomEvent>,
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It became this event.
    Acked {
        /// The event's place in the room.
        seq: Seq,
        /// The event's time.
        time_ms: i64,
        /// Decided before; this is that answer again.
        duplicate: bool,
    },
    /// There was nothing to change.
    Unchanged,
    /// Decided so long ago that the answer is forgotten. It had one effect, or was refused.
    Forgotten,
    /// No, for good.
    Refused(Refusal),
    /// The directory has the room.
    RoomCreated {
        /// Its id.
        room: RoomId,
        /// Whether this command made it.
        created: bool,
    },
    /// A session was given out.
    SessionOpened {
        /// Its id.
        session: SessionId,
        /// Its user's id.
        user: UserId,
    },
    /// Done, or done already.
    Done,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces a room's head.
    RoomHead(RoomId, RoomHead),
    /// Sets what a room is.
    RoomInfo(RoomId, RoomInfo),
    /// Replaces a room's topic.
    Topic(RoomId, String),
    /// Adds or removes a member.
    Member {
        /// Where.
        room: RoomId,
        /// Who.
        user: UserId,
        /// Whether the user is a member from now on.
        present: bool,
    },
    /// Passes `reply` and `settled` to [`crate::session::SessionRoom::record`].
    Replied {
        /// Whose.
        session: SessionId,
        /// Where.
        room: RoomId,
        /// What is stored for repeats.
        reply: StoredReply,
        /// What the client has settled.
        settled: RequestNo,
    },
    /// Replaces the count of [`crate::View::session_rooms`].
    SessionRooms(SessionId, u32),
    /// Replaces the meta shard's counters.
    Meta(MetaHead),
    /// Adds a room to the directory.
    Directory(DirectoryEntry),
    /// Adds or replaces a user.
    User(UserRecord),
    /// Adds a session.
    Session(SessionRecord),
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
