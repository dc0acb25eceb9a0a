//! Installing a received snapshot.
//!
//! The state writer writes the snapshot in transactions of bounded size, between those of the other
//! shards. A marker is synced before the first of them and removed by the last one. With the marker in
//! the file, the shard's rows are a mix of two states, and the installation begins again after a crash.
//! Every step in between can therefore be repeated.

use std::sync::Arc;

use conclave_core::limits::{HISTORY_BLOCK_BYTES_MAX, SNAPSHOT_INSTALL_BYTES};
use conclave_core::{RoomId, Seq, ShardId};
use conclave_proto::log;
use conclave_proto::raft::{RoomPrefix, SnapshotHeader};
use prost::Message as _;

use super::next_row;
use super::receive::{ReceivedSnapshot, Receiving, last_block};
use crate::convert::{
    log_id_from_proto, log_id_to_proto, stored_membership_from_proto, stored_membership_to_proto,
};
use crate::disk::DataFile;
use crate::error::StoreError;
use crate::state::db::{ReadView, encode_applied, installing};
use crate::state::flush::Erasure;
use crate::state::key::{self, Key, kind};
use crate::state::row;
use crate::state::writer::WriteRequest;
use crate::state::{AppliedDigest, ShardState, StoreContext};
use crate::types::SnapshotMeta;

/// Replaces a shard's state. Blocking. After an error the state may be half replaced, and the store has failed.
pub(crate) fn install(
    state: &ShardState,
    meta: &SnapshotMeta,
    received: &ReceivedSnapshot,
) -> Result<(), StoreError> {
    let shared = state.shared();
    let shard = state.shard();
    received.set_installing(true);
    state.begin_install();
    let marker = encode_marker(shard, meta, received);
    shared.writer_queue.write_blocking(WriteRequest {
        local: vec![(installing(shard), Some(marker))],
        sync: true,
        ..WriteRequest::default()
    })?;
    replace(shared, shard, meta, received)?;
    received.set_installing(false);
    state.installed()
}

/// Finishes the installation that a crash interrupted, if there is one; otherwise removes the staging file. Blocking.
pub(crate) fn finish_installing(state: &ShardState, receiving: &Arc<Receiving>) -> Result<(), StoreError> {
    let Some(marker) = state.shared().db.local(&installing(state.shard()))? else {
        return receiving.clean();
    };
    let (meta, left_out, digest, len) = decode_marker(&marker)?;
    tracing::warn!(shard = %state.shard(), "repeating a snapshot installation that a crash interrupted");
    let received = receiving.again(meta.clone(), left_out.into_iter().collect(), digest, len)?;
    install(state, &meta, &received)
}

fn encode_marker(shard: ShardId, meta: &SnapshotMeta, received: &ReceivedSnapshot) -> Vec<u8> {
    let prefix = |(room, seq): (&RoomId, &Seq)| RoomPrefix { room_id: room.0, last_seq: seq.0 };
    let header = SnapshotHeader {
        shard: shard.0,
        vote: None,
        feature_level: 0,
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_proto),
        membership: Some(stored_membership_to_proto(&meta.last_membership)),
        left_out: received.left_out.iter().map(prefix).collect(),
        digest: received.digest,
    };
    let mut marker = received.len.to_le_bytes().to_vec();
    marker.extend(header.encode_to_vec());
    marker
}

type Marker = (SnapshotMeta, Vec<(RoomId, Seq)>, Option<log::AppliedDigest>, u64);

fn decode_marker(marker: &[u8]) -> Result<Marker, StoreError> {
    let damaged =
        || StoreError::damaged(DataFile::STATE, "the marker of an unfinished snapshot installation");
    let (len, header) = marker.split_first_chunk().ok_or_else(damaged)?;
    let header = SnapshotHeader::decode(header).map_err(|_| damaged())?;
    let meta = SnapshotMeta {
        last_log_id: header.last_log_id.map(log_id_from_proto),
        last_membership: stored_membership_from_proto(header.membership),
    };
    let left_out = header.left_out.into_iter().map(|prefix| (RoomId(prefix.room_id), Seq(prefix.last_seq)));
    Ok((meta, left_out.collect(), header.digest, u64::from_le_bytes(*len)))
}

/// Collects rows into transactions of bounded size.
struct Batches<'a> {
    shared: &'a StoreContext,
    write: WriteRequest,
    bytes: usize,
}

impl Batches<'_> {
    fn add(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        // The removal of a row costs about a page, too.
        self.bytes += key.len() + value.as_ref().map_or(256, Vec::len);
        self.write.rows.push((key, value));
        if self.bytes >= SNAPSHOT_INSTALL_BYTES { self.send() } else { Ok(()) }
    }

    /// The history that a snapshot leaves out is the node's own, and may have what was deleted since: erases it, if this
    /// is the row of a deleted message.
    fn erase_kept(
        &mut self,
        shard: ShardId,
        received: &ReceivedSnapshot,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        let Some((room, seq)) = key::parse_message(key) else { return Ok(()) };
        let kept = received.left_out.get(&room).copied().unwrap_or_default();
        if seq > kept {
            return Ok(());
        }
        let state =
            row::decode_message(value).map_err(|error| row::damaged(&Key::Message(room, seq), &error))?;
        let by = state.deleted;
        if by == Seq(0) {
            return Ok(());
        }
        let seqs = std::iter::once(seq).chain(state.edits).filter(|seq| *seq <= kept);
        for seq in seqs {
            let (_, erasures) = self.write.erasures.get_or_insert_with(|| (shard, Vec::new()));
            erasures.push(Erasure { room, seq, by });
            // It rewrites a block.
            self.bytes += HISTORY_BLOCK_BYTES_MAX;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.shared.writer_queue.write_blocking(std::mem::take(&mut self.write))
    }
}

fn replace(
    shared: &StoreContext,
    shard: ShardId,
    meta: &SnapshotMeta,
    received: &ReceivedSnapshot,
) -> Result<(), StoreError> {
    let mut batches = Batches { shared, write: WriteRequest::default(), bytes: 0 };
    clear(&shared.db.read()?, shard, received, &mut batches)?;
    for rows in received.chunks()? {
        let mut rows = rows?;
        while let Some((key, value)) = next_row(&mut rows)? {
            batches.erase_kept(shard, received, &key, &value)?;
            let mut whole = key::shard_prefix(shard);
            whole.extend_from_slice(&key);
            batches.add(whole, Some(value.to_vec()))?;
        }
    }
    let applied = key::applied(shard);
    let position = meta.last_log_id.map(|id| {
        encode_applied(&id, &meta.last_membership, &AppliedDigest::stored(id.index, received.digest))
    });
    batches.write.rows.push((applied, position));
    batches.write.local.push((installing(shard), None));
    batches.write.sync = true;
    batches.write.applied = meta.last_log_id.map(|id| (shard.0, id));
    batches.send()
}

/// Removes all rows of the shard except the history that the snapshot leaves out.
fn clear(
    read: &ReadView,
    shard: ShardId,
    received: &ReceivedSnapshot,
    batches: &mut Batches<'_>,
) -> Result<(), StoreError> {
    let mut from = key::with_kind(shard, kind::APPLIED + 1);
    let end = key::end_of(&key::shard_prefix(shard));
    'again: loop {
        for row in read.range(&from..&end)? {
            let (key, _) = row?;
            let kept = key::parse_block(&key[key::SHARD..])
                .and_then(|(room, first)| Some((room, received.left_out.get(&room).copied()?, first)));
            if let Some((room, upto, first)) = kept
                && first <= upto
            {
                from = keep(read, shard, room, upto, batches)?;
                continue 'again;
            }
            batches.add(key, None)?;
        }
        return Ok(());
    }
}

/// Keeps a room's history up to an event, and truncates the block with this event. Returns the key after this block.
fn keep(
    read: &ReadView,
    shard: ShardId,
    room: RoomId,
    upto: Seq,
    batches: &mut Batches<'_>,
) -> Result<Vec<u8>, StoreError> {
    if let Some(block) = last_block(read, shard, room, upto)? {
        let first = block.first;
        if block.last() > upto
            && let Some(cut) = block.up_to(room, upto)?
        {
            batches.add(key::block(shard, room, first), Some(cut.encode()))?;
        }
    }
    Ok(key::end_of(&key::block(shard, room, upto)))
}
