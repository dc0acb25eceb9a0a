//! Snapshots: a shard's rows, streamed from a checkpoint of one node into the state file of another.
//!
//! A snapshot never exists as a whole, neither as a file nor in memory, at the sender: it reads a view of
//! its state file. The receiver stages the chunks in a separate file and checks all of them, down to the
//! last event of every room, before it changes its state. Only then it writes a marker that it is
//! installing; after a crash, the installation begins again. Memory is bounded on both sides.
//!
//! History that the receiver already has is left out: both ends name the same prefixes.

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
    /// A snapshot of this node, to be sent.
    Local(LocalSnapshot),
    /// A snapshot of another node, to be installed.
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

/// Splits the next row off a chunk.
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
