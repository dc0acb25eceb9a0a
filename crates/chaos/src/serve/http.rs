//! Metrics, health and the API at one address.

use std::sync::Arc;

use conclave_telemetry::door::Door;
use conclave_telemetry::web::{Check, Page};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::serve::api;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;

/// The state behind the pages.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The controller's desk and what guards it; `None` for a single run, which only serves metrics.
    pub api: Option<(Desk, Arc<Guard>)>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the controller has ended.
    pub ended: CancellationToken,
}

impl Page for Pages {
    fn alive(&self) -> Vec<Check> {
        vec![Check { name: "working", ok: !self.ended.is_cancelled() }]
    }

    fn started(&self) -> Vec<Check> {
        self.alive()
    }

    fn ready(&self) -> Vec<Check> {
        self.alive()
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }
}

/// Serves metrics and health, and the API if there is one, until the controller has ended.
pub async fn serve(door: Door, pages: Pages) {
    let stop = pages.ended.clone();
    let api = pages.api.clone().map(|(desk, guard)| api::router(desk, guard, stop.clone()));
    let app = conclave_telemetry::web::router(pages).merge(api.unwrap_or_default());
    door.serve(app, stop).await;
}
