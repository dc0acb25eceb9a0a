//! Events to bytes and back.

use bytes::{Bytes, BytesMut};
use conclave_core::access::Role;
use conclave_core::record::{Founding, Person};
use conclave_core::{EventKind, RequestNo, RoomEvent, RoomId, Seq, SessionId, UserId};
use prost::Message as _;

use crate::chat::{self, event::Kind};
use crate::{FormatError, action, frame, rights};

/// Appends the event to `out` as a *record*: one element of `EventBatch.events`, with its tag and
/// length. Concatenated records are a valid list again; history on disk and on the wire has this form;
/// see [`frame`].
pub fn encode_record(event: &RoomEvent, out: &mut BytesMut) {
    let event = to_proto(event);
    frame::put_record_header(event.encoded_len(), out);
    // Encoding fails only if the buffer is full, and a BytesMut grows, so this cannot fail.
    event.encode(out).unwrap_or_default();
}

/// The event in the form in which it is sent and stored.
#[must_use]
pub fn to_proto(event: &RoomEvent) -> chat::Event {
    let kind = match &event.kind {
        EventKind::Created { name, founding } => {
            let (kind, people) = founding.as_ref().map_or((0, Vec::new()), |founding| {
                (founding.kind.code().into(), founding.people.iter().map(rights::person_to_proto).collect())
            });
            Kind::Created(chat::Created { room: name.clone(), kind, people })
        }
        EventKind::MemberAdded { who, role } => Kind::MemberAdded(chat::MemberAdded {
            who: Some(rights::person_to_proto(who)),
            role: rights::role_to_proto(Some(*role)).into(),
        }),
        EventKind::MemberRemoved { who, banned, reason } => Kind::MemberRemoved(chat::MemberRemoved {
            who: Some(rights::person_to_proto(who)),
            banned: *banned,
            reason: reason.clone(),
        }),
        EventKind::RoleChanged { who, role } => Kind::RoleChanged(chat::RoleChanged {
            who: Some(rights::person_to_proto(who)),
            role: rights::role_to_proto(Some(*role)).into(),
        }),
        EventKind::Muted { who, until_ms } => {
            Kind::Muted(chat::Muted { who: Some(rights::person_to_proto(who)), until_ms: *until_ms })
        }
        EventKind::PolicyChanged(policy) => Kind::PolicyChanged(rights::policy_to_proto(*policy)),
        EventKind::Message(text) => {
            Kind::Message(chat::Message { text: text.clone(), ..chat::Message::default() })
        }
        EventKind::Answer(answer) => Kind::Message(action::answer_to_proto(answer)),
        EventKind::Edited { target, text } => {
            Kind::Edited(chat::Edited { target_seq: target.0, text: text.clone() })
        }
        EventKind::Deleted { target, reason } => {
            Kind::Deleted(chat::Deleted { target_seq: target.0, reason: reason.clone() })
        }
        EventKind::Reacted { target, emoji, off } => {
            Kind::Reacted(chat::Reacted { target_seq: target.0, emoji: emoji.clone(), off: *off })
        }
        EventKind::Erased { by, thread, edit_of } => {
            Kind::Erased(chat::Erased { deleted_seq: by.0, thread_seq: thread.0, edit_of_seq: edit_of.0 })
        }
        EventKind::TopicChanged(topic) => Kind::TopicChanged(chat::TopicChanged { topic: topic.clone() }),
        EventKind::Joined => Kind::Joined(chat::Joined {}),
        EventKind::Left => Kind::Left(chat::Left {}),
        EventKind::Pinned { target, off } => Kind::Pinned(chat::Pinned { target_seq: target.0, off: *off }),
    };
    chat::Event {
        room_id: event.room.0,
        seq: event.seq.0,
        time_ms: event.time_ms,
        author_id: event.author.0,
        author: event.author_name.clone(),
        session_id: event.session.0,
        request_no: event.request.0,
        kind: Some(kind),
    }
}

/// The event from the form in which it is sent and stored.
///
/// # Errors
/// If the event's kind is missing or not known to this version.
pub fn from_proto(event: chat::Event) -> Result<RoomEvent, FormatError> {
    let kind = match event.kind.ok_or(FormatError::UnknownKind("the event"))? {
        Kind::Created(created) => {
            let people = created.people.into_iter().map(rights::person_from_proto).collect();
            let founding = rights::kind_from_proto(created.kind)?.map(|kind| Founding { kind, people });
            EventKind::Created { name: created.room, founding }
        }
        Kind::MemberAdded(added) => {
            EventKind::MemberAdded { who: person(added.who)?, role: role(added.role)? }
        }
        Kind::MemberRemoved(removed) => EventKind::MemberRemoved {
            who: person(removed.who)?,
            banned: removed.banned,
            reason: removed.reason,
        },
        Kind::RoleChanged(changed) => {
            EventKind::RoleChanged { who: person(changed.who)?, role: role(changed.role)? }
        }
        Kind::Muted(muted) => EventKind::Muted { who: person(muted.who)?, until_ms: muted.until_ms },
        Kind::PolicyChanged(policy) => EventKind::PolicyChanged(rights::policy_from_proto(policy)?),
        Kind::Message(message) if message.reply_to_seq == 0 && message.thread_seq == 0 => {
            EventKind::Message(message.text)
        }
        Kind::Message(message) => EventKind::Answer(action::answer_from_proto(message)),
        Kind::Edited(edited) => EventKind::Edited { target: Seq(edited.target_seq), text: edited.text },
        Kind::Deleted(deleted) => {
            EventKind::Deleted { target: Seq(deleted.target_seq), reason: deleted.reason }
        }
        Kind::Reacted(reacted) => {
            EventKind::Reacted { target: Seq(reacted.target_seq), emoji: reacted.emoji, off: reacted.off }
        }
        Kind::Erased(erased) => EventKind::Erased {
            by: Seq(erased.deleted_seq),
            thread: Seq(erased.thread_seq),
            edit_of: Seq(erased.edit_of_seq),
        },
        Kind::TopicChanged(changed) => EventKind::TopicChanged(changed.topic),
        Kind::Joined(_) => EventKind::Joined,
        Kind::Left(_) => EventKind::Left,
        Kind::Pinned(pinned) => EventKind::Pinned { target: Seq(pinned.target_seq), off: pinned.off },
    };
    Ok(RoomEvent {
        room: RoomId(event.room_id),
        seq: Seq(event.seq),
        time_ms: event.time_ms,
        author: UserId(event.author_id),
        author_name: event.author,
        session: SessionId(event.session_id),
        request: RequestNo(event.request_no),
        kind,
    })
}

fn person(person: Option<chat::Person>) -> Result<Person, FormatError> {
    person.map(rights::person_from_proto).ok_or(FormatError::Missing("the user whom the event concerns"))
}

fn role(number: i32) -> Result<Role, FormatError> {
    rights::role_from_proto(number)?.ok_or(FormatError::Missing("the role"))
}

/// The event at this place of concatenated records, from 0.
///
/// # Errors
/// If there are fewer records, or the event is damaged or of an unknown kind.
pub fn event_at(records: &[u8], place: u64) -> Result<RoomEvent, FormatError> {
    let (at, len) = find(records, place)?;
    let mut batch = chat::EventBatch::decode(&records[at..at + len])?;
    from_proto(batch.events.pop().ok_or(FormatError::Missing("EventBatch.events"))?)
}

/// The records with the content of one event erased by the event `by`; see [`EventKind::erased`]. `None` if the event
/// is erased already, or of a kind that nothing erases.
///
/// # Errors
/// As [`event_at`].
pub fn erase_at(records: &[u8], place: u64, by: Seq) -> Result<Option<Bytes>, FormatError> {
    let (at, len) = find(records, place)?;
    let event = event_at(&records[at..at + len], 0)?;
    let Some(kind) = event.kind.erased(by) else { return Ok(None) };
    let mut out = BytesMut::with_capacity(records.len());
    out.extend_from_slice(&records[..at]);
    encode_record(&RoomEvent { kind, ..event }, &mut out);
    out.extend_from_slice(&records[at + len..]);
    Ok(Some(out.freeze()))
}

/// Where a record begins, and its length.
fn find(records: &[u8], place: u64) -> Result<(usize, usize), FormatError> {
    let mut at = 0;
    for _ in 0..place {
        at += frame::first_record_len(&records[at..])?;
    }
    Ok((at, frame::first_record_len(&records[at..])?))
}

/// Decodes concatenated records.
///
/// # Errors
/// If the bytes are not such records.
pub fn decode_records(records: &Bytes) -> Result<Vec<chat::Event>, FormatError> {
    Ok(chat::EventBatch::decode(records.clone())?.events)
}
