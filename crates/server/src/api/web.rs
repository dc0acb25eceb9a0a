//! The health and metrics pages of a node.

use std::sync::Arc;

use conclave_telemetry::web::{self, Check};
use tokio::time::Instant;

use crate::api::gateway::Gateway;
use crate::cluster::health::Health;
use crate::peer::tls::PeerTls;
use crate::shard::sample::sample;

/// The parts that the pages are rendered from.
#[derive(Clone, Debug)]
pub(crate) struct NodePages {
    pub(crate) health: Arc<Health>,
    pub(crate) gateway: Gateway,
    /// `None` without TLS.
    pub(crate) tls: Option<Arc<PeerTls>>,
}

impl web::Page for NodePages {
    /// The liveness checks. They never need a quorum.
    fn alive(&self) -> Vec<Check> {
        vec![self.health.storage()]
    }

    fn started(&self) -> Vec<Check> {
        vec![self.health.started()]
    }

    fn ready(&self) -> Vec<Check> {
        self.health.ready().to_vec()
    }

    fn metrics(&self) -> String {
        let Gateway { router, metrics, feed, clock, .. } = &self.gateway;
        sample(&router.shards, metrics);
        let node = &metrics.node;
        let lag = feed.lag(Instant::now());
        node.subscriptions_behind.set(i64::try_from(lag.behind).unwrap_or(i64::MAX));
        node.subscription_lag.set(lag.longest.as_secs_f64());
        if let Some(tls) = &self.tls {
            node.certificate.set("cluster", tls.expiry());
            node.certificate.set("public", tls.public_expiry());
        }
        // Last, so that it is as close as possible to the moment that the reader takes for that of the page.
        node.set_time(clock.now_ms());
        metrics.render()
    }
}
