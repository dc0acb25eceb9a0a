//! The newest events of each room, encoded for subscribers and for the file.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use conclave_core::{RoomEvent, RoomId, Seq};
use conclave_proto::event;

use super::block::{self, Block};
use super::cache::IdMap;
use crate::error::StoreError;

/// Consecutive events of a room: those of one applied batch.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    /// Concatenated records.
    pub(crate) records: Bytes,
    /// The epoch in which the chunk was applied; see [`super::cache`].
    pub(crate) epoch: u64,
}

impl Chunk {
    /// The chunk's events as a block.
    pub(crate) fn as_block(&self) -> Block {
        let count = u32::try_from(self.last.0 + 1 - self.first.0).unwrap_or(u32::MAX);
        Block { first: self.first, count, records: self.records.clone() }
    }
}

/// Estimated bytes of a chunk besides its records.
const OVERHEAD: usize = 96;

/// The tails of a shard's rooms.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    rooms: IdMap<RoomId, VecDeque<Chunk>>,
    /// The rooms of all chunks, oldest chunk first.
    order: VecDeque<RoomId>,
    bytes: usize,
}

impl Tails {
    pub(crate) fn push(&mut self, room: RoomId, chunk: Chunk) {
        self.bytes += chunk.records.len() + OVERHEAD;
        self.order.push_back(room);
        self.rooms.entry(room).or_default().push_back(chunk);
    }

    /// The chunks from the one with this event on, if it is in memory.
    pub(crate) fn from(&self, room: RoomId, seq: Seq) -> Option<impl Iterator<Item = &Chunk>> {
        let chunks = self.rooms.get(&room)?;
        if chunks.front()?.first > seq || chunks.back()?.last < seq {
            return None;
        }
        let at = chunks.partition_point(|chunk| chunk.last < seq);
        Some(chunks.range(at..))
    }

    /// The event at `seq`, if it is in memory.
    pub(crate) fn event(&self, room: RoomId, seq: Seq) -> Result<Option<RoomEvent>, StoreError> {
        let Some(chunk) = self.from(room, seq).and_then(|mut chunks| chunks.next()) else { return Ok(None) };
        chunk.as_block().event(room, seq)
    }

    /// Erases the content of the event at `seq`, if it is in memory.
    pub(crate) fn erase(&mut self, room: RoomId, seq: Seq, by: Seq) -> Result<(), StoreError> {
        let Some(chunks) = self.rooms.get_mut(&room) else { return Ok(()) };
        let at = chunks.partition_point(|chunk| chunk.last < seq);
        if let Some(chunk) = chunks.get_mut(at) {
            let mut block = chunk.as_block();
            if block.erase(room, seq, by)? {
                self.bytes = self.bytes + block.records.len() - chunk.records.len();
                chunk.records = block.records;
            }
        }
        Ok(())
    }

    /// Drops the oldest chunks that are written (up to the epoch `written`), while there are more than
    /// `bytes_max` bytes.
    pub(crate) fn evict(&mut self, bytes_max: usize, written: u64) {
        while self.bytes > bytes_max {
            let Some(room) = self.order.front().copied() else { return };
            let Some(chunks) = self.rooms.get_mut(&room) else { return };
            if chunks.front().is_none_or(|chunk| chunk.epoch > written) {
                return;
            }
            if let Some(chunk) = chunks.pop_front() {
                self.bytes -= chunk.records.len() + OVERHEAD;
            }
            if chunks.is_empty() {
                self.rooms.remove(&room);
            }
            self.order.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The events of the batch that is being applied, by room.
#[derive(Debug, Default)]
pub(crate) struct ApplyBatch {
    rooms: Vec<(RoomId, Seq, Seq, BytesMut)>,
    at: IdMap<RoomId, usize>,
    /// Empty buffers for reuse.
    spare: Vec<BytesMut>,
}

impl ApplyBatch {
    /// The buffer for the room's next event.
    pub(crate) fn buffer(&mut self, room: RoomId, seq: Seq) -> &mut BytesMut {
        let rooms = &mut self.rooms;
        let spare = &mut self.spare;
        let at = *self.at.entry(room).or_insert_with(|| {
            rooms.push((room, seq, seq, spare.pop().unwrap_or_default()));
            rooms.len() - 1
        });
        let (_, _, last, buffer) = &mut rooms[at];
        *last = seq;
        buffer
    }

    /// The event at `seq`, if it is in the batch.
    pub(crate) fn event(&self, room: RoomId, seq: Seq) -> Result<Option<RoomEvent>, StoreError> {
        let Some((_, first, last, buffer)) = self.at.get(&room).map(|at| &self.rooms[*at]) else {
            return Ok(None);
        };
        if !(*first..=*last).contains(&seq) {
            return Ok(None);
        }
        event::event_at(buffer, seq.0 - first.0).map(Some).map_err(|_| block::damaged(room, seq))
    }

    /// Erases the content of the event at `seq`, if it is in the batch.
    pub(crate) fn erase(&mut self, room: RoomId, seq: Seq, by: Seq) -> Result<(), StoreError> {
        let Some((_, first, last, buffer)) = self.at.get(&room).map(|at| &mut self.rooms[*at]) else {
            return Ok(());
        };
        if (*first..=*last).contains(&seq)
            && let Some(records) =
                event::erase_at(buffer, seq.0 - first.0, by).map_err(|_| block::damaged(room, seq))?
        {
            *buffer = BytesMut::from(records);
        }
        Ok(())
    }

    /// Ends the batch: each room's events as a chunk.
    pub(crate) fn finish(&mut self, epoch: u64, mut each: impl FnMut(RoomId, Chunk)) {
        self.at.clear();
        for (room, first, last, mut buffer) in self.rooms.drain(..) {
            // A copy of exactly its size; the buffer is used again.
            let records = Bytes::copy_from_slice(&buffer);
            if buffer.capacity() <= 1024 * 1024 && self.spare.len() < 64 {
                buffer.clear();
                self.spare.push(buffer);
            }
            each(room, Chunk { first, last, records, epoch });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(first: u64, last: u64, epoch: u64) -> Chunk {
        Chunk { first: Seq(first), last: Seq(last), records: Bytes::from_static(&[0; 100]), epoch }
    }

    #[test]
    fn the_oldest_written_chunks_go_first() {
        let mut tails = Tails::default();
        tails.push(RoomId(1), chunk(5, 7, 1));
        tails.push(RoomId(2), chunk(1, 1, 1));
        tails.push(RoomId(1), chunk(8, 8, 2));
        let firsts = |tails: &Tails, seq| -> Option<Vec<u64>> {
            Some(tails.from(RoomId(1), Seq(seq))?.map(|chunk| chunk.first.0).collect())
        };
        assert_eq!(firsts(&tails, 6), Some(vec![5, 8]));
        assert_eq!(firsts(&tails, 8), Some(vec![8]));
        assert_eq!(firsts(&tails, 4), None);
        assert_eq!(firsts(&tails, 9), None);
        tails.evict(0, 0);
        assert_eq!(firsts(&tails, 6), Some(vec![5, 8]), "nothing is written yet");
        tails.evict(0, 1);
        assert_eq!(firsts(&tails, 6), None);
        assert_eq!(firsts(&tails, 8), Some(vec![8]));
    }
}
