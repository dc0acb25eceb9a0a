//! Once a second: purges the Raft logs, and updates the gauges. Beside it, looks at the disk.

use std::sync::Arc;
use std::time::Duration;

use conclave_store::Store;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio_util::sync::CancellationToken;

use crate::disk_space::DiskSpace;
use crate::metrics::Metrics;
use crate::shard::sample::sample;
use crate::shard::{Replica, Shards};

const INTERVAL: Duration = Duration::from_secs(1);
/// Deadline of a snapshot, which is only a checkpoint.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30);

/// Runs housekeeping until the node stops.
pub(crate) async fn run(
    shards: Arc<Shards>,
    store: Store,
    disk: DiskSpace,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    // A file system that cannot allocate a file is asked once.
    let mut wants_ballast = true;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        sample(&shards, &metrics);
        let usage = store.usage();
        for (kind, bytes) in [
            ("log", usage.log_bytes),
            ("log_file", usage.log_file_bytes),
            ("state_file", usage.state_file_bytes),
            ("unwritten", usage.unwritten_bytes),
        ] {
            metrics.storage_bytes.with_label_values(&[kind]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if wants_ballast && !disk.is_full() {
            wants_ballast = keep_ballast(&store).await;
        }
        for wanted in store.compaction() {
            if let Some(replica) = shards.replica(wanted.shard) {
                tokio::select! {
                    () = purge_behind_snapshot(replica, wanted.upto) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}

/// Looks at the disk until the node stops: once a second, and more often while it has little room, because the node must
/// stop to take entries before the disk is full.
pub(crate) async fn watch_disk(
    store: Store,
    disk: DiskSpace,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    loop {
        look_at_disk(&store, &disk, &metrics).await;
        let pause = if disk.is_full() { INTERVAL / 5 } else { INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Decides whether the disk has room. The operating system may take its time to answer, so no worker of the runtime asks.
pub(crate) async fn look_at_disk(store: &Store, disk: &DiskSpace, metrics: &Metrics) {
    let asked = store.clone();
    let Ok((free, size)) = store.work().block(move || asked.space()).await else { return };
    disk.sample(free, size);
    for (kind, bytes) in [("free", free), ("size", size)] {
        let gauge = metrics.storage_disk_bytes.with_label_values(&[kind]);
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    metrics.storage_disk_full.set(disk.is_full().into());
}

/// Makes the ballast if there is none. Returns whether to try again. Without the ballast a node whose disk is full may not
/// start, which is no reason to stop it now.
async fn keep_ballast(store: &Store) -> bool {
    let asked = store.clone();
    match store.work().block(move || asked.keep_ballast()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::info!(%error, "ballast not made, the node may not start on a full disk");
            false
        }
        Err(_) => false,
    }
}

/// Purges a shard's log up to an index, behind a snapshot that covers it.
async fn purge_behind_snapshot(replica: &Replica, upto: u64) {
    let snapshot = || replica.raft.metrics().borrow_watched().snapshot.map_or(0, |id| id.index);
    if snapshot() < upto {
        if let Err(error) = replica.raft.trigger().snapshot().await {
            tracing::warn!(shard = replica.shard.0, %error, "failed to build a snapshot");
            return;
        }
        let wait = replica.raft.wait(Some(SNAPSHOT_DEADLINE));
        let built = wait.metrics(
            |metrics| metrics.snapshot.is_some_and(|id| id.index >= upto),
            "a snapshot that covers the log to be purged",
        );
        if let Err(error) = built.await {
            tracing::debug!(shard = replica.shard.0, %error, "snapshot not built in time");
        }
    }
    let upto = upto.min(snapshot());
    if upto > 0
        && let Err(error) = replica.raft.trigger().purge_log(upto).await
    {
        tracing::warn!(shard = replica.shard.0, %error, "failed to purge the log");
    }
}
