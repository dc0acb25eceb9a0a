//! The health and metrics pages of a node.

use std::sync::Arc;

use conclave_telemetry::web::{self, Check};

use crate::cluster::health::Health;
use crate::metrics::Metrics;
use crate::shard::Shards;
use crate::shard::sample::sample;

/// The parts that the pages are rendered from.
#[derive(Clone, Debug)]
pub(crate) struct NodePages {
    pub(crate) health: Arc<Health>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) metrics: Arc<Metrics>,
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
        sample(&self.shards, &self.metrics);
        self.metrics.render()
    }
}
