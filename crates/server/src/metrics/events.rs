//! Receives the store's events.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::{RoomId, Seq, ShardId};
use conclave_store::Observer;

use crate::feed::Feed;
use crate::metrics::Metrics;

/// Receives the store's events: counts them in the metrics, and notifies subscribers of new room events.
#[derive(Debug)]
pub(crate) struct StoreEvents {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) feed: Arc<Feed>,
}

impl Observer for StoreEvents {
    fn published(&self, _shard: ShardId, heads: &[(RoomId, Seq)]) {
        self.feed.publish(heads);
    }

    fn log_synced(&self, took: Duration, bytes: usize, entries: usize) {
        self.metrics.storage_fsync.observe(took.as_secs_f64());
        self.metrics.storage_batch.observe(entries as f64);
        self.metrics.storage_synced_bytes.inc_by(bytes as u64);
    }

    fn votes_synced(&self, took: Duration, _votes: usize) {
        self.metrics.storage_vote.observe(took.as_secs_f64());
    }

    fn state_written(&self, took: Duration, _bytes: usize, checkpoint: bool) {
        let histogram =
            if checkpoint { &self.metrics.storage_checkpoint } else { &self.metrics.storage_commit };
        histogram.observe(took.as_secs_f64());
    }

    fn applied(&self, shard: ShardId, _entries: usize, commands: usize, _took: Duration) {
        // One label lookup for each batch of entries, not one for each command.
        let counter = self.metrics.applied_commands.with_label_values(&[&shard.to_string()]);
        counter.inc_by(commands as u64);
    }
}
