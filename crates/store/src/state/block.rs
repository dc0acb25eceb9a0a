//! Blocks of history: consecutive events of a room in one row. The seq of the first event is in the key.
//!
//! Value: the number of events (u32), and their records, which are sent to subscribers unchanged.

use bytes::{Buf as _, Bytes};
use conclave_core::limits::HISTORY_BLOCK_BYTES_MAX;
use conclave_core::{RoomEvent, RoomId, Seq};
use conclave_proto::{event, frame};

use crate::disk::DataFile;
use crate::error::StoreError;

/// Records of a block; with its key and redb's own overhead it fills whole pages.
const RECORDS_MAX: usize = HISTORY_BLOCK_BYTES_MAX - 128;
/// A room's last block grows while it is below this: rewriting it costs a page, as a new one would.
pub(crate) const GROWS_BELOW: usize = 4096 - 256;
const COUNT: usize = 4;

/// A block of a room's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: Seq,
    pub(crate) count: u32,
    pub(crate) records: Bytes,
}

impl Block {
    pub(crate) fn last(&self) -> Seq {
        Seq(self.first.0 + u64::from(self.count) - 1)
    }

    /// Decodes the block from the value of its row.
    pub(crate) fn decode(room: RoomId, first: Seq, value: Vec<u8>) -> Result<Self, StoreError> {
        let mut records = Bytes::from(value);
        if records.len() < COUNT {
            return Err(damaged(room, first));
        }
        let count = records.split_to(COUNT).get_u32_le();
        if count == 0 {
            return Err(damaged(room, first));
        }
        Ok(Self { first, count, records })
    }

    /// Encodes the block as the value of its row.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(COUNT + self.records.len());
        value.extend_from_slice(&self.count.to_le_bytes());
        value.extend_from_slice(&self.records);
        value
    }

    /// The block's events after this one; `None` if there are none.
    pub(crate) fn after(mut self, room: RoomId, after: Seq) -> Result<Option<Self>, StoreError> {
        if after >= self.last() {
            return Ok(None);
        }
        if after >= self.first {
            let skip = after.0 + 1 - self.first.0;
            self.cut(room, skip)?;
            self.first = after.next();
            // Less than `count`, which fits.
            self.count -= u32::try_from(skip).unwrap_or(self.count);
        }
        Ok(Some(self))
    }

    /// The block's events up to this one; `None` if there are none.
    pub(crate) fn up_to(mut self, room: RoomId, upto: Seq) -> Result<Option<Self>, StoreError> {
        if upto < self.first {
            return Ok(None);
        }
        if upto < self.last() {
            let keep = upto.0 + 1 - self.first.0;
            self.records = self.cut(room, keep)?;
            self.count = u32::try_from(keep).unwrap_or(self.count);
        }
        Ok(Some(self))
    }

    /// The event at `seq`; `None` if it is not in the block.
    pub(crate) fn event(&self, room: RoomId, seq: Seq) -> Result<Option<RoomEvent>, StoreError> {
        if !(self.first..=self.last()).contains(&seq) {
            return Ok(None);
        }
        let event = event::event_at(&self.records, seq.0 - self.first.0);
        event.map(Some).map_err(|_| damaged(room, self.first))
    }

    /// Erases the content of the event at `seq`, which the event `by` deleted. Returns whether this changed the block.
    pub(crate) fn erase(&mut self, room: RoomId, seq: Seq, by: Seq) -> Result<bool, StoreError> {
        if !(self.first..=self.last()).contains(&seq) {
            return Ok(false);
        }
        let erased = event::erase_at(&self.records, seq.0 - self.first.0, by);
        let Some(records) = erased.map_err(|_| damaged(room, self.first))? else { return Ok(false) };
        self.records = records;
        Ok(true)
    }

    fn cut(&mut self, room: RoomId, records: u64) -> Result<Bytes, StoreError> {
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        let cut = frame::split_records(&mut self.records, records);
        cut.map_err(|_| damaged(room, self.first))
    }
}

pub(crate) fn damaged(room: RoomId, first: Seq) -> StoreError {
    StoreError::damaged(DataFile::STATE, format!("the history of room {room} from event {first}"))
}

/// Packs consecutive events into blocks.
#[derive(Debug)]
pub(crate) struct Packer {
    room: RoomId,
    first: Seq,
    count: u32,
    records: Vec<u8>,
}

impl Packer {
    /// Begins with an existing block that is to grow, or with an empty one at the event `first`.
    pub(crate) fn new(room: RoomId, first: Seq, grows: Option<Block>) -> Self {
        match grows {
            Some(block) => {
                Self { room, first: block.first, count: block.count, records: block.records.to_vec() }
            }
            None => Self { room, first, count: 0, records: Vec::new() },
        }
    }

    /// Adds records, and returns the blocks that are full.
    pub(crate) fn push(
        &mut self,
        records: &[u8],
        mut full: impl FnMut(Block) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut rest = records;
        while !rest.is_empty() {
            let next = self.first.0 + u64::from(self.count);
            let len = frame::first_record_len(rest).map_err(|_| damaged(self.room, Seq(next)))?;
            let (record, behind) = rest.split_at(len);
            if self.count > 0 && self.records.len() + len > RECORDS_MAX {
                full(self.take())?;
            }
            self.records.extend_from_slice(record);
            self.count += 1;
            rest = behind;
        }
        Ok(())
    }

    fn take(&mut self) -> Block {
        let block = Block {
            first: self.first,
            count: self.count,
            records: Bytes::from(std::mem::take(&mut self.records)),
        };
        self.first = block.last().next();
        self.count = 0;
        block
    }

    /// Returns the last block, unless it is empty.
    pub(crate) fn finish(mut self) -> Option<Block> {
        (self.count > 0).then(|| self.take())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use conclave_core::{EventKind, RequestNo, RoomEvent, SessionId, UserId};
    use conclave_proto::event::{decode_records, encode_record};

    use super::*;

    fn records(range: std::ops::RangeInclusive<u64>, len: usize) -> Bytes {
        let mut out = BytesMut::new();
        for seq in range {
            let event = RoomEvent {
                room: RoomId(1),
                seq: Seq(seq),
                time_ms: 1,
                author: UserId(1),
                author_name: "ana".into(),
                session: SessionId(1),
                request: RequestNo(seq),
                kind: EventKind::Message("x".repeat(len)),
            };
            encode_record(&event, &mut out);
        }
        out.freeze()
    }

    #[test]
    fn blocks_are_consecutive_and_can_be_split_anywhere() {
        let mut blocks = Vec::new();
        let mut packer = Packer::new(RoomId(1), Seq(1), None);
        for seq in 1..=300 {
            let push = packer.push(&records(seq..=seq, 300), |block| {
                blocks.push(block);
                Ok(())
            });
            push.unwrap();
        }
        blocks.extend(packer.finish());
        assert!(blocks.len() > 5);
        let mut next = 1;
        for block in &blocks {
            assert_eq!(block.first, Seq(next));
            assert!(block.records.len() <= RECORDS_MAX);
            assert_eq!(decode_records(&block.records).unwrap().len(), block.count as usize);
            next = block.last().0 + 1;
            let again = Block::decode(RoomId(1), block.first, block.encode()).unwrap();
            assert_eq!(again, *block);
        }
        assert_eq!(next, 301);

        let block = blocks[1].clone();
        for at in block.first.0 - 1..=block.last().0 + 1 {
            let head = block.clone().up_to(RoomId(1), Seq(at)).unwrap();
            let tail = block.clone().after(RoomId(1), Seq(at)).unwrap();
            let joined: Vec<_> = [&head, &tail]
                .into_iter()
                .flatten()
                .flat_map(|part| decode_records(&part.records).unwrap())
                .collect();
            assert_eq!(joined, decode_records(&block.records).unwrap());
        }
    }

    #[test]
    fn one_event_always_fits() {
        let mut packer = Packer::new(RoomId(1), Seq(1), None);
        let mut blocks = Vec::new();
        packer
            .push(&records(1..=3, 16 * 1024), |block| {
                blocks.push(block);
                Ok(())
            })
            .unwrap();
        blocks.extend(packer.finish());
        assert_eq!(blocks.iter().map(|block| block.count).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
