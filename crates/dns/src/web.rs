//! The name server's health checks.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use conclave_net::TlsDir;
use conclave_telemetry::web::{self, Check};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::zone::Zone;

/// The state behind the HTTP pages.
#[derive(Clone, Debug)]
pub(crate) struct NameServerPages {
    pub(crate) zone: Arc<ArcSwapOption<Zone>>,
    pub(crate) metrics: Arc<Metrics>,
    /// The certificate; `None` without TLS.
    pub(crate) tls: Option<Arc<TlsDir>>,
    /// Cancelled when serving DNS has ended.
    pub(crate) dns_ended: CancellationToken,
}

impl NameServerPages {
    fn serving(&self) -> Check {
        Check { name: "dns_served", ok: !self.dns_ended.is_cancelled() }
    }

    /// Whether there is a zone. Before the first node registers, every question is answered with SERVFAIL.
    fn view(&self) -> Check {
        Check { name: "view", ok: self.zone.load().is_some() }
    }
}

impl web::Page for NameServerPages {
    fn alive(&self) -> Vec<Check> {
        vec![self.serving()]
    }

    fn started(&self) -> Vec<Check> {
        vec![self.serving()]
    }

    fn ready(&self) -> Vec<Check> {
        vec![self.serving(), self.view()]
    }

    fn metrics(&self) -> String {
        self.metrics.certificate.set("cluster", self.tls.as_ref().and_then(|tls| tls.expiry()));
        self.metrics.render()
    }
}
