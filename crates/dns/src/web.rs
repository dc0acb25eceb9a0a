//! What the resolver says of its health.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use conclave_telemetry::web::{self, Check};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::zone::Zone;

/// What the pages are made from.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) zone: Arc<ArcSwapOption<Zone>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled when DNS is no longer served.
    pub(crate) dns_ended: CancellationToken,
}

impl Page {
    fn serving(&self) -> Check {
        Check { name: "dns_served", ok: !self.dns_ended.is_cancelled() }
    }

    /// Whether it has anything to say: before the first node is heard of, every question is answered with SERVFAIL.
    fn view(&self) -> Check {
        Check { name: "view", ok: self.zone.load().is_some() }
    }
}

impl web::Page for Page {
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
        self.metrics.render()
    }
}
