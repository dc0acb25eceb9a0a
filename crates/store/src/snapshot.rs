//! Snapshots: a shard's rows, streamed from a checkpoint of one node into the state file of another.
//!
//! A snapshot is never made as a file or in memory: the sender reads a view of its state file. The
//! receiver stages what arrives in a file of its own and checks all of it, down to the last event
//! of every room, before it touches its state. Only then it writes down that it is installing; a
//! crash after that begins the installation again. Memory is bounded on both sides.
//!
//! History that the receiver has already is left out: both ends name the same prefixes.

mod install;
mod receive;
mod send;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::error::StoreError;

pub(crate) use install::{finish_installing, install};
pub(crate) use receive::Receiving;
pub use receive::{ReceivedSnapshot, SnapshotReceiver};
pub use send::LocalSnapshot;

/// A snapshot's data.
#[derive(Debug)]
pub enum SnapshotData {
    /// Of this node, to be sent.
    Local(LocalSnapshot),
    /// Received from another, to be installed.
    Received(ReceivedSnapshot),
}

/// Appends a row to a chunk.
fn put_row(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.put_u32_le(len(key));
    out.put_u32_le(len(value));
    out.put_slice(key);
    out.put_slice(value);
}

/// Cuts the next row off a chunk.
fn next_row(rows: &mut Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let cut = || StoreError::Snapshot("a row is cut off".to_owned());
    let key = rows.try_get_u32_le().map_err(|_| cut())? as usize;
    let value = rows.try_get_u32_le().map_err(|_| cut())? as usize;
    if rows.len() < key.saturating_add(value) {
        return Err(cut());
    }
    Ok(Some((rows.split_to(key), rows.split_to(value))))
}
