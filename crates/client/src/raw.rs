//! Undecoded events, read in place.
//!
//! A program that reads hundreds of thousands of events a second mostly needs their seq and text. A [`RawBatch`] keeps
//! the bytes of the connection and walks them; an [`Event`] is only decoded on request.

use bytes::{Buf, BufMut, Bytes};
use conclave_proto::chat::{Event, EventBatch, StreamFrame, stream_frame};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

/// Field numbers of `StreamFrame`, `EventBatch`, `Event` and `Message`.
mod field {
    pub(super) const FRAME_EVENTS: u32 = 1;
    pub(super) const BATCH_EVENTS: u32 = 1;
    pub(super) const BATCH_TOKEN: u32 = 2;
    pub(super) const EVENT_ROOM_ID: u32 = 1;
    pub(super) const EVENT_SEQ: u32 = 2;
    pub(super) const EVENT_TIME_MS: u32 = 3;
    pub(super) const EVENT_AUTHOR: u32 = 5;
    pub(super) const EVENT_SESSION_ID: u32 = 6;
    pub(super) const EVENT_REQUEST_NO: u32 = 7;
    pub(super) const EVENT_MESSAGE: u32 = 11;
    pub(super) const MESSAGE_TEXT: u32 = 1;
}

/// Consecutive events of one room, as the node sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawBatch {
    /// The encoded `EventBatch`.
    events: Bytes,
    /// Token to resume after the last of them.
    pub token: Bytes,
}

/// One event of a [`RawBatch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventView<'a> {
    /// The room's id.
    pub room_id: u64,
    /// The event's seq.
    pub seq: u64,
    /// The event's time, milliseconds since 1970.
    pub time_ms: i64,
    /// The author's name.
    pub author: &'a str,
    /// The session that sent it.
    pub session_id: u64,
    /// The number of the request in that session.
    pub request_no: u64,
    /// The text, if the event is a message.
    pub text: Option<&'a str>,
}

impl RawBatch {
    /// The events in order. The first bytes that are not an event end the iterator; a stream never delivers such a
    /// batch.
    pub fn events(&self) -> impl Iterator<Item = EventView<'_>> {
        records(&self.events).map_while(Result::ok)
    }

    /// Decodes the events.
    pub(crate) fn decode(&self) -> Result<Vec<Event>, DecodeError> {
        Ok(EventBatch::decode(self.events.clone())?.events)
    }

    /// Room id and seq of each event.
    pub(crate) fn room_seqs(&self) -> impl Iterator<Item = Result<(u64, u64), DecodeError>> + '_ {
        records(&self.events).map(|event| event.map(|event| (event.room_id, event.seq)))
    }

    /// Removes the leading events for which `passed` (room id, seq) holds.
    pub(crate) fn skip_first(mut self, passed: impl Fn(u64, u64) -> bool) -> Result<Self, DecodeError> {
        let mut rest = self.events.as_ref();
        let mut skipped = 0;
        while !rest.is_empty() {
            if let Some(event) = next(&mut rest)? {
                let event = view(event)?;
                if !passed(event.room_id, event.seq) {
                    break;
                }
            }
            skipped = self.events.len() - rest.len();
        }
        self.events = self.events.slice(skipped..);
        Ok(self)
    }

    /// Parses an encoded `EventBatch`.
    fn parse(encoded: Bytes) -> Result<Self, DecodeError> {
        let mut token = Bytes::new();
        let mut rest = encoded.as_ref();
        while !rest.is_empty() {
            let (tag, wire_type) = decode_key(&mut rest)?;
            if wire_type == WireType::LengthDelimited {
                let body = take(&mut rest)?;
                if tag == field::BATCH_TOKEN {
                    token = encoded.slice_ref(body);
                }
            } else {
                skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
            }
        }
        Ok(Self { events: encoded, token })
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let len = usize::try_from(decode_varint(rest)?).unwrap_or(usize::MAX);
    let Some((body, after)) = rest.split_at_checked(len) else { return Err(truncated()) };
    *rest = after;
    Ok(body)
}

#[expect(deprecated, reason = "prost has no other way to make one, and tonic wants one")]
fn truncated() -> DecodeError {
    DecodeError::new("the message is truncated")
}

fn records(encoded: &[u8]) -> impl Iterator<Item = Result<EventView<'_>, DecodeError>> {
    let mut rest = encoded;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            match next(&mut rest) {
                Ok(Some(event)) => return Some(view(event)),
                Ok(None) => {}
                Err(error) => {
                    rest = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

/// The next field, if it is an event.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
    let (tag, wire_type) = decode_key(rest)?;
    if wire_type != WireType::LengthDelimited {
        skip_field(wire_type, tag, rest, DecodeContext::default())?;
        return Ok(None);
    }
    let body = take(rest)?;
    Ok((tag == field::BATCH_EVENTS).then_some(body))
}

fn view(mut rest: &[u8]) -> Result<EventView<'_>, DecodeError> {
    let mut view = EventView::default();
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        match wire_type {
            WireType::Varint => {
                let value = decode_varint(&mut rest)?;
                match tag {
                    field::EVENT_ROOM_ID => view.room_id = value,
                    field::EVENT_SEQ => view.seq = value,
                    field::EVENT_TIME_MS => view.time_ms = value.cast_signed(),
                    field::EVENT_SESSION_ID => view.session_id = value,
                    field::EVENT_REQUEST_NO => view.request_no = value,
                    _ => {}
                }
            }
            WireType::LengthDelimited => {
                let body = take(&mut rest)?;
                match tag {
                    field::EVENT_AUTHOR => view.author = text(body)?,
                    field::EVENT_MESSAGE => view.text = Some(message(body)?),
                    _ => {}
                }
            }
            other => skip_field(other, tag, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(view)
}

fn message(mut rest: &[u8]) -> Result<&str, DecodeError> {
    let mut found = "";
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        if wire_type == WireType::LengthDelimited {
            let body = take(&mut rest)?;
            if tag == field::MESSAGE_TEXT {
                found = text(body)?;
            }
        } else {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| truncated())
}

/// A `StreamFrame` whose events stay undecoded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    Events(RawBatch),
    Other(StreamFrame),
}

impl Default for Frame {
    fn default() -> Self {
        Self::Other(StreamFrame::default())
    }
}

impl Message for Frame {
    // Frames are only received. The encoder is for tests.
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.to_stream_frame().encode_raw(buf);
    }

    fn encoded_len(&self) -> usize {
        self.to_stream_frame().encoded_len()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag == field::FRAME_EVENTS && wire_type == WireType::LengthDelimited {
            let len = usize::try_from(decode_varint(buf)?).unwrap_or(usize::MAX);
            if len > buf.remaining() {
                return Err(truncated());
            }
            // Shares the memory of the connection's buffer.
            *self = Self::Events(RawBatch::parse(buf.copy_to_bytes(len))?);
            return Ok(());
        }
        if let Self::Events(_) = self {
            *self = Self::default();
        }
        match self {
            Self::Other(frame) => frame.merge_field(tag, wire_type, buf, context),
            Self::Events(_) => Ok(()),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Frame {
    fn to_stream_frame(&self) -> StreamFrame {
        match self {
            Self::Other(frame) => frame.clone(),
            Self::Events(batch) => StreamFrame {
                frame: Some(stream_frame::Frame::Events(EventBatch {
                    events: batch.decode().unwrap_or_default(),
                    resume_token: batch.token.clone(),
                })),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{Joined, Keepalive, Message as Said, event};
    use proptest::prelude::*;

    use super::*;

    fn said(seq: u64, text: &str) -> Event {
        Event {
            room_id: 4,
            seq,
            time_ms: -5,
            author_id: 9,
            author: "ana".into(),
            session_id: 7,
            request_no: seq + 1,
            kind: Some(event::Kind::Message(Said { text: text.into(), ..Said::default() })),
        }
    }

    fn frame(events: Vec<Event>) -> StreamFrame {
        let batch = EventBatch { events, resume_token: Bytes::from_static(b"token") };
        StreamFrame { frame: Some(stream_frame::Frame::Events(batch)) }
    }

    #[test]
    fn fields_are_read_without_decoding_the_events() {
        let joined = Event { seq: 3, kind: Some(event::Kind::Joined(Joined {})), ..said(3, "") };
        let events = vec![said(1, "one"), said(2, "zwei ä"), joined];
        let Ok(Frame::Events(batch)) = Frame::decode(frame(events.clone()).encode_to_vec().as_slice()) else {
            panic!()
        };
        assert_eq!(&batch.token[..], b"token");
        assert_eq!(batch.decode().unwrap(), events);
        let seen: Vec<_> = batch.events().map(|event| (event.room_id, event.seq, event.text)).collect();
        assert_eq!(seen, [(4, 1, Some("one")), (4, 2, Some("zwei ä")), (4, 3, None)]);
        let first = batch.events().next().unwrap();
        assert_eq!((first.author, first.session_id, first.request_no, first.time_ms), ("ana", 7, 2, -5));
    }

    #[test]
    fn frames_without_events_are_decoded() {
        let keepalive = Keepalive { quorum: true, ..Keepalive::default() };
        let frame = StreamFrame { frame: Some(stream_frame::Frame::Keepalive(keepalive)) };
        let got = Frame::decode(frame.encode_to_vec().as_slice()).unwrap();
        assert_eq!(got, Frame::Other(frame));
    }

    proptest! {
        #[test]
        fn damaged_and_truncated_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..200) {
            if let Ok(Frame::Events(batch)) = Frame::decode(bytes.as_slice()) {
                batch.events().for_each(drop);
                let _ = batch.decode();
            }
            let good = frame(vec![said(1, "one"), said(2, "two")]).encode_to_vec();
            let _ = Frame::decode(&good[..cut.min(good.len())]);
        }

        #[test]
        fn leading_events_can_be_skipped(count in 0_u64..20, passed in 0_u64..25) {
            let events: Vec<_> = (1..=count).map(|seq| said(seq, "x")).collect();
            let Ok(Frame::Events(batch)) = Frame::decode(frame(events.clone()).encode_to_vec().as_slice()) else { panic!() };
            let rest = batch.skip_first(|_, seq| seq <= passed).unwrap();
            prop_assert_eq!(rest.decode().unwrap(), events.into_iter().filter(|event| event.seq > passed).collect::<Vec<_>>());
            prop_assert_eq!(&rest.token[..], b"token");
        }

        #[test]
        fn fields_read_in_place_equal_the_decoded_ones(texts in proptest::collection::vec(".{0,40}", 0..20)) {
            let events: Vec<_> = (1..).zip(&texts).map(|(seq, text)| said(seq, text)).collect();
            let Ok(Frame::Events(batch)) = Frame::decode(frame(events.clone()).encode_to_vec().as_slice()) else { panic!() };
            let heads: Vec<_> = batch.room_seqs().map(Result::unwrap).collect();
            prop_assert_eq!(heads, events.iter().map(|event| (event.room_id, event.seq)).collect::<Vec<_>>());
            let seen: Vec<_> = batch.events().map(|event| event.text.unwrap().to_owned()).collect();
            prop_assert_eq!(seen, texts);
        }
    }
}
