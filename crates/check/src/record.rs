//! The records of a history in memory: numbers only, so that a million operations fit.

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The room was created.
    Created,
    /// A message.
    Message,
    /// The topic was changed.
    Topic,
    /// A user joined the room.
    Joined,
    /// A user left the room.
    Left,
    /// A member made a user a member.
    MemberAdded,
    /// Somebody ended a user's membership.
    MemberRemoved,
    /// The author gave a message another text; the event is about the message.
    Edited,
    /// Somebody deleted a message; the event is about the message.
    Deleted,
    /// Somebody reacted to a message; the event is about the message.
    Reacted,
    /// What is left of a message or of an edit that was deleted; the event is about the deletion.
    Erased,
    /// The policy was changed. The body is [`SINCE_JOIN`] if newcomers see only what happens from their joining on, and
    /// anything else if they see all events.
    Policy,
}

/// The body of the event that hides the past from newcomers.
pub const SINCE_JOIN: &str = "since_join";

impl What {
    pub(crate) const ALL: [Self; 12] = [
        Self::Created,
        Self::Message,
        Self::Topic,
        Self::Joined,
        Self::Left,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::Edited,
        Self::Deleted,
        Self::Reacted,
        Self::Erased,
        Self::Policy,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Message => "message",
            Self::Topic => "topic",
            Self::Joined => "joined",
            Self::Left => "left",
            Self::MemberAdded => "member_added",
            Self::MemberRemoved => "member_removed",
            Self::Edited => "edited",
            Self::Deleted => "deleted",
            Self::Reacted => "reacted",
            Self::Erased => "erased",
            Self::Policy => "policy",
        }
    }
}

/// An event as a client saw it, to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The seq in the room.
    pub seq: u64,
    /// The session that sent it; 0 for none.
    pub session: u64,
    /// The request number in that session; 0 for none.
    pub no: u64,
    /// The kind.
    pub what: What,
    /// The text or the topic; of a change of members the user's name.
    pub body: &'a str,
    /// The id of the user who joined, left, was added or was removed, or the seq of the event that this one is about; 0 for
    /// an event about nothing.
    pub about: u64,
    /// The id of the user who caused it; 0 where that is not recorded.
    pub author: u64,
}

impl<'a> Event<'a> {
    /// A message.
    #[must_use]
    pub fn message(seq: u64, session: u64, no: u64, text: &'a str) -> Self {
        Self { seq, session, no, what: What::Message, body: text, about: 0, author: 0 }
    }

    /// The creation of a room.
    #[must_use]
    pub fn created(seq: u64) -> Self {
        Self { seq, session: 0, no: 0, what: What::Created, body: "", about: 0, author: 0 }
    }
}

/// A request's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestKey {
    pub(crate) session: u64,
    pub(crate) room: u64,
    pub(crate) no: u64,
}

/// The content of a request or of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) what: What,
    /// Hash of the body.
    pub(crate) body: u64,
}

/// An event as a client saw it, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) send: RequestKey,
    pub(crate) seq: u64,
    pub(crate) content: Content,
    /// See [`Event::about`].
    pub(crate) about: u64,
    /// See [`Event::author`].
    pub(crate) author: u64,
}

/// Stands for the name of a subscriber, a replica or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ReaderId(pub(crate) u32);

/// One stream of a subscriber, in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    pub(crate) reader: ReaderId,
    pub(crate) stream: u64,
    pub(crate) room: u64,
}

/// One line of a history. The crate documentation describes the kinds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record {
    /// `node` is the only node that the client may use, if it is pinned to one.
    Invoke {
        at: u64,
        send: RequestKey,
        content: Content,
        /// As [`Event::about`], for requests about an event.
        about: u64,
        node: Option<ReaderId>,
    },
    Acked {
        at: u64,
        send: RequestKey,
        seq: u64,
    },
    Refused {
        send: RequestKey,
    },
    Unknown {
        send: RequestKey,
    },
    Observed {
        at: u64,
        stream: Stream,
        seen: Seen,
        /// The user to whom the event was delivered; 0 where that was not recorded.
        user: u64,
    },
    Resumed {
        stream: Stream,
        after: u64,
        node: Option<ReaderId>,
    },
    CaughtUp {
        stream: Stream,
        seq: u64,
    },
    Truncated {
        stream: Stream,
        seq: u64,
    },
    Closed {
        stream: Stream,
        user: u64,
    },
    Private {
        room: u64,
        owner: u64,
    },
    /// A message of a page, as people have left it: the page goes up to `last`, the text is that of the edit `edited`.
    Shown {
        reader: ReaderId,
        room: u64,
        seq: u64,
        last: u64,
        content: Content,
        edited: u64,
    },
    FinalRead {
        reader: ReaderId,
        room: u64,
        after: u64,
        last: u64,
    },
    Final {
        reader: ReaderId,
        seen: Seen,
    },
    Read {
        begun: u64,
        ended: u64,
        room: u64,
        last: u64,
        node: Option<ReaderId>,
    },
    Cut {
        at: u64,
        node: ReaderId,
    },
    Healed {
        at: u64,
        node: ReaderId,
    },
}

impl Record {
    /// The reader and the event, if this is the record of a seen event.
    pub(crate) fn seen(&self) -> Option<(ReaderId, Seen)> {
        match *self {
            Self::Observed { stream, seen, .. } => Some((stream.reader, seen)),
            Self::Final { reader, seen } => Some((reader, seen)),
            _ => None,
        }
    }

    /// The seq of a request, by an ack or by a seen event.
    pub(crate) fn place(&self) -> Option<(RequestKey, u64)> {
        match *self {
            Self::Acked { send, seq, .. } if seq > 0 => Some((send, seq)),
            _ => self.seen().map(|(_, seen)| (seen.send, seen.seq)),
        }
    }
}
