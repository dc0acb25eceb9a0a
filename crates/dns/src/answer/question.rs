//! Parses a question from the network.
//!
//! The parser allocates nothing and reads no further than an answer needs: it runs on every message that anybody sends.

use hickory_proto::rr::RecordType;

use crate::zone::HEADER_BYTES;

/// Longest name on the wire, bytes (RFC 1035).
const NAME_BYTES_MAX: usize = 255;
const NSID: u16 = 3;
const RESPONSE: u16 = 0x8000;

/// The first bytes of a message that can be answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u16,
    /// The flags word as it is in the message.
    pub(crate) flags: u16,
}

/// A message with one question.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    /// Name, type and class as they were sent.
    pub(crate) raw: &'a [u8],
    name: [u8; NAME_BYTES_MAX],
    name_bytes: usize,
    pub(crate) kind: RecordType,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
    /// The serial that the client has, in an IXFR question.
    pub(crate) serial: Option<u32>,
}

/// The EDNS options of a question (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest answer that the client accepts over UDP, bytes.
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    /// The client wants the server's identity (RFC 5001).
    pub(crate) nsid: bool,
}

impl Header {
    pub(crate) fn opcode(self) -> u16 {
        (self.flags >> 11) & 0xf
    }
}

impl Question<'_> {
    /// The name as [`key`](crate::zone::key) makes it.
    pub(crate) fn key(&self) -> &[u8] {
        &self.name[..self.name_bytes]
    }
}

/// Parses a message: its header, and its question unless the question is malformed. `None` for messages that get no
/// answer: those shorter than a header, and responses, since otherwise two servers could answer each other for ever.
pub(crate) fn read(message: &[u8]) -> Option<(Header, Option<Question<'_>>)> {
    let mut reader = Reader { message, at: 0 };
    let header = Header { id: reader.u16()?, flags: reader.u16()? };
    let is_question = message.len() >= HEADER_BYTES && header.flags & RESPONSE == 0;
    is_question.then(|| (header, reader.question()))
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

/// A record without its name, which was skipped.
struct Record<'a> {
    kind: u16,
    class: u16,
    ttl: u32,
    data: &'a [u8],
    /// The record's name is the root.
    at_root: bool,
}

impl<'a> Reader<'a> {
    /// Parses everything after id and flags.
    fn question(&mut self) -> Option<Question<'a>> {
        let [questions, answers, authority, additional] =
            [self.u16()?, self.u16()?, self.u16()?, self.u16()?];
        if questions != 1 {
            return None;
        }
        let begin = self.at;
        let mut name = [0; NAME_BYTES_MAX];
        let name_bytes = self.name(&mut name)?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let raw = self.message.get(begin..self.at)?;
        let mut question =
            Question { raw, name, name_bytes, kind: kind.into(), class, edns: None, serial: None };
        for _ in 0..answers {
            self.record()?;
        }
        for _ in 0..authority {
            let record = self.record()?;
            if record.kind == u16::from(RecordType::SOA) {
                // An SOA is two names and five numbers; the serial is the first number.
                let serial = record.data.len().checked_sub(20).and_then(|at| record.data[at..].first_chunk());
                question.serial = serial.copied().map(u32::from_be_bytes);
            }
        }
        for _ in 0..additional {
            let record = self.record()?;
            if record.kind == u16::from(RecordType::OPT) {
                if question.edns.is_some() || !record.at_root {
                    return None;
                }
                question.edns = Some(edns(&record)?);
            }
        }
        (self.at == self.message.len()).then_some(question)
    }

    /// Reads a name in lower case. A name in a question is never compressed: there is nothing before it to point to.
    fn name(&mut self, name: &mut [u8; NAME_BYTES_MAX]) -> Option<usize> {
        let mut bytes = 0;
        loop {
            let length = self.u8()?;
            if length > 63 {
                return None;
            }
            let label = self.take(length.into())?;
            *name.get_mut(bytes)? = length;
            bytes += 1;
            let room = name.get_mut(bytes..bytes + label.len())?;
            room.copy_from_slice(label);
            room.make_ascii_lowercase();
            bytes += label.len();
            if length == 0 {
                return Some(bytes);
            }
        }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let begin = self.at;
        loop {
            match self.u8()? {
                0 => break,
                length @ 1..=63 => {
                    self.take(length.into())?;
                }
                0xc0.. => {
                    self.u8()?;
                    break;
                }
                _ => return None,
            }
        }
        let at_root = self.at == begin + 1;
        let (kind, class) = (self.u16()?, self.u16()?);
        let ttl = u32::from_be_bytes(*self.take(4)?.first_chunk()?);
        let length = self.u16()?;
        let data = self.take(length.into())?;
        Some(Record { kind, class, ttl, data, at_root })
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let taken = self.message.get(self.at..self.at + bytes)?;
        self.at += bytes;
        Some(taken)
    }
}

/// Reads an OPT record: EDNS gives class and TTL a meaning of its own.
fn edns(record: &Record<'_>) -> Option<Edns> {
    let [_, version, flags, _] = record.ttl.to_be_bytes();
    let mut edns = Edns { size: record.class, version, dnssec_ok: flags & 0x80 != 0, nsid: false };
    let mut options = Reader { message: record.data, at: 0 };
    while options.at < record.data.len() {
        let (code, length) = (options.u16()?, options.u16()?);
        options.take(length.into())?;
        edns.nsid |= code == NSID;
    }
    Some(edns)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn questions_written_by_hickory_are_parsed_and_damaged_ones_never_panic(
            labels in proptest::collection::vec("[A-Za-z0-9_-]{1,20}", 0..6),
            kind in any::<u16>(),
            size in proptest::option::of(512_u16..),
            cut in 0_usize..80,
            spoilt in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let name = Name::from_labels(labels.iter().map(String::as_bytes)).unwrap();
            let mut message = Message::new(77, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(name.clone(), kind.into()));
            if let Some(size) = size {
                let mut edns = hickory_proto::op::Edns::new();
                edns.set_max_payload(size).set_dnssec_ok(true);
                message.set_edns(edns);
            }
            let bytes = message.to_vec().unwrap();
            let Some((header, Some(question))) = read(&bytes) else { panic!("refused {bytes:?}") };
            prop_assert_eq!(header.id, 77);
            prop_assert_eq!(question.key(), &*crate::zone::key(&name));
            prop_assert_eq!(question.kind, RecordType::from(kind));
            prop_assert_eq!(question.edns.map(|edns| (edns.size, edns.dnssec_ok)), size.map(|size| (size, true)));

            prop_assert!(!matches!(read(&bytes[..cut.min(bytes.len() - 1)]), Some((_, Some(_)))));
            let mut bytes = bytes;
            for (at, value) in spoilt {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = read(&bytes);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
