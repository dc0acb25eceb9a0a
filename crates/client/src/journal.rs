//! The outbox file: an append-only list of frames, each with its checksums.
//!
//! A frame is magic (4 bytes), length (4), CRC-32 of the body (4), CRC-32 of these twelve bytes (4), then the body, a
//! protobuf message. A frame is written and synced as a whole before its requests count as stored, and the next frame
//! is written only after that. So a bad frame without a good one behind it is an incomplete write, and is truncated; a
//! bad frame with a good one behind it is damage, and is reported.

use std::collections::BTreeMap;

use conclave_proto::chat::{SendMessageRequest, send_message_request::Content};
use prost::Message;

use crate::limits::{OUTBOX_FRAME_BYTES, OUTBOX_FRAME_BYTES_MAX};

/// The newest format that this version reads and writes. Format 2 may hold requests that need feature level 2, format 3
/// the positions of a consumer, format 4 requests of a user who has no session yet.
pub(crate) const FORMAT: u32 = 4;

/// The lowest format that may hold these records, so that earlier versions can read a file whenever that is possible.
pub(crate) fn format_of(records: &[Record]) -> u32 {
    let holds_action = |record: &Record| matches!(&record.kind, Some(record::Kind::Submit(request)) if matches!(request.content, Some(Content::Action(_))));
    let holds_position = |record: &Record| matches!(&record.kind, Some(record::Kind::Position(_)));
    let lacks_session = |record: &Record| matches!(&record.kind, Some(record::Kind::Session(session)) if session.token.is_empty());
    match () {
        () if records.iter().any(lacks_session) => 4,
        () if records.iter().any(holds_position) => 3,
        () if records.iter().any(holds_action) => 2,
        () => 1,
    }
}

const MAGIC: [u8; 4] = *b"cvob";
const HEADER: usize = 16;

/// The body of a frame.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Frame {
    #[prost(message, repeated, tag = "1")]
    pub(crate) records: Vec<Record>,
}

/// One change of the outbox.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(oneof = "record::Kind", tags = "1, 2, 3, 4, 5")]
    pub(crate) kind: Option<record::Kind>,
}

/// The kinds of records.
pub(crate) mod record {
    /// What the record says: one of these.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(crate) enum Kind {
        /// The session from here on. Earlier records belong to an earlier session and are void.
        #[prost(message, tag = "1")]
        Session(super::StoredSession),
        /// The numbers of a room, without requests.
        #[prost(message, tag = "2")]
        Room(super::StoredRoom),
        /// A request, under the next number of its room.
        #[prost(message, tag = "3")]
        Submit(conclave_proto::chat::SendMessageRequest),
        /// A request is settled.
        #[prost(message, tag = "4")]
        Settled(super::StoredSettled),
        /// A consumer is done with the events of a room up to here. It stands in one frame with the requests that answer
        /// the last of them, so a crash keeps both or neither.
        #[prost(message, tag = "5")]
        Position(super::StoredPosition),
    }
}

/// A session as it is kept.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredSession {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// Empty while no session could be opened.
    #[prost(string, tag = "2")]
    pub(crate) token: String,
    #[prost(uint64, tag = "3")]
    pub(crate) session_id: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) user_id: u64,
    #[prost(string, tag = "5")]
    pub(crate) user: String,
    #[prost(string, tag = "6")]
    pub(crate) cluster_id: String,
    /// The id of the cluster's certificate authority: the session is used over TLS only. Empty for a cluster without TLS.
    #[prost(string, tag = "7")]
    pub(crate) authority: String,
}

/// A room's numbers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredRoom {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) next_no: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) decided_no: u64,
}

/// A request that is settled.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredSettled {
    #[prost(string, tag = "1")]
    pub(crate) room: String,
    #[prost(uint64, tag = "2")]
    pub(crate) request_no: u64,
    /// Whether its number is used up.
    #[prost(bool, tag = "3")]
    pub(crate) consumed: bool,
}

/// How far a consumer has come in a room. It does not belong to a session.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredPosition {
    #[prost(uint64, tag = "1")]
    pub(crate) room_id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) seq: u64,
}

/// Puts records into frames of about [`OUTBOX_FRAME_BYTES`], at least one. A record is in one frame.
pub(crate) fn frames(records: Vec<Record>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for record in records {
        bytes += record.encoded_len();
        part.push(record);
        if bytes >= OUTBOX_FRAME_BYTES {
            frames.push(frame(std::mem::take(&mut part)));
            bytes = 0;
        }
    }
    if !part.is_empty() || frames.is_empty() {
        frames.push(frame(part));
    }
    frames
}

/// Puts records into a frame.
fn frame(records: Vec<Record>) -> Vec<u8> {
    let body = Frame { records }.encode_to_vec();
    let len = u32::try_from(body.len()).expect("a frame is far smaller than 4 GiB");
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    let header = crc32fast::hash(&out);
    out.extend_from_slice(&header.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// The content of an outbox file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) session: Option<StoredSession>,
    pub(crate) rooms: BTreeMap<String, RecoveredRoom>,
    /// The seq of the last event that a consumer is done with, by room id.
    pub(crate) positions: BTreeMap<u64, u64>,
    /// Length of the good frames in bytes; the rest of the file is an incomplete write.
    pub(crate) good: u64,
}

/// A room of an outbox file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RecoveredRoom {
    /// The number of the first of `requests`.
    pub(crate) first: u64,
    pub(crate) decided: u64,
    /// The requests in order, each with whether it is settled.
    pub(crate) requests: Vec<(SendMessageRequest, bool)>,
}

/// The reason why a file cannot be read.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("damaged at byte {offset}: {what}")]
    Damaged { offset: u64, what: String },
    #[error("format {0} is newer")]
    Newer(u32),
}

/// A frame with a whole header that says that it is longer than any that is written.
const TOO_LONG: &str = "the frame is too long";

/// Reads a file.
pub(crate) fn read(bytes: &[u8]) -> Result<Recovered, ReadError> {
    let mut recovered = Recovered::default();
    let mut at = 0;
    while at < bytes.len() {
        match frame_at(bytes, at) {
            Ok((frame, end)) => {
                for record in frame.records {
                    apply(&mut recovered, record, at)?;
                }
                at = end;
            }
            Err(what) => {
                // The next frame is only written once this one is synced, and no incomplete write has a longer length.
                if what == TOO_LONG || (at + 1..bytes.len()).any(|later| frame_at(bytes, later).is_ok()) {
                    return Err(damaged(at, what));
                }
                break;
            }
        }
    }
    recovered.good = at as u64;
    for room in recovered.rooms.values_mut() {
        let settled = room.requests.iter().take_while(|(_, settled)| *settled).count();
        room.requests.drain(..settled);
        room.first += settled as u64;
    }
    Ok(recovered)
}

fn damaged(at: usize, what: impl Into<String>) -> ReadError {
    ReadError::Damaged { offset: at as u64, what: what.into() }
}

fn frame_at(bytes: &[u8], at: usize) -> Result<(Frame, usize), &'static str> {
    let word =
        |offset: usize| -> Option<[u8; 4]> { bytes.get(at + offset..at + offset + 4)?.try_into().ok() };
    if word(0) != Some(MAGIC) {
        return Err("no frame begins here");
    }
    let (Some(len), Some(body_crc), Some(header_crc)) = (word(4), word(8), word(12)) else {
        return Err("the frame's header is incomplete");
    };
    if crc32fast::hash(&bytes[at..at + 12]) != u32::from_be_bytes(header_crc) {
        return Err("the frame's header does not match its checksum");
    }
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > OUTBOX_FRAME_BYTES_MAX {
        return Err(TOO_LONG);
    }
    let start = at + HEADER;
    let body = bytes.get(start..start + len).ok_or("the frame is incomplete")?;
    if crc32fast::hash(body) != u32::from_be_bytes(body_crc) {
        return Err("the frame does not match its checksum");
    }
    let frame = Frame::decode(body).map_err(|_| "the frame is not a list of records")?;
    Ok((frame, start + len))
}

fn apply(to: &mut Recovered, record: Record, at: usize) -> Result<(), ReadError> {
    match record.kind {
        Some(record::Kind::Session(session)) => {
            if session.format > FORMAT {
                return Err(ReadError::Newer(session.format));
            }
            to.rooms.clear();
            to.session = Some(session);
        }
        Some(record::Kind::Room(room)) => {
            let next = room.next_no.max(1);
            let room_state = RecoveredRoom { first: next, decided: room.decided_no, requests: Vec::new() };
            to.rooms.insert(room.name, room_state);
        }
        Some(record::Kind::Submit(request)) => {
            let name = request.room.as_ref().map(|room| room.name.clone()).unwrap_or_default();
            let room = to
                .rooms
                .entry(name)
                .or_insert_with(|| RecoveredRoom { first: 1, ..RecoveredRoom::default() });
            let next = room.first + room.requests.len() as u64;
            if request.request_no != next {
                return Err(damaged(at, format!("request {} where {next} belongs", request.request_no)));
            }
            if !is_known(&request) {
                return Err(ReadError::Newer(FORMAT + 1));
            }
            room.requests.push((request, false));
        }
        Some(record::Kind::Settled(settled)) => {
            // A settlement may follow a `Room` record that already includes it.
            if let Some(room) = to.rooms.get_mut(&settled.room) {
                let index =
                    settled.request_no.checked_sub(room.first).and_then(|at| usize::try_from(at).ok());
                if let Some((_, done)) = index.and_then(|index| room.requests.get_mut(index)) {
                    *done = true;
                }
                if settled.consumed {
                    room.decided = room.decided.max(settled.request_no);
                }
            }
        }
        Some(record::Kind::Position(position)) => {
            let known = to.positions.entry(position.room_id).or_default();
            *known = position.seq.max(*known);
        }
        None => return Err(ReadError::Newer(FORMAT + 1)),
    }
    Ok(())
}

/// Whether this version knows the kind of the request. To write a request of another kind again would lose its content.
fn is_known(request: &SendMessageRequest) -> bool {
    match &request.content {
        Some(Content::Action(action)) => action.kind.is_some(),
        Some(Content::Text(_) | Content::Topic(_) | Content::Join(_) | Content::Leave(_)) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{RoomAction, RoomRef};

    use super::*;

    fn session(format: u32) -> Record {
        let session =
            StoredSession { format, token: "secret".into(), user: "ana".into(), ..StoredSession::default() };
        Record { kind: Some(record::Kind::Session(session)) }
    }

    fn submit(number: u64) -> Record {
        Record {
            kind: Some(record::Kind::Submit(SendMessageRequest {
                room: Some(RoomRef { name: "general".into(), id: 0 }),
                request_no: number,
                settled_no: 0,
                join_first: false,
                content: Some(Content::Text(format!("message {number}"))),
            })),
        }
    }

    fn settled(number: u64) -> Record {
        let settled = StoredSettled { room: "general".into(), request_no: number, consumed: true };
        Record { kind: Some(record::Kind::Settled(settled)) }
    }

    fn file(frames: Vec<Vec<Record>>) -> (Vec<u8>, Vec<usize>) {
        let mut out = Vec::new();
        let ends = frames.into_iter().map(|records| {
            out.extend(frame(records));
            out.len()
        });
        let ends = ends.collect();
        (out, ends)
    }

    fn good() -> (Vec<u8>, Vec<usize>) {
        file(vec![vec![session(1)], vec![submit(1), submit(2)], vec![settled(1), submit(3)]])
    }

    #[test]
    fn written_records_are_read_back() {
        let (bytes, _) = good();
        let read = read(&bytes).unwrap();
        assert_eq!(read.session.unwrap().token, "secret");
        let room = &read.rooms["general"];
        assert_eq!((room.first, room.decided), (2, 1));
        assert_eq!(
            room.requests.iter().map(|(r, done)| (r.request_no, *done)).collect::<Vec<_>>(),
            [(2, false), (3, false)]
        );
        assert_eq!(read.good, bytes.len() as u64);
    }

    #[test]
    fn an_incomplete_write_is_ignored_wherever_it_ends() {
        let (bytes, ends) = good();
        for cut in ends[1]..bytes.len() {
            let read = read(&bytes[..cut]).unwrap();
            assert_eq!(read.good, ends[1] as u64, "cut at {cut}");
            assert_eq!(read.rooms["general"].requests.len(), 2);
        }
    }

    #[test]
    fn a_last_frame_with_wrong_bytes_is_ignored() {
        let (bytes, ends) = good();
        for at in ends[1]..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] = !torn[at];
            assert_eq!(read(&torn).unwrap().good, ends[1] as u64, "wrong byte at {at}");
        }
        let mut zeros = bytes[..ends[1]].to_vec();
        zeros.resize(ends[1] + 5_000, 0);
        assert_eq!(read(&zeros).unwrap().good, ends[1] as u64);
    }

    #[test]
    fn damage_before_the_last_frame_is_reported_with_its_offset() {
        let (bytes, ends) = good();
        for at in 0..ends[1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let frame = if at < ends[0] { 0 } else { ends[0] as u64 };
            match read(&damaged) {
                Err(ReadError::Damaged { offset, .. }) => assert_eq!(offset, frame, "damage at {at}"),
                other => panic!("damage at {at} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_newer_file_is_refused() {
        let (bytes, _) = file(vec![vec![session(FORMAT + 1)]]);
        assert_eq!(read(&bytes), Err(ReadError::Newer(FORMAT + 1)));
    }

    #[test]
    fn a_request_of_a_kind_that_only_a_newer_version_knows_is_no_damage_and_is_not_lost() {
        for content in [None, Some(Content::Action(RoomAction { kind: None }))] {
            let mut record = submit(1);
            if let Some(record::Kind::Submit(request)) = &mut record.kind {
                request.content = content;
            }
            let (bytes, _) = file(vec![vec![session(1)], vec![record]]);
            assert_eq!(read(&bytes), Err(ReadError::Newer(FORMAT + 1)));
        }
    }

    #[test]
    fn the_format_rises_only_with_a_request_that_earlier_versions_do_not_know() {
        let mut pin = submit(2);
        if let Some(record::Kind::Submit(request)) = &mut pin.kind {
            request.content = Some(Content::Action(RoomAction { kind: None }));
        }
        assert_eq!(format_of(&[session(1), submit(1), settled(1)]), 1);
        assert_eq!(format_of(&[session(1), submit(1), pin]), 2);
    }

    #[test]
    fn a_request_with_a_wrong_number_is_damage() {
        let (bytes, _) = file(vec![vec![session(1)], vec![submit(2)]]);
        assert!(matches!(read(&bytes), Err(ReadError::Damaged { .. })));
    }
}
