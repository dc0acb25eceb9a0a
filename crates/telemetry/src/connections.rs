//! Metrics of the connections at each port of a process.

use std::sync::Arc;

use conclave_net::{Closed, GateObserver, Refused};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::Maker;

/// The connections of all ports.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    open: IntGaugeVec,
    refused: IntCounterVec,
    closed: IntCounterVec,
    bytes: IntCounterVec,
}

impl ConnectionMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(make: &Maker) -> Self {
        Self {
            open: make.gauges("conclave_connections", "Open connections.", &["port"]),
            refused: make.counters(
                "conclave_connections_refused_total",
                "Connections that were closed as soon as they were made, by reason.",
                &["port", "why"],
            ),
            closed: make.counters(
                "conclave_connections_closed_total",
                "Connections that were closed because they did nothing, by reason.",
                &["port", "why"],
            ),
            bytes: make.counters(
                "conclave_connection_bytes_total",
                "Bytes received and sent at a port, without those of TLS itself.",
                &["port", "direction"],
            ),
        }
    }

    /// Counts at one port. Its series begin at 0.
    #[must_use]
    pub fn port(&self, port: &str) -> Arc<dyn GateObserver> {
        let refused = |why| self.refused.with_label_values(&[port, why]);
        let closed = |why| self.closed.with_label_values(&[port, why]);
        Arc::new(Port {
            open: self.open.with_label_values(&[port]),
            full: refused("full"),
            address: refused("address"),
            descriptors: refused("descriptors"),
            displaced: closed("displaced"),
            silent: closed("silent"),
            idle: closed("idle"),
            received: self.bytes.with_label_values(&[port, "received"]),
            sent: self.bytes.with_label_values(&[port, "sent"]),
        })
    }
}

#[derive(Debug)]
struct Port {
    open: IntGauge,
    full: IntCounter,
    address: IntCounter,
    descriptors: IntCounter,
    displaced: IntCounter,
    silent: IntCounter,
    idle: IntCounter,
    received: IntCounter,
    sent: IntCounter,
}

impl GateObserver for Port {
    fn open(&self, connections: usize) {
        self.open.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    fn refused(&self, why: Refused) {
        match why {
            Refused::Full => self.full.inc(),
            Refused::Address => self.address.inc(),
            Refused::Descriptors => self.descriptors.inc(),
        }
    }

    fn closed(&self, why: Closed) {
        match why {
            Closed::Displaced => self.displaced.inc(),
            Closed::Silent => self.silent.inc(),
            Closed::Idle => self.idle.inc(),
        }
    }

    fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }
}
