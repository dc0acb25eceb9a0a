//! Notifications of a store to the node.

use std::time::Duration;

use conclave_core::{RoomId, Seq, ShardId};

/// Receives the events of a store. Called on the hot path, so implementations must be quick and never block.
pub trait Observer: Send + Sync + 'static {
    /// Rooms have new events, up to these positions. Called after each applied batch, on every replica.
    fn published(&self, shard: ShardId, heads: &[(RoomId, Seq)]) {
        let _ = (shard, heads);
    }

    /// A group commit of the log is on disk.
    fn log_synced(&self, took: Duration, bytes: usize, entries: usize) {
        let _ = (took, bytes, entries);
    }

    /// `votes` hard states are on disk, with one sync.
    fn votes_synced(&self, took: Duration, votes: usize) {
        let _ = (took, votes);
    }

    /// Applied state was written; if `checkpoint`, it is synced.
    fn state_written(&self, took: Duration, bytes: usize, checkpoint: bool) {
        let _ = (took, bytes, checkpoint);
    }

    /// Entries were applied.
    fn applied(&self, shard: ShardId, entries: usize, commands: usize, took: Duration) {
        let _ = (shard, entries, commands, took);
    }
}

/// An observer that does nothing.
impl Observer for () {}
