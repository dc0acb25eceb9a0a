//! The changes that the writer takes from a shard, and how they are written.

use conclave_core::{RoomId, Seq, SessionId, ShardId};
use conclave_proto::command;
use prost::Message as _;
use redb::{ReadableTable as _, Table, WriteTransaction};

use super::block::{self, Block, GROWS_BELOW, Packer};
use super::db::{STATE, broken, encode_applied};
use super::key::{self, Key};
use super::tail::Chunk;
use super::{Inner, ShardState, row};
use crate::disk::DataFile;
use crate::error::StoreError;
use crate::types::LogId;
use crate::{checksum, lock};

/// A table of the state file in a transaction.
pub(crate) type StateTable<'a> = Table<'a, &'static [u8], &'static [u8]>;

/// All changes of a shard since the last flush, at one position in the log.
#[derive(Debug)]
pub(crate) struct FlushBatch {
    shard: ShardId,
    epoch: u64,
    pub(crate) applied: Option<LogId>,
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Sessions whose stored replies are to be removed.
    ended: Vec<SessionId>,
    chunks: Vec<(RoomId, Chunk)>,
    erasures: Vec<Erasure>,
    /// The bytes of these changes in the count of unwritten bytes.
    pub(crate) bytes: usize,
}

impl ShardState {
    /// Takes the changes; `None` if there are none.
    pub(crate) fn take(&self) -> Option<FlushBatch> {
        let mut inner = lock(&self.inner);
        // After an error, memory may be in the middle of an entry.
        if !inner.moved || self.shared.failure.check().is_err() {
            return None;
        }
        let mut rows = Vec::new();
        inner.rows.take_dirty(|key, row| rows.push((key.encode(self.shard), row.encode())));
        for key in std::mem::take(&mut inner.small) {
            rows.push((key.encode(self.shard), inner.encode_small(&key)));
        }
        if let Some(applied) = &inner.applied {
            rows.push((
                key::applied(self.shard),
                Some(encode_applied(applied, &inner.membership, &inner.digests.now())),
            ));
        }
        let now = inner.epoch;
        let erasures = inner.erasures.iter().filter(|(_, (_, epoch))| *epoch == now);
        let erasures =
            erasures.map(|((room, seq), (by, _))| Erasure { room: *room, seq: *seq, by: *by }).collect();
        inner.moved = false;
        inner.epoch += 1;
        Some(FlushBatch {
            shard: self.shard,
            epoch: inner.epoch - 1,
            applied: inner.applied,
            rows,
            ended: std::mem::take(&mut inner.ended),
            erasures,
            chunks: std::mem::take(&mut inner.unwritten),
            bytes: std::mem::take(&mut inner.unwritten_bytes),
        })
    }

    /// Records that these changes are in the file, so that memory may drop them.
    pub(crate) fn mark_flushed(&self, taken: &FlushBatch) {
        let mut inner = lock(&self.inner);
        inner.written = inner.written.max(taken.epoch);
        inner.fresh.retain(|_, (_, epoch)| *epoch > taken.epoch);
        inner.fresh_members.retain(|_, (_, epoch)| *epoch > taken.epoch);
        inner.fresh_messages.retain(|_, (_, epoch)| *epoch > taken.epoch);
        inner.erasures.retain(|_, (_, epoch)| *epoch > taken.epoch);
        inner.evict();
        drop(inner);
        self.shared.release(taken.bytes);
    }
}

impl Inner {
    fn encode_small(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Meta => Some(row::encode_meta(&self.meta)),
            Key::Node(node) => self.nodes.get(node).map(|node| command::node_to_proto(node).encode_to_vec()),
            Key::Layout => {
                self.layout.as_ref().map(|layout| command::layout_to_proto(layout).encode_to_vec())
            }
            _ => None,
        }
    }
}

impl FlushBatch {
    /// Writes the changes. Returns the number of bytes in the written rows.
    pub(crate) fn write(&mut self, write: &WriteTransaction) -> Result<usize, StoreError> {
        let mut table = write.open_table(STATE).map_err(broken)?;
        let mut bytes = 0;
        // In the order of the file, so that each page is touched once.
        self.rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (key, value) in &self.rows {
            bytes += put(&mut table, key, value.as_deref())?;
        }
        // After the rows: a reply that was stored before its session ended is removed with the others.
        for session in &self.ended {
            let prefix = key::replies_of(self.shard, *session);
            let end = key::end_of(&prefix);
            table.retain_in(prefix.as_slice()..end.as_slice(), |_, _| false).map_err(broken)?;
        }
        // The sort is stable, so that a room's chunks stay in their order.
        self.chunks.sort_by_key(|(room, _)| *room);
        for chunks in self.chunks.chunk_by(|(a, _), (b, _)| a == b) {
            bytes += write_room(&mut table, self.shard, chunks)?;
        }
        // After the chunks, which have their events as they were applied.
        bytes += erase(&mut table, self.shard, &self.erasures)?;
        Ok(bytes)
    }
}

/// An event whose content is to be erased.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Erasure {
    pub(crate) room: RoomId,
    pub(crate) seq: Seq,
    /// The event that deleted it.
    pub(crate) by: Seq,
}

/// Erases the content of events, except where the file does not have it, or not any more. Events of one block that stand side
/// by side in the list cost one write.
pub(crate) fn erase(
    table: &mut StateTable<'_>,
    shard: ShardId,
    erasures: &[Erasure],
) -> Result<usize, StoreError> {
    let mut bytes = 0;
    let mut rest = erasures;
    while let [Erasure { room, seq, .. }, ..] = *rest {
        let Some(mut block) = block_upto(table, shard, room, seq)? else {
            rest = &rest[1..];
            continue;
        };
        let here = |one: &&Erasure| one.room == room && (block.first..=block.last()).contains(&one.seq);
        let count = rest.iter().take_while(here).count().max(1);
        let mut changed = false;
        for erasure in &rest[..count] {
            changed |= block.erase(room, erasure.seq, erasure.by)?;
        }
        if changed {
            bytes += put(table, &key::block(shard, room, block.first), Some(&block.encode()))?;
        }
        rest = &rest[count..];
    }
    Ok(bytes)
}

/// Writes or removes a row.
pub(crate) fn put(table: &mut StateTable<'_>, key: &[u8], value: Option<&[u8]>) -> Result<usize, StoreError> {
    match value {
        Some(value) => {
            let row = checksum::add(key, value);
            table.insert(key, row.as_slice()).map_err(broken)?;
            Ok(key.len() + row.len())
        }
        None => {
            table.remove(key).map_err(broken)?;
            Ok(key.len())
        }
    }
}

/// Appends a room's new events to its history.
fn write_room(
    table: &mut StateTable<'_>,
    shard: ShardId,
    chunks: &[(RoomId, Chunk)],
) -> Result<usize, StoreError> {
    let Some((room, first)) = chunks.first().map(|(room, chunk)| (*room, chunk.first)) else { return Ok(0) };
    let last = block_upto(table, shard, room, Seq(u64::MAX))?;
    if last.as_ref().map_or(0, |block| block.last().0) + 1 != first.0 {
        return Err(block::damaged(room, first));
    }
    let grows = last.filter(|block| block.records.len() < GROWS_BELOW);
    let mut packer = Packer::new(room, first, grows);
    let mut bytes = 0;
    let mut put_block = |block: Block| -> Result<(), StoreError> {
        bytes += put(table, &key::block(shard, room, block.first), Some(&block.encode()))?;
        Ok(())
    };
    for (_, chunk) in chunks {
        packer.push(&chunk.records, &mut put_block)?;
    }
    if let Some(block) = packer.finish() {
        put_block(block)?;
    }
    Ok(bytes)
}

/// The last block of a room that begins at `seq` or before.
fn block_upto(
    table: &StateTable<'_>,
    shard: ShardId,
    room: RoomId,
    seq: Seq,
) -> Result<Option<Block>, StoreError> {
    let (start, _) = key::history(shard, room);
    let end = key::end_of(&key::block(shard, room, seq));
    let last = table.range(start.as_slice()..end.as_slice()).map_err(broken)?.next_back();
    let Some(last) = last else { return Ok(None) };
    let (key, row) = last.map_err(broken)?;
    let value = checksum::verify(DataFile::STATE, key.value(), row.value())?.to_vec();
    let (_, first) = key::parse_block(&key.value()[key::SHARD..])
        .ok_or_else(|| block::damaged(room, Default::default()))?;
    Block::decode(room, first, value).map(Some)
}
