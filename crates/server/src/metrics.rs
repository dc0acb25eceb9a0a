//! Every metric of a node, in one place. Labels are few and bounded: shards, peers, methods, outcomes;
//! never rooms or users.

mod clients;
mod events;
mod node;
mod sends;

use std::time::Duration;

use conclave_core::ShardId;
use conclave_proto::admin::admin_service_server;
use conclave_proto::chat::chat_service_server;
use conclave_proto::fault::fault_service_server;
use conclave_proto::people::people_service_server;
use conclave_proto::raft::raft_service_server;
use conclave_telemetry::calls::CallMetrics;
use conclave_telemetry::connections::ConnectionMetrics;
use conclave_telemetry::metrics::{Exposition, Maker};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

pub(crate) use clients::ClientMetrics;
pub(crate) use events::StoreEvents;
pub(crate) use node::NodeMetrics;

/// Buckets for latencies of disks and networks, in seconds.
const LATENCY: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets for the sizes of batches.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0];

/// The services on the ports of a node.
const SERVICES: [&str; 5] = [
    chat_service_server::SERVICE_NAME,
    people_service_server::SERVICE_NAME,
    admin_service_server::SERVICE_NAME,
    fault_service_server::SERVICE_NAME,
    raft_service_server::SERVICE_NAME,
];

/// The metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    exposition: Exposition,
    // Raft
    pub(crate) raft_term: IntGaugeVec,
    pub(crate) raft_role: IntGaugeVec,
    pub(crate) raft_is_leader: IntGaugeVec,
    pub(crate) raft_has_leader: IntGaugeVec,
    pub(crate) raft_leader_changes: IntCounterVec,
    pub(crate) raft_elections: IntCounterVec,
    pub(crate) raft_election_duration: HistogramVec,
    pub(crate) raft_last_log_index: IntGaugeVec,
    pub(crate) raft_committed_index: IntGaugeVec,
    pub(crate) raft_applied_index: IntGaugeVec,
    pub(crate) raft_snapshot_index: IntGaugeVec,
    pub(crate) raft_purged_index: IntGaugeVec,
    pub(crate) raft_quorum_ack_age: prometheus::GaugeVec,
    pub(crate) raft_peer_matched_index: IntGaugeVec,
    pub(crate) raft_peer_rtt: HistogramVec,
    pub(crate) raft_peer_append: HistogramVec,
    pub(crate) raft_peer_append_failures: IntCounterVec,
    pub(crate) raft_proposals_pending: IntGaugeVec,
    pub(crate) raft_commit_duration: Histogram,
    pub(crate) raft_entry_commands: Histogram,
    pub(crate) raft_snapshot_send: Histogram,
    pub(crate) raft_snapshot_install: Histogram,
    // Storage
    storage_fsync: Histogram,
    storage_commit: Histogram,
    storage_batch: Histogram,
    storage_synced_bytes: IntCounter,
    pub(crate) storage_bytes: IntGaugeVec,
    pub(crate) storage_disk_bytes: IntGaugeVec,
    pub(crate) storage_disk_full: IntGauge,
    pub(crate) replicas_diverged: IntGauge,
    pub(crate) storage_errors: IntCounter,
    storage_checkpoint: Histogram,
    storage_vote: Histogram,
    applied_commands: IntCounterVec,
    // Requests
    pub(crate) connections: ConnectionMetrics,
    pub(crate) calls: CallMetrics,
    pub(crate) call_failures: IntCounterVec,
    pub(crate) sends: IntCounterVec,
    pub(crate) send_duration: Histogram,
    pub(crate) delivery_latency: Histogram,
    pub(crate) delivered: IntCounter,
    pub(crate) streams: IntGauge,
    pub(crate) catch_up_pages: IntCounter,
    pub(crate) draining: IntGauge,
    pub(crate) clients: ClientMetrics,
    pub(crate) node: NodeMetrics,
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a list")]
    pub fn new(node: &str, cluster: &str) -> Self {
        let make = Maker::new();
        let build = make.gauges(
            "conclave_build_info",
            "Version and identity; always 1.",
            &["version", "node", "cluster"],
        );
        build.with_label_values(&[conclave_core::version::VERSION, node, cluster]).set(1);
        let shard = &["shard"];
        let peer = &["peer"];
        Self {
            raft_term: make.gauges("conclave_raft_term", "Raft term of the replica.", shard),
            raft_role: make.gauges(
                "conclave_raft_role",
                "1 for the replica's role, 0 for the others.",
                &["shard", "role"],
            ),
            raft_is_leader: make.gauges(
                "conclave_raft_is_leader",
                "1 if the replica leads its shard.",
                shard,
            ),
            raft_has_leader: make.gauges(
                "conclave_raft_has_leader",
                "1 if the replica knows its shard's leader.",
                shard,
            ),
            raft_leader_changes: make.counters(
                "conclave_raft_leader_changes_total",
                "Leaders seen by the replica.",
                shard,
            ),
            raft_elections: make.counters(
                "conclave_raft_elections_total",
                "Elections that this replica began, by cause.",
                &["shard", "cause"],
            ),
            raft_election_duration: make.histograms(
                "conclave_raft_election_duration_seconds",
                "From losing a shard's leader to knowing the next one, as this replica saw it.",
                shard,
                LATENCY,
            ),
            raft_last_log_index: make.gauges(
                "conclave_raft_last_log_index",
                "Index of the last entry.",
                shard,
            ),
            raft_committed_index: make.gauges(
                "conclave_raft_committed_index",
                "Index of the last committed entry.",
                shard,
            ),
            raft_applied_index: make.gauges(
                "conclave_raft_applied_index",
                "Index of the last applied entry.",
                shard,
            ),
            raft_snapshot_index: make.gauges(
                "conclave_raft_snapshot_index",
                "Index that the snapshot covers.",
                shard,
            ),
            raft_purged_index: make.gauges(
                "conclave_raft_purged_index",
                "Index of the last purged entry.",
                shard,
            ),
            raft_quorum_ack_age: make.put(prometheus::GaugeVec::new(
                Opts::new(
                    "conclave_raft_quorum_ack_age_seconds",
                    "How long ago a quorum last answered this leader.",
                ),
                shard,
            )),
            raft_peer_matched_index: make.gauges(
                "conclave_raft_peer_matched_index",
                "Index up to which a follower holds this leader's log.",
                &["shard", "peer"],
            ),
            raft_peer_rtt: make.histograms(
                "conclave_raft_peer_rtt_seconds",
                "Round trip of a heartbeat.",
                peer,
                LATENCY,
            ),
            raft_peer_append: make.histograms(
                "conclave_raft_peer_append_duration_seconds",
                "From sending entries to a follower until it has them on disk; one at a time is timed.",
                peer,
                LATENCY,
            ),
            raft_peer_append_failures: make.counters(
                "conclave_raft_peer_append_failures_total",
                "Append streams and heartbeats that failed.",
                peer,
            ),
            raft_proposals_pending: make.gauges(
                "conclave_raft_proposals_pending",
                "Commands proposed by this leader and not yet decided.",
                shard,
            ),
            raft_commit_duration: make.histogram(
                "conclave_raft_commit_duration_seconds",
                "From proposing an entry to its application at this leader.",
                LATENCY,
            ),
            raft_entry_commands: make.histogram(
                "conclave_raft_entry_commands",
                "Commands in one Raft entry.",
                BATCH,
            ),
            raft_snapshot_send: make.histogram(
                "conclave_raft_snapshot_send_seconds",
                "Sending a snapshot.",
                LATENCY,
            ),
            raft_snapshot_install: make.histogram(
                "conclave_raft_snapshot_install_seconds",
                "Receiving and installing a snapshot.",
                LATENCY,
            ),
            storage_fsync: make.histogram(
                "conclave_storage_fsync_duration_seconds",
                "A synced commit of the log.",
                LATENCY,
            ),
            storage_commit: make.histogram(
                "conclave_storage_commit_duration_seconds",
                "A commit of the state, not synced.",
                LATENCY,
            ),
            storage_checkpoint: make.histogram(
                "conclave_storage_checkpoint_duration_seconds",
                "A synced commit of the state.",
                LATENCY,
            ),
            storage_vote: make.histogram(
                "conclave_storage_vote_sync_duration_seconds",
                "One synced write of votes.",
                LATENCY,
            ),
            storage_batch: make.histogram(
                "conclave_storage_batch_entries",
                "Raft entries in one synced commit of the log.",
                BATCH,
            ),
            storage_synced_bytes: make
                .counter("conclave_storage_synced_bytes_total", "Bytes of entries synced to the log."),
            storage_bytes: make.gauges(
                "conclave_storage_bytes",
                "Bytes on disk or waiting for it, by kind.",
                &["kind"],
            ),
            storage_disk_bytes: make.gauges(
                "conclave_storage_disk_bytes",
                "Free space and size of the file system of the data dir, bytes, by kind.",
                &["kind"],
            ),
            replicas_diverged: make.gauge(
                "conclave_replicas_diverged",
                "Replicas of other nodes that have applied something else than this node's.",
            ),
            storage_disk_full: make.gauge(
                "conclave_storage_disk_full",
                "Whether the disk has less room than its reserve, so that the node refuses writes.",
            ),
            storage_errors: make
                .counter("conclave_storage_errors_total", "Storage errors; the first one stops the node."),
            applied_commands: make.counters(
                "conclave_applied_commands_total",
                "Commands applied by the replica.",
                shard,
            ),
            connections: ConnectionMetrics::new(&make),
            calls: CallMetrics::new(&make, &SERVICES),
            call_failures: make.counters(
                "conclave_call_failures_total",
                "Calls of clients that failed, by conclave's own word for the failure.",
                &["method", "code"],
            ),
            sends: make.counters_of("conclave_sends_total", "Sends by outcome.", "outcome", &sends::OUTCOMES),
            send_duration: make.histogram(
                "conclave_send_duration_seconds",
                "From a send's arrival to its ack.",
                LATENCY,
            ),
            delivery_latency: make.histogram(
                "conclave_delivery_latency_seconds",
                "From an event's application to its hand-over to a subscriber's connection.",
                LATENCY,
            ),
            delivered: make
                .counter("conclave_delivered_frames_total", "Frames of events handed to subscribers."),
            streams: make.gauge("conclave_streams", "Open client streams."),
            catch_up_pages: make.counter(
                "conclave_catch_up_pages_total",
                "Pages of events that subscribers read from the state file.",
            ),
            draining: make.gauge("conclave_draining", "1 while the node gives its work away."),
            clients: ClientMetrics::new(&make),
            node: NodeMetrics::new(&make),
            exposition: make.finish(),
        }
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.exposition.render()
    }

    /// The 99th percentile of the latency of log syncs since the start, in microseconds: the upper end of its bucket.
    #[must_use]
    pub fn sync_p99_us(&self) -> u32 {
        p99_us(&cumulative(&self.storage_fsync))
    }

    /// The number of sends acked since the start, by latency bucket: for [`recent_p99_us`].
    pub(crate) fn sends_by_duration(&self) -> Vec<u64> {
        cumulative(&self.send_duration)
    }
}

/// For each bucket the number of observations up to the bucket's end; last, the number of all observations.
fn cumulative(histogram: &Histogram) -> Vec<u64> {
    let metric = prometheus::core::Metric::metric(histogram);
    let histogram = metric.get_histogram();
    let buckets = histogram.get_bucket().iter().map(prometheus::proto::Bucket::cumulative_count);
    buckets.chain([histogram.get_sample_count()]).collect()
}

/// The 99th percentile of the observations between two samples, in microseconds; 0 if there were none.
pub(crate) fn recent_p99_us(before: &[u64], after: &[u64]) -> u32 {
    let between: Vec<_> =
        after.iter().zip(before).map(|(after, before)| after.saturating_sub(*before)).collect();
    p99_us(&between)
}

/// The upper end of the bucket that holds the 99th percentile, in microseconds; that of the last bucket, if beyond.
fn p99_us(cumulative: &[u64]) -> u32 {
    let wanted = match cumulative.last() {
        None | Some(0) => return 0,
        Some(count) => count * 99 / 100,
    };
    let bucket = LATENCY.iter().zip(cumulative).find(|(_, count)| **count > wanted);
    let seconds = bucket.map_or(LATENCY[LATENCY.len() - 1], |(end, _)| *end);
    let end = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u32::try_from(end.as_micros()).unwrap_or(u32::MAX)
}

/// A shard's number as it appears in openraft's metrics and in our labels.
pub(crate) fn label(shard: ShardId) -> String {
    shard.0.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_with_their_names() {
        let metrics = Metrics::new("n1", "test");
        metrics.raft_term.with_label_values(&["0"]).set(3);
        let text = metrics.render();
        assert!(text.contains("conclave_raft_term{shard=\"0\"} 3"), "{text}");
        assert!(text.contains("conclave_build_info"));
        assert_eq!(metrics.sync_p99_us(), 0);
        metrics.storage_fsync.observe(0.0004);
        assert_eq!(metrics.sync_p99_us(), 500);
        metrics.storage_fsync.observe(60.0);
        assert_eq!(metrics.sync_p99_us(), 10_000_000);
    }
}
