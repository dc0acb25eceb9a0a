//! Metrics of the placement of clients and of discovery.

use conclave_telemetry::metrics::Maker;
use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec};

/// Reasons to refuse a stream.
const CODES: [&str; 3] = ["node_full", "node_draining", "too_many_streams"];
/// Reasons to ask clients to move.
const REASONS: [&str; 2] = ["rebalance", "drain"];

/// The number of clients, the node's load, and the clients that were refused or asked to move.
#[derive(Debug)]
pub(crate) struct ClientMetrics {
    pub(crate) sessions: IntGauge,
    pub(crate) sessions_max: IntGauge,
    pub(crate) full: IntGauge,
    pub(crate) load: Gauge,
    pub(crate) cpu: Gauge,
    pub(crate) queued: IntGauge,
    pub(crate) send_p99: Gauge,
    pub(crate) streams_refused: IntCounterVec,
    pub(crate) sends_held: IntGauge,
    pub(crate) calls_held: IntGauge,
    pub(crate) answers_held: IntGauge,
    pub(crate) pages_held: IntGauge,
    pub(crate) asked_to_move: IntCounterVec,
    /// Whether the node is registered, by name server.
    pub(crate) registered: IntGaugeVec,
    pub(crate) register_failures: IntCounterVec,
}

impl ClientMetrics {
    pub(super) fn new(make: &Maker) -> Self {
        Self {
            sessions: make.gauge("conclave_sessions", "Sessions that subscribe here."),
            sessions_max: make.gauge("conclave_sessions_max", "The most sessions that may subscribe here."),
            full: make.gauge("conclave_at_capacity", "1 while the node has its maximum number of sessions."),
            load: make.number("conclave_load_ratio", "How busy the node is: 0 idle, 1 at its limit."),
            cpu: make
                .number("conclave_cpu_ratio", "The share of all processors that the process used lately."),
            queued: make
                .gauge("conclave_load_queued_proposals", "Recent number of commands waiting to be proposed."),
            send_p99: make.number(
                "conclave_send_recent_p99_seconds",
                "99th percentile of the latency of recently acked sends.",
            ),
            streams_refused: make.counters_of(
                "conclave_streams_refused_total",
                "Streams that were refused, by code.",
                "code",
                &CODES,
            ),
            sends_held: make.gauge(
                "conclave_sends_held_bytes",
                "Requests of clients that were received and are not decided, bytes.",
            ),
            calls_held: make.gauge(
                "conclave_calls_held_bytes",
                "Room for single requests that are received and not decided, bytes.",
            ),
            answers_held: make.gauge(
                "conclave_answers_held_bytes",
                "Room for answers with a page of events or rooms that wait for their clients, bytes.",
            ),
            pages_held: make.gauge(
                "conclave_pages_held_bytes",
                "Large pages of events that wait to be sent to subscribers, bytes.",
            ),
            asked_to_move: make.counters_of(
                "conclave_clients_asked_to_move_total",
                "Sessions that were asked to continue on other nodes.",
                "reason",
                &REASONS,
            ),
            registered: make.gauges(
                "conclave_name_server_registered",
                "1 while the node is registered with the name server.",
                &["resolver"],
            ),
            register_failures: make.counters(
                "conclave_register_failures_total",
                "Registrations that failed or were interrupted.",
                &["resolver"],
            ),
        }
    }
}
