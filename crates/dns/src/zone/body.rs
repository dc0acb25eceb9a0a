//! The sections of an answer behind the question, encoded before any question arrives.

use hickory_proto::op::Query;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder, NameEncoding};

/// Size of a DNS message's header, bytes.
pub(crate) const HEADER_BYTES: usize = 12;

/// The three encoded sections of an answer. An answer is the header, the question as it was sent, and a body. Names in
/// the body may be compressed to pointers into the question, right behind the header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) answers: u16,
    pub(crate) authority: u16,
    pub(crate) additional: u16,
}

impl Body {
    /// The body of an answer to a question for `name`. `None` if it does not fit into any message.
    pub(crate) fn answer<'a>(
        name: &Name,
        asked: RecordType,
        answers: impl ExactSizeIterator<Item = &'a Record>,
        additional: impl ExactSizeIterator<Item = &'a Record>,
    ) -> Option<Self> {
        let counts = (u16::try_from(answers.len()).ok()?, u16::try_from(additional.len()).ok()?);
        let mut bytes = vec![0; HEADER_BYTES];
        let mut encoder = BinEncoder::with_offset(&mut bytes, u32::try_from(HEADER_BYTES).ok()?);
        Query::query(name.clone(), asked).emit(&mut encoder).ok()?;
        let begin = encoder.offset();
        encoder.emit_all(answers).ok()?;
        encoder.emit_all(additional).ok()?;
        Some(Self { bytes: bytes[begin..].into(), answers: counts.0, authority: 0, additional: counts.1 })
    }

    /// The body of negative answers: the SOA. Its names are not compressed, so it fits behind any question.
    pub(crate) fn absence(soa: &Record) -> Option<Self> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_name_encoding(NameEncoding::Uncompressed);
        soa.emit(&mut encoder).ok()?;
        Some(Self { bytes: bytes.into(), answers: 0, authority: 1, additional: 0 })
    }
}
