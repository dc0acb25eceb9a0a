//! Metrics of the node as a member: what the cluster should be, the last failovers, its clock, its certificate, and how far
//! subscriptions are behind.

use std::collections::BTreeSet;
use std::time::Duration;

use conclave_telemetry::certificate::CertificateMetrics;
use conclave_telemetry::metrics::Maker;
use prometheus::core::Collector as _;
use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts};

/// The label with the name of a member.
const MEMBER: &str = "member";

/// What the cluster should be, as this node knows it, and what the node knows of itself.
#[derive(Debug)]
pub(crate) struct NodeMetrics {
    members: IntGauge,
    /// By member: 1 for each.
    member_info: IntGaugeVec,
    /// By shard.
    pub(crate) raft_voters: IntGaugeVec,
    /// By shard; empty until this node wins an election.
    failover: GaugeVec,
    failover_at: GaugeVec,
    time: Gauge,
    pub(crate) certificate: CertificateMetrics,
    pub(crate) subscriptions_behind: IntGauge,
    pub(crate) subscription_lag: Gauge,
}

impl NodeMetrics {
    pub(super) fn new(make: &Maker) -> Self {
        let by_shard = |name, help| make.put(GaugeVec::new(Opts::new(name, help), &["shard"]));
        Self {
            members: make.gauge("conclave_members", "Members of the cluster, also those that are down."),
            member_info: make.gauges(
                "conclave_member_info",
                "1 for each member of the cluster, also for those that are down.",
                &[MEMBER],
            ),
            raft_voters: make.gauges(
                "conclave_raft_voters",
                "Voters of the shard, also those that are down.",
                &["shard"],
            ),
            failover: by_shard(
                "conclave_raft_last_failover_seconds",
                "How long the shard had no leader before this node last took over from one that was lost.",
            ),
            failover_at: by_shard(
                "conclave_raft_last_failover_timestamp_seconds",
                "When this node last took over from a leader that was lost, seconds since 1970.",
            ),
            time: make.number("conclave_time_seconds", "The node's clock, seconds since 1970."),
            certificate: CertificateMetrics::new(make),
            subscriptions_behind: make.gauge(
                "conclave_subscriptions_behind",
                "Subscriptions that have lacked an event for longer than a second.",
            ),
            subscription_lag: make.number(
                "conclave_subscription_lag_seconds",
                "How long the subscription that is furthest behind has lacked an event.",
            ),
        }
    }

    /// The names of the cluster's members.
    pub(crate) fn set_members<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let names: BTreeSet<_> = names.collect();
        self.members.set(i64::try_from(names.len()).unwrap_or(i64::MAX));
        names.iter().for_each(|name| self.member_info.with_label_values(&[name]).set(1));
        // A former member must not be missed for ever.
        let families = self.member_info.collect();
        let labels =
            families.iter().flat_map(|family| family.get_metric()).flat_map(|metric| metric.get_label());
        for label in labels.filter(|label| label.name() == MEMBER && !names.contains(label.value())) {
            // An error means that there is nothing to remove.
            drop(self.member_info.remove_label_values(&[label.value()]));
        }
    }

    /// The node took over a shard from a leader that was lost.
    pub(crate) fn failed_over(&self, shard: &str, leaderless_for: Duration, now_ms: i64) {
        self.failover.with_label_values(&[shard]).set(leaderless_for.as_secs_f64());
        self.failover_at.with_label_values(&[shard]).set(seconds(now_ms));
    }

    /// The node's clock.
    pub(crate) fn set_time(&self, now_ms: i64) {
        self.time.set(seconds(now_ms));
    }
}

fn seconds(ms: i64) -> f64 {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    #[test]
    fn members_are_counted_and_named_until_they_leave() {
        let metrics = Metrics::new("n1", "test");
        metrics.node.set_members(["n1", "n2", "n3"].into_iter());
        let text = metrics.render();
        assert!(text.contains("conclave_members 3\n"), "{text}");
        assert!(text.contains("conclave_member_info{member=\"n3\"} 1\n"), "{text}");
        metrics.node.set_members(["n1", "n2"].into_iter());
        let text = metrics.render();
        assert!(text.contains("conclave_members 2\n") && text.contains("{member=\"n2\"} 1\n"), "{text}");
        assert!(!text.contains("member=\"n3\""), "{text}");
    }
}
