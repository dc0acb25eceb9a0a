//! Encoding and decoding of the rows of the state file.

use std::collections::VecDeque;

use conclave_core::access::{Member, RoomPolicy, Span};
use conclave_core::message::{MessageState, Reaction};
use conclave_core::record::{
    Credential, DirectoryEntry, Invite, MetaHead, OpenSession, RoomHead, RoomInfo, SessionRecord, Settings,
    UserRecord,
};
use conclave_core::session::{SessionRoom, StoredOutcome, StoredReply};
use conclave_core::{Refusal, RequestNo, RoomId, Seq, SessionId, UserId};
use conclave_proto::log::{self, stored_reply};
use conclave_proto::{FormatError, accounts, command, rights};
use prost::Message;

use super::key::{Key, kind};
use crate::disk::DataFile;
use crate::error::StoreError;

/// A row that is kept in memory while it is in use. See [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Room(RoomHead, RoomInfo),
    /// What the room knows of the user; `None` removes the row.
    Member(Option<Member>),
    Replies(SessionRoom),
    /// One to which nothing refers removes the row.
    Message(MessageState),
    SessionRooms(u32),
    Directory(DirectoryEntry),
    User(UserRecord),
    /// A user's or a room's name, by its id.
    Name(String),
    Session(SessionRecord),
    Credential(Credential),
    /// An empty list removes the row.
    OpenSessions(Vec<OpenSession>),
    /// The session has ended, and shards must still hear of it.
    Ending,
    /// An invite without uses removes the row.
    Invite(Invite),
    /// The row is to be removed.
    Gone,
}

impl Row {
    /// The row's value; `None` if the row is to be removed.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Room(head, info) => log::RoomRow {
                name: info.name.clone(),
                topic: info.topic.clone(),
                creator_id: info.creator.0,
                created_ms: info.created_ms,
                last_seq: head.last.0,
                last_time_ms: head.last_time_ms,
                members: head.members,
                policy: (head.policy != RoomPolicy::default()).then(|| rights::policy_to_proto(head.policy)),
            }
            .encode_to_vec(),
            Self::Member(None) => return None,
            Self::Member(Some(member)) => member_to_proto(member).encode_to_vec(),
            Self::Replies(known) => log::SessionRoomRow {
                last_no: known.last.0,
                replies: known.replies.iter().map(reply_to_proto).collect(),
            }
            .encode_to_vec(),
            Self::Message(state) if state.is_plain() => return None,
            Self::Message(state) => message_to_proto(state).encode_to_vec(),
            Self::SessionRooms(count) => count.to_le_bytes().to_vec(),
            Self::Directory(entry) => log::DirectoryRow {
                room_id: entry.room.0,
                name: entry.name.clone(),
                creator_id: entry.creator.0,
                created_ms: entry.created_ms,
                creator: entry.creator_name.clone(),
                founding: entry.founding.as_ref().map(rights::founding_to_proto),
            }
            .encode_to_vec(),
            Self::User(user) => accounts::user_to_log(user).encode_to_vec(),
            Self::Name(name) => name.clone().into_bytes(),
            Self::Session(session) => accounts::session_to_log(session).encode_to_vec(),
            Self::Credential(credential) => accounts::credential_to_log(credential).encode_to_vec(),
            Self::OpenSessions(list) if list.is_empty() => return None,
            Self::OpenSessions(list) => accounts::open_sessions_to_log(list).encode_to_vec(),
            Self::Ending => Vec::new(),
            Self::Invite(invite) if invite.uses == 0 => return None,
            Self::Invite(invite) => accounts::invite_to_log(invite).encode_to_vec(),
            Self::Gone => return None,
        })
    }

    /// The row from its value. `None` for keys of other kinds.
    pub(crate) fn decode(key: &Key, value: &[u8]) -> Result<Option<Self>, StoreError> {
        let row = match key {
            Key::Room(_) => decode::<log::RoomRow>(value).and_then(room),
            Key::Member(..) => decode::<log::MemberRow>(value).and_then(member),
            Key::Replies(..) => decode::<log::SessionRoomRow>(value).and_then(replies),
            Key::Message(..) => decode(value).map(|row| Self::Message(message(row))),
            Key::SessionRooms(_) => {
                let count = value.try_into().map_err(|_| FormatError::Invalid("SessionRooms"));
                count.map(|count| Self::SessionRooms(u32::from_le_bytes(count)))
            }
            Key::Directory(_) => decode::<log::DirectoryRow>(value).and_then(directory),
            Key::User(_) => decode(value).and_then(accounts::user_from_log).map(Self::User),
            Key::UserName(_) | Key::RoomName(_) | Key::Folded(_) => match std::str::from_utf8(value) {
                Ok(name) => Ok(Self::Name(name.to_owned())),
                Err(_) => Err(FormatError::Invalid("name")),
            },
            Key::Session(_) => decode(value).and_then(accounts::session_from_log).map(Self::Session),
            Key::Credential(_) => {
                decode(value).map(|row| Self::Credential(accounts::credential_from_log(row)))
            }
            Key::OpenSessions(_) => {
                decode(value).map(|row| Self::OpenSessions(accounts::open_sessions_from_log(row)))
            }
            Key::Ending(_) => Ok(Self::Ending),
            Key::Invite(_) => decode(value).and_then(accounts::invite_from_log).map(Self::Invite),
            Key::Meta | Key::Node(_) | Key::Layout => return Ok(None),
        };
        row.map(Some).map_err(|error| damaged(key, &error))
    }
}

pub(crate) fn damaged(key: &Key, error: &FormatError) -> StoreError {
    StoreError::format(DataFile::STATE, &format!("the row {key:?}"), error)
}

fn decode<M: Message + Default>(value: &[u8]) -> Result<M, FormatError> {
    Ok(M::decode(value)?)
}

fn room(row: log::RoomRow) -> Result<Row, FormatError> {
    let policy = row.policy.map(rights::policy_from_proto).transpose()?.unwrap_or_default();
    let head =
        RoomHead { last: Seq(row.last_seq), last_time_ms: row.last_time_ms, members: row.members, policy };
    let creator = UserId(row.creator_id);
    let info = RoomInfo { name: row.name, topic: row.topic, creator, created_ms: row.created_ms };
    Ok(Row::Room(head, info))
}

/// A member of the first feature level is an empty row, as version 0.1.0 writes it.
fn member_to_proto(member: &Member) -> log::MemberRow {
    if *member == Member::of_first_level() {
        return log::MemberRow::default();
    }
    let span = |span: &Span| log::Span { from: span.from.0, upto: span.upto.0 };
    log::MemberRow {
        role: rights::role_to_proto(member.role).into(),
        sees_from: member.sees_from.map_or(0, |seq| seq.0),
        is_out: !member.is_present(),
        past: member.past.iter().map(span).collect(),
        muted_until_ms: member.muted_until_ms,
        banned: member.banned,
        read_seq: member.read.0,
    }
}

fn member(row: log::MemberRow) -> Result<Row, FormatError> {
    let span = |span: log::Span| Span { from: Seq(span.from), upto: Seq(span.upto) };
    Ok(Row::Member(Some(Member {
        role: rights::role_from_proto(row.role)?,
        sees_from: (!row.is_out).then(|| Seq(row.sees_from.max(1))),
        past: row.past.into_iter().map(span).collect(),
        muted_until_ms: row.muted_until_ms,
        banned: row.banned,
        read: Seq(row.read_seq),
    })))
}

fn message_to_proto(state: &MessageState) -> log::MessageRow {
    let reaction = |reaction: &Reaction| log::ReactionRow {
        emoji: reaction.emoji.clone(),
        user_ids: reaction.users.iter().map(|user| user.0).collect(),
    };
    log::MessageRow {
        author_id: state.author.0,
        thread_seq: state.thread.0,
        edit_seqs: state.edits.iter().map(|seq| seq.0).collect(),
        deleted_seq: state.deleted.0,
        reactions: state.reactions.iter().map(reaction).collect(),
        answers: state.answers,
        last_answer_seq: state.last_answer.0,
    }
}

fn message(row: log::MessageRow) -> MessageState {
    let reaction = |row: log::ReactionRow| Reaction {
        emoji: row.emoji,
        users: row.user_ids.into_iter().map(UserId).collect(),
    };
    MessageState {
        author: UserId(row.author_id),
        thread: Seq(row.thread_seq),
        edits: row.edit_seqs.into_iter().map(Seq).collect(),
        deleted: Seq(row.deleted_seq),
        reactions: row.reactions.into_iter().map(reaction).collect(),
        answers: row.answers,
        last_answer: Seq(row.last_answer_seq),
    }
}

/// The state of a message from the value of its row.
pub(crate) fn decode_message(value: &[u8]) -> Result<MessageState, FormatError> {
    decode(value).map(message)
}

/// The seq of the last event from the value of a room's row, without decoding the rest.
pub(crate) fn room_head(value: &[u8]) -> Result<Seq, FormatError> {
    decode::<log::RoomRow>(value).map(|row| Seq(row.last_seq))
}

fn directory(row: log::DirectoryRow) -> Result<Row, FormatError> {
    Ok(Row::Directory(DirectoryEntry {
        room: RoomId(row.room_id),
        name: row.name,
        creator: UserId(row.creator_id),
        creator_name: row.creator,
        created_ms: row.created_ms,
        founding: row.founding.map(rights::founding_from_proto).transpose()?,
    }))
}

fn reply_to_proto(stored: &StoredReply) -> log::StoredReply {
    let reply = match stored.verdict {
        StoredOutcome::Event(seq) => stored_reply::Reply::Seq(seq.0),
        StoredOutcome::Unchanged => stored_reply::Reply::Unchanged(true),
        StoredOutcome::Refused(refusal) => stored_reply::Reply::Refusal(refusal.code()),
    };
    log::StoredReply {
        request_no: stored.request.0,
        digest: stored.digest,
        reply: Some(reply),
        time_ms: stored.time_ms,
    }
}

fn replies(row: log::SessionRoomRow) -> Result<Row, FormatError> {
    let reply = |stored: log::StoredReply| {
        let verdict = match stored.reply.ok_or(FormatError::UnknownKind("the stored reply"))? {
            stored_reply::Reply::Seq(seq) => StoredOutcome::Event(Seq(seq)),
            stored_reply::Reply::Unchanged(_) => StoredOutcome::Unchanged,
            // Only refusals that are decided for good are stored, and those carry no number.
            stored_reply::Reply::Refusal(code) => StoredOutcome::Refused(Refusal::from_code(code, 0)),
        };
        let request = RequestNo(stored.request_no);
        Ok(StoredReply { request, digest: stored.digest, verdict, time_ms: stored.time_ms })
    };
    let replies = row.replies.into_iter().map(reply).collect::<Result<VecDeque<_>, FormatError>>()?;
    Ok(Row::Replies(SessionRoom { last: RequestNo(row.last_no), replies }))
}

/// The meta shard's counters as a row.
pub(crate) fn encode_meta(meta: &MetaHead) -> Vec<u8> {
    log::MetaRow {
        last_room_id: meta.last_room.0,
        last_user_id: meta.last_user.0,
        last_session_id: meta.last_session.0,
        feature_level: meta.feature_level,
        admins: meta.admins,
        invites: meta.invites,
        registration: accounts::registration_to_log(meta.settings.registration).into(),
    }
    .encode_to_vec()
}

fn meta_head(row: log::MetaRow) -> Result<MetaHead, FormatError> {
    Ok(MetaHead {
        last_room: RoomId(row.last_room_id),
        last_user: UserId(row.last_user_id),
        last_session: SessionId(row.last_session_id),
        feature_level: row.feature_level,
        admins: row.admins,
        invites: row.invites,
        settings: Settings { registration: accounts::registration_from_log(row.registration)? },
    })
}

/// The small tables of the meta shard, which are always in memory.
pub(crate) enum Small {
    Meta(MetaHead),
    Node(conclave_core::record::NodeRecord),
    Layout(conclave_core::ring::Layout),
}

/// Decodes a row of one of the small tables; `None` if the key belongs to none of them.
pub(crate) fn decode_small(key: &[u8], value: &[u8]) -> Result<Option<Small>, StoreError> {
    let small = match key.first() {
        Some(&kind::META) => decode::<log::MetaRow>(value).and_then(meta_head).map(Small::Meta),
        Some(&kind::NODE) => decode(value).and_then(command::node_from_proto).map(Small::Node),
        Some(&kind::LAYOUT) => decode(value).map(|row| Small::Layout(command::layout_from_proto(row))),
        _ => return Ok(None),
    };
    small
        .map(Some)
        .map_err(|error| StoreError::format(DataFile::STATE, &format!("the row {key:02x?}"), &error))
}
