//! Events to bytes and back.

use bytes::{Bytes, BytesMut};
use conclave_core::{EventKind, RequestNo, RoomEvent, RoomId, Seq, SessionId, UserId};
use prost::Message as _;

use crate::chat::{self, event::Kind};
use crate::{FormatError, frame};

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
        EventKind::Created(room) => Kind::Created(chat::Created { room: room.clone() }),
        EventKind::Message(text) => Kind::Message(chat::Message { text: text.clone() }),
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
        Kind::Created(created) => EventKind::Created(created.room),
        Kind::Message(message) => EventKind::Message(message.text),
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

/// Decodes concatenated records.
///
/// # Errors
/// If the bytes are not such records.
pub fn decode_records(records: &Bytes) -> Result<Vec<chat::Event>, FormatError> {
    Ok(chat::EventBatch::decode(records.clone())?.events)
}
