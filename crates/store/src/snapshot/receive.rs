//! Receiving a snapshot into a staging file, and checking all of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use conclave_core::limits::SNAPSHOT_INSTALL_BYTES;
use conclave_core::record::MetaHead;
use conclave_core::{RoomId, Seq, ShardId};
use conclave_proto::log;
use conclave_proto::raft::SnapshotChunk;
use redb::StorageBackend;

use super::{LocalSnapshot, SnapshotData, next_row};
use crate::disk::{DataFile, Disk};
use crate::error::StoreError;
use crate::state::block::Block;
use crate::state::db::ReadView;
use crate::state::key::{self, kind};
use crate::state::row::Small;
use crate::state::{ShardState, row};
use crate::types::SnapshotMeta;

/// Length of a chunk's header in the staging file: length and CRC-32 of the chunk's rows.
pub(super) const CHUNK_HEADER: usize = 8;
const FILE: &str = "snapshot.part";

/// The receiving side of one shard's snapshots: one snapshot at a time.
#[derive(Debug)]
pub(crate) struct Receiving {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    busy: AtomicBool,
}

/// Held while a snapshot is in the staging file. Dropping it removes the file.
#[derive(Debug)]
struct Busy {
    receiving: Arc<Receiving>,
    /// The file must stay, because its snapshot is being installed.
    keep: AtomicBool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Acquire) {
            // A file that cannot be removed now is removed when the store is opened next.
            let _ = self.receiving.disk.remove(&self.receiving.path);
        }
        self.receiving.busy.store(false, Ordering::Release);
    }
}

/// Checks the chunks of a snapshot as they arrive, and stages them. Blocking.
#[derive(Debug)]
pub struct SnapshotReceiver {
    busy: Busy,
    state: Arc<ShardState>,
    meta: SnapshotMeta,
    digest: Option<log::AppliedDigest>,
    file: Box<dyn StorageBackend>,
    len: u64,
    allocated: u64,
    check: Check,
    next: u64,
    rows: u64,
    last: bool,
}

/// A snapshot that is complete, checked and on disk, but not installed yet.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    busy: Busy,
    /// The position and the membership that the snapshot covers.
    pub meta: SnapshotMeta,
    pub(super) left_out: BTreeMap<RoomId, Seq>,
    /// The sender's, if it has one.
    pub(super) digest: Option<log::AppliedDigest>,
    /// Bytes of the staging file that are in use.
    pub(super) len: u64,
}

fn failed(error: &std::io::Error) -> StoreError {
    StoreError::io(FILE, error)
}

fn bad(what: impl Into<String>) -> StoreError {
    StoreError::Snapshot(what.into())
}

impl Receiving {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, shard: ShardId) -> Self {
        let path = dir.join(DataFile::Staging(shard).name());
        Self { disk, path, busy: AtomicBool::new(false) }
    }

    fn occupy(self: &Arc<Self>) -> Result<Busy, StoreError> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(bad("another snapshot of this shard is being received"));
        }
        Ok(Busy { receiving: self.clone(), keep: AtomicBool::new(false) })
    }

    pub(crate) fn begin(
        self: &Arc<Self>,
        state: &Arc<ShardState>,
        meta: SnapshotMeta,
        left_out: Vec<(RoomId, Seq)>,
        digest: Option<log::AppliedDigest>,
    ) -> Result<SnapshotReceiver, StoreError> {
        let busy = self.occupy()?;
        let file = self.disk.open(&self.path).map_err(|error| failed(&error))?;
        file.set_len(0).map_err(|error| failed(&error))?;
        let left_out = left_out.into_iter().filter(|(_, seq)| *seq != Seq(0)).collect();
        let check = Check { left_out, ..Check::default() };
        let state = state.clone();
        Ok(SnapshotReceiver {
            busy,
            state,
            meta,
            file,
            digest,
            len: 0,
            allocated: 0,
            check,
            next: 0,
            rows: 0,
            last: false,
        })
    }

    /// Receives a snapshot of a store in the same process.
    pub(crate) fn copy(
        self: &Arc<Self>,
        state: &Arc<ShardState>,
        meta: SnapshotMeta,
        local: LocalSnapshot,
    ) -> Result<ReceivedSnapshot, StoreError> {
        let mut receiver = self.begin(state, meta, Vec::new(), local.digest())?;
        for chunk in local.chunks(Vec::new()) {
            receiver.chunk(&chunk?)?;
        }
        receiver.complete()
    }

    /// Removes the staging file of an interrupted transfer.
    pub(super) fn clean(&self) -> Result<(), StoreError> {
        self.disk.remove(&self.path).map_err(|error| failed(&error))
    }

    /// The snapshot that was being installed when the node stopped.
    pub(super) fn again(
        self: &Arc<Self>,
        meta: SnapshotMeta,
        left_out: BTreeMap<RoomId, Seq>,
        digest: Option<log::AppliedDigest>,
        len: u64,
    ) -> Result<ReceivedSnapshot, StoreError> {
        Ok(ReceivedSnapshot { busy: self.occupy()?, meta, left_out, digest, len })
    }
}

impl SnapshotReceiver {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// If the chunk is damaged or not the next one, or cannot be written. The transfer has failed then.
    pub fn chunk(&mut self, chunk: &SnapshotChunk) -> Result<(), StoreError> {
        if self.last || chunk.number != self.next {
            return Err(bad(format!("chunk {} came where {} was expected", chunk.number, self.next)));
        }
        if chunk.rows.len() > SNAPSHOT_INSTALL_BYTES || crc32fast::hash(&chunk.rows) != chunk.crc {
            return Err(bad(format!("chunk {} has a wrong checksum", chunk.number)));
        }
        let mut rows = chunk.rows.clone();
        while let Some((key, value)) = next_row(&mut rows)? {
            self.check.row(&key, &value, self.state.feature_level())?;
            self.rows += 1;
        }
        self.stage(&chunk.rows).map_err(|error| failed(&error))?;
        self.next += 1;
        if chunk.last {
            if chunk.total_rows != self.rows {
                return Err(bad(format!("it has {} rows instead of {}", self.rows, chunk.total_rows)));
            }
            self.check.end()?;
            self.last = true;
        }
        Ok(())
    }

    fn stage(&mut self, rows: &[u8]) -> std::io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut bytes = BytesMut::with_capacity(CHUNK_HEADER + rows.len());
        // The check above bounds the length.
        bytes.put_u32_le(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        bytes.put_u32_le(crc32fast::hash(rows));
        bytes.put_slice(rows);
        let end = self.len + bytes.len() as u64;
        if end > self.allocated {
            self.allocated = end + SNAPSHOT_INSTALL_BYTES as u64;
            self.file.set_len(self.allocated)?;
        }
        self.file.write(self.len, &bytes)?;
        self.len = end;
        Ok(())
    }

    /// Ends the transfer: checks that the snapshot is complete, and syncs it.
    ///
    /// # Errors
    /// If rows are missing, or if the file cannot be synced.
    pub fn finish(self) -> Result<SnapshotData, StoreError> {
        self.complete().map(SnapshotData::Received)
    }

    fn complete(self) -> Result<ReceivedSnapshot, StoreError> {
        if !self.last {
            return Err(bad("its end is missing"));
        }
        self.file.sync_data().map_err(|error| failed(&error))?;
        // As late as possible: meanwhile entries are applied.
        self.check.retained(&self.state)?;
        Ok(ReceivedSnapshot {
            busy: self.busy,
            meta: self.meta,
            left_out: self.check.left_out,
            digest: self.digest,
            len: self.len,
        })
    }
}

impl ReceivedSnapshot {
    /// Sets whether the staging file is needed after a crash.
    pub(super) fn set_installing(&self, installing: bool) {
        self.busy.keep.store(installing, Ordering::Release);
    }

    /// The rows of every chunk, in order. The checksums are checked again.
    pub(super) fn chunks(&self) -> Result<impl Iterator<Item = Result<Bytes, StoreError>>, StoreError> {
        let receiving = &self.busy.receiving;
        let file = receiving.disk.open(&receiving.path).map_err(|error| failed(&error))?;
        let end = self.len;
        let mut at = 0;
        Ok(std::iter::from_fn(move || {
            (at < end).then(|| {
                let rows = read_chunk(file.as_ref(), at, end);
                at = rows.as_ref().map_or(end, |rows| at + (CHUNK_HEADER + rows.len()) as u64);
                rows
            })
        }))
    }
}

fn read_chunk(file: &dyn StorageBackend, at: u64, end: u64) -> Result<Bytes, StoreError> {
    let damaged = || StoreError::damaged(FILE, format!("the chunk at byte {at}"));
    if file.len().map_err(|error| failed(&error))? < end {
        return Err(damaged());
    }
    let mut header = [0; CHUNK_HEADER];
    file.read(at, &mut header).map_err(|error| failed(&error))?;
    let [a, b, c, d, crc @ ..] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > SNAPSHOT_INSTALL_BYTES || at + (CHUNK_HEADER + len) as u64 > end {
        return Err(damaged());
    }
    let mut rows = vec![0; len];
    file.read(at + CHUNK_HEADER as u64, &mut rows).map_err(|error| failed(&error))?;
    if crc32fast::hash(&rows) != u32::from_le_bytes(crc) {
        return Err(damaged());
    }
    Ok(rows.into())
}

/// Checks that the rows of a snapshot, together with the history that was left out, are complete rooms.
#[derive(Debug, Default)]
struct Check {
    left_out: BTreeMap<RoomId, Seq>,
    last_key: Vec<u8>,
    /// The last event of each room, by room.
    heads: Vec<(RoomId, Seq)>,
    /// The meta shard's counters; zero in other shards.
    meta: MetaHead,
    /// How many of the rooms are known to be complete, and the last event of the next one.
    whole: usize,
    at: Option<Seq>,
}

impl Check {
    /// Takes the next row, at a node that knows feature levels up to `understands`.
    fn row(&mut self, key: &[u8], value: &[u8], understands: u32) -> Result<(), StoreError> {
        if key <= self.last_key.as_slice() || key.first().is_none_or(|kind| *kind == kind::APPLIED) {
            return Err(bad("its rows are out of order"));
        }
        self.last_key = key.to_vec();
        if let Some(room) = key::parse_room(key) {
            let head = row::room_head(value).map_err(|error| bad(format!("room {room}: {error}")))?;
            self.heads.push((room, head));
        }
        if key.first() == Some(&kind::META)
            && let Some(Small::Meta(meta)) = row::decode_small(key, value)?
        {
            if meta.feature_level > understands {
                let needs = meta.feature_level;
                return Err(bad(format!(
                    "it needs feature level {needs} and this node knows {understands}: upgrade the node"
                )));
            }
            self.meta = meta;
        }
        if key.first() == Some(&kind::HISTORY) {
            let (room, first) = key::parse_block(key).ok_or_else(|| bad("a key of history"))?;
            let block = Block::decode(room, first, value.to_vec()).map_err(|error| bad(error.to_string()))?;
            self.block(room, &block)?;
        }
        Ok(())
    }

    fn block(&mut self, room: RoomId, block: &Block) -> Result<(), StoreError> {
        while let Some((next, _)) = self.heads.get(self.whole)
            && *next < room
        {
            self.end_room()?;
        }
        let here = self.heads.get(self.whole).is_some_and(|(next, _)| *next == room);
        let at = self.at.unwrap_or_else(|| self.known(room));
        if !here || block.first != at.next() {
            return Err(bad(format!("the history of room {room} has a gap before event {}", block.first)));
        }
        self.at = Some(block.last());
        Ok(())
    }

    fn known(&self, room: RoomId) -> Seq {
        self.left_out.get(&room).copied().unwrap_or_default()
    }

    fn end_room(&mut self) -> Result<(), StoreError> {
        if let Some((room, head)) = self.heads.get(self.whole).copied() {
            let at = self.at.unwrap_or_else(|| self.known(room));
            if at != head {
                return Err(bad(format!("the history of room {room} ends at event {at} instead of {head}")));
            }
        }
        self.whole += 1;
        self.at = None;
        Ok(())
    }

    fn end(&mut self) -> Result<(), StoreError> {
        while self.whole < self.heads.len() {
            self.end_room()?;
        }
        Ok(())
    }

    /// Checks that the snapshot is not behind what this node has applied: applied entries are committed, and neither
    /// rooms nor numbers ever shrink. So a snapshot that lacks a room or an event is no state of this shard.
    fn nothing_is_taken_away(
        &self,
        read: &ReadView,
        cached: Vec<(RoomId, Seq)>,
        state: &ShardState,
    ) -> Result<(), StoreError> {
        let heads: BTreeMap<RoomId, Seq> = self.heads.iter().copied().collect();
        for (room, here) in read.heads(state.shard())?.into_iter().chain(cached) {
            match heads.get(&room) {
                Some(there) if *there >= here => {}
                Some(there) => {
                    return Err(bad(format!(
                        "room {room} ends at event {there}, and at {here} on this node"
                    )));
                }
                None => return Err(bad(format!("room {room} is missing, which this node has"))),
            }
        }
        let (here, there) = (state.meta(), self.meta);
        let is_behind = there.last_room < here.last_room
            || there.last_user < here.last_user
            || there.last_session < here.last_session
            || there.feature_level < here.feature_level;
        if is_behind {
            return Err(bad("its counters of rooms, users and sessions are behind those of this node"));
        }
        Ok(())
    }

    /// Checks that this node has the history that the sender left out.
    fn retained(&self, state: &ShardState) -> Result<(), StoreError> {
        // What was applied last is in memory only. Memory first: a row that is written and evicted in between is in the
        // file.
        let cached = state.cached_heads();
        let read = state.shared().db.read()?;
        self.nothing_is_taken_away(&read, cached, state)?;
        for (room, seq) in &self.left_out {
            let last = last_block(&read, state.shard(), *room, *seq)?;
            if last.is_none_or(|block| block.last() < *seq) {
                return Err(bad(format!(
                    "it leaves out events of room {room} up to {seq}, which this node does not have"
                )));
            }
        }
        Ok(())
    }
}

/// The block with this event, or else the last block before it.
pub(super) fn last_block(
    read: &ReadView,
    shard: ShardId,
    room: RoomId,
    seq: Seq,
) -> Result<Option<Block>, StoreError> {
    let (start, _) = key::history(shard, room);
    let Some((found, value)) = read.last(&start..&key::end_of(&key::block(shard, room, seq)))? else {
        return Ok(None);
    };
    let (_, first) = key::parse_block(&found[key::SHARD..]).ok_or_else(|| bad("a key of history"))?;
    Block::decode(room, first, value).map(Some)
}
