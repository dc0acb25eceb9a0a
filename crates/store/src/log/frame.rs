//! The bytes of the log: rows, commits, frames.
//!
//! A group commit is a stream of *frames*, cut into *rows* of a size that fits redb's pages. The
//! first row of a commit is marked; a commit's rows are written in one transaction, so either all
//! of them are there or none. Every row carries its own checksum.
//!
//! Row: CRC-32 of the rest and of the row's number, `1` if the row begins a commit, part of the stream.
//! Frame: kind, group, and
//! * 1, append: count, then that many entries (length, protobuf);
//! * 2, truncate: the first truncated index;
//! * 3, committed: term and index.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use conclave_core::limits::LOG_ROW_BYTES_MAX;
use conclave_proto::log;
use prost::Message as _;

use crate::convert::{entry_from_proto, entry_to_proto, log_id_of};
use crate::disk::DataFile;
use crate::error::StoreError;
use crate::types::{Entry, LogId};

/// Part of the stream that one row holds. A row, its key and redb's own overhead fill whole pages.
pub(crate) const ROW_PAYLOAD: usize = LOG_ROW_BYTES_MAX - 128;
/// Length of a row's header: checksum and mark.
const ROW_HEADER: usize = 5;

const APPEND: u8 = 1;
const TRUNCATE: u8 = 2;
const COMMITTED: u8 = 3;

/// A decoded frame.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Entries with the place of each in the commit's stream.
    Append { group: u32, entries: Vec<(Entry, u32, u32)> },
    /// The entries from this index on are truncated.
    Truncate { group: u32, from: u64 },
    /// All entries up to this one are committed.
    Committed { group: u32, log_id: LogId },
}

/// Appends a frame of entries, and adds the range of each entry in the stream to `places`.
pub(crate) fn put_append(stream: &mut BytesMut, group: u32, entries: &[Entry], places: &mut Vec<(u32, u32)>) {
    stream.put_u8(APPEND);
    stream.put_u32_le(group);
    stream.put_u32_le(to_u32(entries.len()));
    for entry in entries {
        let entry = entry_to_proto(entry);
        let len = entry.encoded_len();
        stream.put_u32_le(to_u32(len));
        places.push((to_u32(stream.len()), to_u32(len)));
        // A BytesMut grows as needed.
        entry.encode(stream).unwrap_or_default();
    }
}

pub(crate) fn put_truncate(stream: &mut BytesMut, group: u32, from: u64) {
    stream.put_u8(TRUNCATE);
    stream.put_u32_le(group);
    stream.put_u64_le(from);
}

pub(crate) fn put_committed(stream: &mut BytesMut, group: u32, log_id: &LogId) {
    stream.put_u8(COMMITTED);
    stream.put_u32_le(group);
    stream.put_u64_le(log_id.leader_id.term);
    stream.put_u64_le(log_id.index);
}

/// A commit is far below 4 GiB; see the limits.
fn to_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Splits a stream into the values of rows, numbered from `first`.
pub(crate) fn rows(stream: &[u8], first: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    stream.chunks(ROW_PAYLOAD).zip(first..).map(move |(part, number)| {
        let begins = u8::from(number == first);
        let mut row = Vec::with_capacity(ROW_HEADER + part.len());
        row.put_u32_le(checksum(number, begins, part));
        row.put_u8(begins);
        row.put_slice(part);
        (number, row)
    })
}

/// Checks a row, and returns whether it begins a commit, and its part of the stream.
pub(crate) fn open_row(number: u64, row: &[u8]) -> Result<(bool, &[u8]), StoreError> {
    let damaged = || StoreError::damaged(DataFile::LOG, format!("log row {number} has a wrong checksum"));
    if row.len() < ROW_HEADER {
        return Err(damaged());
    }
    let (mut header, part) = row.split_at(ROW_HEADER);
    let crc = header.get_u32_le();
    let begins = header.get_u8();
    if crc != checksum(number, begins, part) {
        return Err(damaged());
    }
    Ok((begins == 1, part))
}

fn checksum(number: u64, begins: u8, part: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&[begins]);
    hasher.update(part);
    hasher.finalize()
}

/// Decodes a commit's frames, in order.
pub(crate) fn parse(
    stream: &Bytes,
    mut each: impl FnMut(Frame) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut rest = stream.clone();
    while rest.has_remaining() {
        let kind = rest.try_get_u8().map_err(|_| cut())?;
        let group = rest.try_get_u32_le().map_err(|_| cut())?;
        each(match kind {
            APPEND => {
                let count = rest.try_get_u32_le().map_err(|_| cut())?;
                let mut entries = Vec::new();
                for _ in 0..count {
                    let len = rest.try_get_u32_le().map_err(|_| cut())?;
                    let offset = to_u32(stream.len() - rest.len());
                    if rest.len() < len as usize {
                        return Err(cut());
                    }
                    entries.push((decode_entry(rest.split_to(len as usize))?, offset, len));
                }
                Frame::Append { group, entries }
            }
            TRUNCATE => Frame::Truncate { group, from: rest.try_get_u64_le().map_err(|_| cut())? },
            COMMITTED => {
                let term = rest.try_get_u64_le().map_err(|_| cut())?;
                let index = rest.try_get_u64_le().map_err(|_| cut())?;
                Frame::Committed { group, log_id: log_id_of(term, index) }
            }
            kind => {
                let what = format!("a log frame of kind {kind}, which this version does not know");
                return Err(StoreError::damaged(DataFile::LOG, what));
            }
        })?;
    }
    Ok(())
}

fn cut() -> StoreError {
    StoreError::damaged(DataFile::LOG, "a log frame ends too early")
}

/// Decodes one entry.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, StoreError> {
    log::Entry::decode(bytes)
        .map_err(Into::into)
        .and_then(entry_from_proto)
        .map_err(|error| StoreError::format(DataFile::LOG, "a log entry", &error))
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::Payload;

    fn entry(index: u64, len: usize) -> Entry {
        Entry { log_id: log_id_of(2, index), payload: EntryPayload::Normal(Payload(vec![7; len].into())) }
    }

    #[test]
    fn a_commit_can_be_read_from_its_rows() {
        let mut stream = BytesMut::new();
        let mut places = Vec::new();
        let entries = [entry(5, 10), entry(6, 50_000), entry(7, 0)];
        put_append(&mut stream, 3, &entries, &mut places);
        put_truncate(&mut stream, 4, 9);
        put_committed(&mut stream, 3, &log_id_of(2, 5));

        let rows: Vec<_> = rows(&stream, 100).collect();
        assert_eq!(rows.len(), stream.len().div_ceil(ROW_PAYLOAD));
        let mut whole = BytesMut::new();
        for (number, row) in &rows {
            let (begins, part) = open_row(*number, row).unwrap();
            assert_eq!(begins, *number == 100);
            whole.put_slice(part);
            assert!(open_row(number + 1, row).is_err(), "a row in another's place is noticed");
            let mut bad = row.clone();
            *bad.last_mut().unwrap() ^= 1;
            assert!(open_row(*number, &bad).is_err());
        }

        let mut frames = Vec::new();
        parse(&whole.freeze(), |frame| {
            frames.push(frame);
            Ok(())
        })
        .unwrap();
        let [
            Frame::Append { group: 3, entries: got },
            Frame::Truncate { group: 4, from: 9 },
            Frame::Committed { group: 3, log_id },
        ] = frames.as_slice()
        else {
            panic!("{frames:?}");
        };
        assert_eq!(got.iter().map(|(entry, ..)| entry.clone()).collect::<Vec<_>>(), entries);
        assert_eq!(got.iter().map(|(_, offset, len)| (*offset, *len)).collect::<Vec<_>>(), places);
        assert_eq!(*log_id, log_id_of(2, 5));
    }

    #[test]
    fn noise_is_an_error_and_never_a_panic() {
        let mut stream = BytesMut::new();
        put_append(&mut stream, 3, &[entry(1, 100)], &mut Vec::new());
        let good = stream.freeze();
        for len in 1..good.len() {
            assert!(parse(&good.slice(..len), |_| Ok(())).is_err(), "{len}");
        }
        assert!(parse(&Bytes::from_static(&[9, 0, 0, 0, 0]), |_| Ok(())).is_err());
    }
}
