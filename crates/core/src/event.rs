//! Events: the history of a room.

use crate::access::{Role, RoomPolicy};
use crate::id::{RequestNo, RoomId, Seq, SessionId, UserId};
use crate::message::Answer;
use crate::record::{Founding, Person};

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

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The room was created. Always at seq 1.
    Created {
        /// The room's name.
        name: String,
        /// The rights with which the room begins; `None` for a room of the first feature level. The author is a member, and
        /// the owner; in a direct conversation, the people that it names are its members.
        founding: Option<Founding>,
    },
    /// The author posted this text.
    Message(String),
    /// The author posted a message that refers to an earlier one.
    Answer(Answer),
    /// The author gave an own message another text.
    Edited {
        /// The seq of the message.
        target: Seq,
        /// The message's text from now on.
        text: String,
    },
    /// The author deleted a message.
    Deleted {
        /// The seq of the message.
        target: Seq,
        /// Why; empty without a reason.
        reason: String,
    },
    /// The author reacted to a message, or took a reaction back.
    Reacted {
        /// The seq of the message.
        target: Seq,
        /// The reaction; see [`crate::message::check_emoji`].
        emoji: String,
        /// The reaction was taken back.
        off: bool,
    },
    /// A deleted message, or an edit of one: the event stays at its place, and its content is gone.
    Erased {
        /// The event that deleted the message.
        by: Seq,
        /// As [`Answer::thread`].
        thread: Seq,
        /// The message that this event had edited; 0 if it was a message itself.
        edit_of: Seq,
    },
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
    /// The author made somebody a member.
    MemberAdded {
        /// The new member.
        who: Person,
        /// The new member's role.
        role: Role,
    },
    /// The author ended somebody's membership, or banned somebody.
    MemberRemoved {
        /// Who is no member any more.
        who: Person,
        /// The user may not join again.
        banned: bool,
        /// The author's reason; empty without one.
        reason: String,
    },
    /// The author gave a member another role.
    RoleChanged {
        /// The member.
        who: Person,
        /// The member's role from now on.
        role: Role,
    },
    /// The author muted a member, or ended that.
    Muted {
        /// The member.
        who: Person,
        /// The member may not write before this time, milliseconds since 1970; 0 for not muted.
        until_ms: i64,
    },
    /// The author changed the room's policy.
    PolicyChanged(RoomPolicy),
}

impl EventKind {
    /// What is left of a message, or of an edit, that the event `by` deleted; `None` for an event of another kind, which
    /// nothing deletes.
    #[must_use]
    pub fn erased(&self, by: Seq) -> Option<Self> {
        let (thread, edit_of) = match self {
            Self::Message(_) => (Seq(0), Seq(0)),
            Self::Answer(answer) => (answer.thread, Seq(0)),
            Self::Edited { target, .. } => (Seq(0), *target),
            _ => return None,
        };
        Some(Self::Erased { by, thread, edit_of })
    }
}
