//! Sending a snapshot.

use std::collections::BTreeMap;

use bytes::BytesMut;
use conclave_core::limits::SNAPSHOT_CHUNK_BYTES;
use conclave_core::planted::{Bug, planted};
use conclave_core::{RoomId, Seq, ShardId};
use conclave_proto::log;
use conclave_proto::raft::SnapshotChunk;

use super::put_row;
use crate::error::StoreError;
use crate::state::AppliedDigest;
use crate::state::block::{self, Block};
use crate::state::db::{KeyValue, ReadView};
use crate::state::key::{self, kind};

/// A view of a checkpoint of this node. The state file keeps all pages of the view until it is dropped, so
/// it must be sent or dropped soon.
#[derive(Debug)]
pub struct LocalSnapshot {
    shard: ShardId,
    reading: ReadView,
    digest: Option<AppliedDigest>,
}

impl LocalSnapshot {
    pub(crate) fn new(shard: ShardId, reading: ReadView, digest: Option<AppliedDigest>) -> Self {
        Self { shard, reading, digest }
    }

    /// The digest of the state that the snapshot covers, for the header.
    #[must_use]
    pub fn digest(&self) -> Option<log::AppliedDigest> {
        self.digest.as_ref().map(AppliedDigest::to_proto)
    }

    /// The snapshot's chunks, without the history up to the given events. Reading a chunk blocks. The
    /// caller sets the header of the first chunk.
    pub fn chunks(
        self,
        left_out: Vec<(RoomId, Seq)>,
    ) -> impl Iterator<Item = Result<SnapshotChunk, StoreError>> + Send {
        let rows = Rows {
            shard: self.shard,
            reading: self.reading,
            left_out: left_out.into_iter().collect(),
            rows: None,
            room: None,
        };
        Chunks { rows, number: 0, total: 0, ended: false, kept: None }
    }
}

type RowIter = Box<dyn Iterator<Item = Result<KeyValue, StoreError>> + Send>;

/// The rows of a snapshot, in order.
struct Rows {
    shard: ShardId,
    reading: ReadView,
    left_out: BTreeMap<RoomId, Seq>,
    rows: Option<RowIter>,
    /// The room whose history is being sent.
    room: Option<RoomId>,
}

impl Rows {
    fn open(&self, from: &[u8]) -> Result<RowIter, StoreError> {
        let end = key::end_of(&key::shard_prefix(self.shard));
        Ok(Box::new(self.reading.range(from..&end)?))
    }

    fn next(&mut self) -> Result<Option<KeyValue>, StoreError> {
        loop {
            if self.rows.is_none() {
                // Starts after the row with the position in the log, which is sent in the header.
                let start = key::with_kind(self.shard, kind::APPLIED + 1);
                self.rows = Some(self.open(&start)?);
            }
            let Some(row) = self.rows.as_mut().and_then(Iterator::next) else { return Ok(None) };
            let (key, value) = row?;
            let key = key[key::SHARD..].to_vec();
            if planted(Bug::ForgetDedupe) && key.first() == Some(&kind::REPLIES) {
                continue;
            }
            if key.first() != Some(&kind::HISTORY) {
                return Ok(Some((key, value)));
            }
            let (room, first) = key::parse_block(&key).ok_or_else(|| block::damaged(RoomId(0), Seq(0)))?;
            let known = self.left_out.get(&room).copied().unwrap_or_default();
            if self.room != Some(room) {
                self.room = Some(room);
                if self.skip(room, known)? {
                    continue;
                }
            }
            if let Some(block) = Block::decode(room, first, value)?.after(room, known)? {
                let key = key::block(self.shard, room, block.first)[key::SHARD..].to_vec();
                return Ok(Some((key, block.encode())));
            }
        }
    }

    /// Moves to the block with the first event that is not left out, if that is another block.
    fn skip(&mut self, room: RoomId, known: Seq) -> Result<bool, StoreError> {
        if known == Seq(0) {
            return Ok(false);
        }
        let (start, _) = key::history(self.shard, room);
        let behind = key::end_of(&key::block(self.shard, room, known));
        let Some((block, _)) = self.reading.last(&start..&behind)? else { return Ok(false) };
        self.rows = Some(self.open(&block)?);
        Ok(true)
    }
}

struct Chunks {
    rows: Rows,
    number: u64,
    total: u64,
    ended: bool,
    /// A row that did not fit the last chunk.
    kept: Option<KeyValue>,
}

impl Iterator for Chunks {
    type Item = Result<SnapshotChunk, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let chunk = self.fill();
        self.ended = chunk.as_ref().map_or(true, |chunk| chunk.last);
        Some(chunk)
    }
}

impl Chunks {
    fn fill(&mut self) -> Result<SnapshotChunk, StoreError> {
        let mut rows = BytesMut::new();
        let last = loop {
            let row = match self.kept.take() {
                Some(row) => Some(row),
                None => self.rows.next()?,
            };
            let Some((key, value)) = row else { break true };
            if !rows.is_empty() && rows.len() + key.len() + value.len() + 8 > SNAPSHOT_CHUNK_BYTES {
                self.kept = Some((key, value));
                break false;
            }
            put_row(&mut rows, &key, &value);
            self.total += 1;
        };
        let rows = rows.freeze();
        let chunk = SnapshotChunk {
            header: None,
            crc: crc32fast::hash(&rows),
            rows,
            number: self.number,
            total_rows: if last { self.total } else { 0 },
            last,
        };
        self.number += 1;
        Ok(chunk)
    }
}
