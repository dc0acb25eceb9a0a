//! Event records and frames, which are encoded only once.
//!
//! A *record* is one element of the repeated field `EventBatch.events`: tag, length, event.
//! Concatenated records are a list again. So the same bytes are a block of history on disk, a chunk of
//! a room's tail in memory, and the body of the frame that every subscriber gets.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::DecodeError;
use prost::encoding::{
    DecodeContext, WireType, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

use crate::FormatError;
use crate::chat::{StreamFrame, stream_frame};

/// `EventBatch.events`.
const EVENTS_FIELD: u32 = 1;
/// `EventBatch.resume_token`.
const TOKEN_FIELD: u32 = 2;
/// `StreamFrame.events`.
const FRAME_EVENTS_FIELD: u32 = 1;

/// Writes the header that makes a record of an encoded event of `len` bytes.
pub fn put_record_header(len: usize, out: &mut BytesMut) {
    encode_key(EVENTS_FIELD, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// The length in bytes of the first record, header included.
///
/// # Errors
/// If the bytes do not begin with a complete record.
pub fn first_record_len(records: &[u8]) -> Result<usize, FormatError> {
    let mut rest = records;
    let key = decode_varint(&mut rest)?;
    if key != u64::from(EVENTS_FIELD << 3 | WireType::LengthDelimited as u32) {
        return Err(FormatError::Invalid("EventBatch.events"));
    }
    let len = decode_varint(&mut rest)?;
    let header = records.len() - rest.len();
    match usize::try_from(len) {
        Ok(len) if len <= rest.len() => Ok(header + len),
        _ => Err(FormatError::Invalid("EventBatch.events")),
    }
}

/// Splits the first `count` records off and returns them; `records` keeps the rest.
///
/// # Errors
/// If there are fewer than `count` complete records.
pub fn split_records(records: &mut Bytes, count: usize) -> Result<Bytes, FormatError> {
    let mut len = 0;
    for _ in 0..count {
        len += first_record_len(&records[len..])?;
    }
    Ok(records.split_to(len))
}

/// A frame of a subscription, as the server sends it. On the wire the frame is a [`StreamFrame`].
#[derive(Clone, Debug, PartialEq)]
pub enum EncodedFrame {
    /// A frame of any kind.
    Plain(StreamFrame),
    /// A frame of events whose records are already encoded, and shared with other subscribers.
    Events {
        /// Concatenated records.
        records: Bytes,
        /// The resume token for the position after the last of them.
        token: Bytes,
    },
}

impl Default for EncodedFrame {
    fn default() -> Self {
        Self::Plain(StreamFrame::default())
    }
}

impl EncodedFrame {
    /// The decoded frame. A frame that was received is decoded already.
    ///
    /// # Errors
    /// If the records are damaged.
    pub fn into_frame(self) -> Result<StreamFrame, FormatError> {
        match self {
            Self::Plain(frame) => Ok(frame),
            encoded @ Self::Events { .. } => {
                Ok(prost::Message::decode(prost::Message::encode_to_vec(&encoded).as_slice())?)
            }
        }
    }

    fn events_len(records: &Bytes, token: &Bytes) -> usize {
        let token_len = if token.is_empty() {
            0
        } else {
            key_len(TOKEN_FIELD) + encoded_len_varint(token.len() as u64) + token.len()
        };
        records.len() + token_len
    }
}

impl From<stream_frame::Frame> for EncodedFrame {
    fn from(frame: stream_frame::Frame) -> Self {
        Self::Plain(StreamFrame { frame: Some(frame) })
    }
}

impl prost::Message for EncodedFrame {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Plain(frame) => frame.encode_raw(buf),
            Self::Events { records, token } => {
                encode_key(FRAME_EVENTS_FIELD, WireType::LengthDelimited, buf);
                encode_varint(Self::events_len(records, token) as u64, buf);
                buf.put_slice(records);
                if !token.is_empty() {
                    encode_key(TOKEN_FIELD, WireType::LengthDelimited, buf);
                    encode_varint(token.len() as u64, buf);
                    buf.put_slice(token);
                }
            }
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if let Self::Events { .. } = self {
            *self = Self::default();
        }
        match self {
            Self::Plain(frame) => frame.merge_field(tag, wire_type, buf, ctx),
            Self::Events { .. } => Ok(()),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Plain(frame) => frame.encoded_len(),
            Self::Events { records, token } => {
                let len = Self::events_len(records, token);
                key_len(FRAME_EVENTS_FIELD) + encoded_len_varint(len as u64) + len
            }
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use conclave_core::{EventKind, RequestNo, RoomEvent, RoomId, Seq, SessionId, UserId};
    use prost::Message as _;

    use super::*;
    use crate::chat::EventBatch;
    use crate::event::{encode_record, to_proto};

    fn event(seq: u64) -> RoomEvent {
        RoomEvent {
            room: RoomId(1),
            seq: Seq(seq),
            time_ms: 5,
            author: UserId(2),
            author_name: "ana".into(),
            session: SessionId(3),
            request: RequestNo(seq),
            kind: EventKind::Message("x".repeat(usize::try_from(seq).unwrap() * 40)),
        }
    }

    fn records(range: std::ops::RangeInclusive<u64>) -> Bytes {
        let mut out = BytesMut::new();
        range.for_each(|seq| encode_record(&event(seq), &mut out));
        out.freeze()
    }

    #[test]
    fn an_encoded_frame_has_the_same_bytes_as_the_plain_stream_frame() {
        for token in [Bytes::new(), Bytes::from_static(b"token")] {
            let encoded = EncodedFrame::Events { records: records(1..=5), token: token.clone() };
            let bytes = encoded.encode_to_vec();
            assert_eq!(bytes.len(), encoded.encoded_len());
            let batch =
                EventBatch { events: (1..=5).map(|s| to_proto(&event(s))).collect(), resume_token: token };
            let plain = StreamFrame { frame: Some(stream_frame::Frame::Events(batch)) };
            assert_eq!(bytes, plain.encode_to_vec());
            assert_eq!(EncodedFrame::decode(bytes.as_slice()).unwrap(), EncodedFrame::Plain(plain.clone()));
            assert_eq!(encoded.into_frame().unwrap(), plain);
        }
    }

    #[test]
    fn records_are_split_at_their_ends() {
        let mut rest = records(1..=5);
        assert_eq!(split_records(&mut rest, 2).unwrap(), records(1..=2));
        assert_eq!(rest, records(3..=5));
        assert!(split_records(&mut rest.clone(), 4).is_err());
        assert!(first_record_len(&rest[..rest.len() / 8]).is_err());
        assert!(first_record_len(b"").is_err());
        assert!(first_record_len(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).is_err());
    }
}
