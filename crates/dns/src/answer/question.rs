//! A question as it comes from the network.
//!
//! Read without allocating, and no further than an answer needs it: this is done for whatever anybody sends.

use hickory_proto::rr::RecordType;

use crate::zone::HEADER_BYTES;

/// A name's bytes at most (RFC 1035).
const NAME_BYTES_MAX: usize = 255;
const NSID: u16 = 3;
const RESPONSE: u16 = 0x8000;

/// The first bytes of a message that can be answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u16,
    /// As they stand in the message.
    pub(crate) flags: u16,
}

/// A message with one question.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    /// As it was sent: name, type and class.
    pub(crate) raw: &'a [u8],
    name: [u8; NAME_BYTES_MAX],
    name_bytes: usize,
    pub(crate) kind: RecordType,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
    /// The serial that the client has, in a question for changes since then.
    pub(crate) serial: Option<u32>,
}

/// What came with EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    /// The largest answer that the client takes over UDP.
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    /// It wants to know which server answers (RFC 5001).
    pub(crate) nsid: bool,
}

impl Header {
    pub(crate) fn opcode(self) -> u16 {
        (self.flags >> 11) & 0xf
    }
}

impl Question<'_> {
    /// The name as a zone looks it up.
    pub(crate) fn key(&self) -> &[u8] {
        &self.name[..self.name_bytes]
    }
}

/// Reads a message: its header, and its question unless something is wrong with it. Nothing, if it is no question at all
/// or an answer: those are not answered, or two servers could talk to each other for ever.
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

/// The fixed part of a record whose name was passed over.
struct Record<'a> {
    kind: u16,
    class: u16,
    ttl: u32,
    data: &'a [u8],
    /// Its name is the root.
    at_root: bool,
}

impl<'a> Reader<'a> {
    /// Everything after id and flags.
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
                // Behind its two names it has five numbers, and the serial is the first.
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

    /// Reads a name in lower case. In a question it stands in full: there is nothing before it to point to.
    fn name(&mut self, name: &mut [u8; NAME_BYTES_MAX]) -> Option<usize> {
        let mut bytes = 0;
        loop {
            let length = self.u8()?;
            if length > 63 {
                return None;
            }
            let label = self.take(length.into())?;
            // The length is no letter, and never more than one: it can go through the same hands.
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

/// EDNS puts its own meaning into a record's fields.
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
        fn what_the_library_writes_is_read_and_anything_else_does_no_harm(
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
        fn noise_does_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
