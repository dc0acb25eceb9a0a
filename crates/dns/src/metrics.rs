//! Every metric of a name server. Labels are few and bounded: never a queried name, never a client's address.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conclave_proto::dns::dns_service_server;
use conclave_proto::fault::fault_service_server;
use conclave_telemetry::calls::CallMetrics;
use conclave_telemetry::certificate::CertificateMetrics;
use conclave_telemetry::connections::ConnectionMetrics;
use conclave_telemetry::metrics::{Exposition, Maker};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::time::Instant;

use crate::node_table::{NodeState, NodeTable};

/// Buckets in seconds: answers from memory take microseconds, forwarded ones a round trip to another name server.
const LATENCY: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The metrics of one name server.
#[derive(Debug)]
pub struct Metrics {
    exposition: Exposition,
    queries: IntCounterVec,
    query_duration: Histogram,
    truncated: IntCounter,
    zone_serial: IntGauge,
    zone_age: Gauge,
    zone_swaps: IntCounter,
    view_age: Gauge,
    stale: IntGauge,
    stale_seconds: Gauge,
    nodes: IntGaugeVec,
    pub(crate) register_streams: IntGauge,
    pub(crate) registrations: IntCounterVec,
    pub(crate) records_watched: IntGauge,
    pub(crate) records_heard: IntCounterVec,
    pub(crate) forwards: IntCounterVec,
    pub(crate) exports: IntCounterVec,
    pub(crate) export_serial: IntGauge,
    pub(crate) connections: ConnectionMetrics,
    pub(crate) calls: CallMetrics,
    pub(crate) certificate: CertificateMetrics,
    timestamps: Mutex<Timestamps>,
}

/// Moments whose age is computed at each scrape.
#[derive(Clone, Copy, Debug, Default)]
struct Timestamps {
    record_received: Option<Instant>,
    zone_published: Option<Instant>,
    stale_since: Option<Instant>,
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new(zone: &str) -> Self {
        let make = Maker::new();
        make.gauges("conclave_dns_build_info", "Version and zone; always 1.", &["version", "zone"])
            .with_label_values(&[conclave_core::version::VERSION, zone])
            .set(1);
        let outcome = &["outcome"];
        Self {
            queries: make.counters(
                "conclave_dns_queries_total",
                "Questions answered, by type, response code and protocol.",
                &["type", "rcode", "proto"],
            ),
            query_duration: make.histogram(
                "conclave_dns_query_duration_seconds",
                "From a question's arrival to its answer.",
                LATENCY,
            ),
            truncated: make.counter("conclave_dns_truncated_total", "Truncated answers."),
            zone_serial: make.gauge("conclave_dns_zone_serial", "The zone's serial."),
            zone_age: make.number("conclave_dns_zone_age_seconds", "Seconds since the zone last changed."),
            zone_swaps: make.counter("conclave_dns_zones_published_total", "Zones published."),
            view_age: make.number(
                "conclave_dns_last_registration_age_seconds",
                "Seconds since any node last registered or renewed.",
            ),
            stale: make.gauge("conclave_dns_stale", "1 while cut off and serving the last known records."),
            stale_seconds: make
                .number("conclave_dns_stale_seconds", "Seconds since the zone became stale; 0 if it is not."),
            nodes: make.gauges("conclave_dns_nodes", "Known nodes, by state of their lease.", &["state"]),
            register_streams: make.gauge("conclave_dns_register_streams", "Open registration streams."),
            registrations: make.counters(
                "conclave_dns_registrations_total",
                "Registration messages.",
                outcome,
            ),
            records_watched: make
                .gauge("conclave_dns_records_watched", "Nodes whose record streams are watched."),
            records_heard: make.counters(
                "conclave_dns_record_lists_total",
                "Lists of records from nodes.",
                outcome,
            ),
            forwards: make.counters(
                "conclave_dns_forwards_total",
                "Questions outside the zone, forwarded.",
                outcome,
            ),
            exports: make.counters(
                "conclave_dns_exports_total",
                "Dynamic updates of the site's own DNS.",
                outcome,
            ),
            export_serial: make.gauge("conclave_dns_export_serial", "Serial of the zone last exported."),
            connections: ConnectionMetrics::new(&make),
            calls: CallMetrics::new(
                &make,
                &[dns_service_server::SERVICE_NAME, fault_service_server::SERVICE_NAME],
            ),
            certificate: CertificateMetrics::new(&make),
            timestamps: Mutex::default(),
            exposition: make.finish(),
        }
    }

    /// Counts an answered question. `proto` is `udp` or `tcp`.
    pub(crate) fn answered(
        &self,
        asked: RecordType,
        code: ResponseCode,
        proto: &'static str,
        took: Duration,
    ) {
        self.queries.with_label_values(&[type_label(asked), code_label(code), proto]).inc();
        self.query_duration.observe(took.as_secs_f64());
    }

    /// Questions answered so far, over all protocols and with any code.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.query_duration.get_sample_count()
    }

    /// Accepted registration messages so far.
    #[must_use]
    pub fn registrations(&self) -> u64 {
        ["accepted", "lapsed"]
            .map(|outcome| self.registrations.with_label_values(&[outcome]).get())
            .iter()
            .sum()
    }

    /// Counts a truncated answer.
    pub(crate) fn truncated(&self) {
        self.truncated.inc();
    }

    /// A node registered or renewed its lease.
    pub(crate) fn record_received(&self, now: Instant) {
        self.with_timestamps(|timestamps| timestamps.record_received = Some(now));
    }

    /// A new zone was published.
    pub(crate) fn zone_published(&self, table: &NodeTable, now: Instant) {
        self.zone_swaps.inc();
        self.zone_serial.set(table.serial().into());
        let stale = table.stale();
        self.stale.set(stale.into());
        for state in NodeState::NAMES {
            let count = table.nodes().filter(|node| node.state.name() == state).count();
            self.nodes.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.with_timestamps(|timestamps| {
            timestamps.zone_published = Some(now);
            timestamps.stale_since = stale.then_some(timestamps.stale_since.unwrap_or(now));
        });
    }

    fn with_timestamps<T>(&self, with: impl FnOnce(&mut Timestamps) -> T) -> T {
        with(&mut self.timestamps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let timestamps = self.with_timestamps(|timestamps| *timestamps);
        for (gauge, at) in [
            (&self.view_age, timestamps.record_received),
            (&self.zone_age, timestamps.zone_published),
            (&self.stale_seconds, timestamps.stale_since),
        ] {
            gauge.set(at.map_or(0.0, |at| at.elapsed().as_secs_f64()));
        }
        self.exposition.render()
    }
}

/// A label for each type that matters here: clients may ask for any of 65,536.
fn type_label(asked: RecordType) -> &'static str {
    match asked {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::ANY => "ANY",
        RecordType::AXFR => "AXFR",
        RecordType::CNAME => "CNAME",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

fn code_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotAuth => "NOTAUTH",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_types_and_codes_share_one_label() {
        let metrics = Metrics::new("conclave.internal");
        let took = Duration::from_micros(20);
        metrics.answered(RecordType::SRV, ResponseCode::NoError, "udp", took);
        for unknown in 0..1_000 {
            metrics.answered(RecordType::Unknown(unknown), ResponseCode::Unknown(unknown), "tcp", took);
        }
        let text = metrics.render();
        assert!(
            text.contains("conclave_dns_queries_total{proto=\"udp\",rcode=\"NOERROR\",type=\"SRV\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("conclave_dns_queries_total{proto=\"tcp\",rcode=\"other\",type=\"other\"} 1000"),
            "{text}"
        );
        assert!(text.contains("conclave_dns_build_info"));
        assert!(text.contains("conclave_dns_query_duration_seconds_count 1001"), "{text}");
    }
}
