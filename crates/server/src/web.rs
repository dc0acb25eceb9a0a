//! Health and metrics over HTTP.
//!
//! `/livez` says whether the process is worth keeping and never asks for a quorum: restarting a healthy
//! node because others are gone would only make things worse. `/readyz` says whether clients should come
//! here. `/startupz` says whether the start is over.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Check, Health};
use crate::metrics::Metrics;
use crate::shard::{Shards, leadership};

/// What the pages are made from.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) health: Arc<Health>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Serves until the node stops.
pub(crate) async fn serve(listener: TcpListener, page: Page, stop: CancellationToken) {
    let app = Router::new()
        .route(
            "/livez",
            get(async |State(page): State<Page>, query: RawQuery| answer(&[page.health.storage()], &query)),
        )
        .route(
            "/startupz",
            get(async |State(page): State<Page>, query: RawQuery| answer(&[page.health.started()], &query)),
        )
        .route(
            "/readyz",
            get(async |State(page): State<Page>, query: RawQuery| answer(&page.health.ready(), &query)),
        )
        .route("/metrics", get(metrics))
        .with_state(page);
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "serving health and metrics failed");
    }
}

async fn metrics(State(page): State<Page>) -> Response {
    leadership::sample(&page.shards, &page.metrics);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.metrics.render())
        .into_response()
}

/// 200 or 503, and one line for each check if asked with `?verbose` or if something is wrong.
fn answer(checks: &[Check], RawQuery(query): &RawQuery) -> Response {
    let ok = checks.iter().all(|check| check.ok);
    let verbose = query.as_deref().is_some_and(|query| query.split('&').any(|part| part == "verbose"));
    let mut body = String::new();
    if verbose || !ok {
        for check in checks {
            // Writing to a String cannot fail.
            let _ = writeln!(body, "[{}] {}", if check.ok { '+' } else { '-' }, check.name);
        }
    }
    body.push_str(if ok { "ok\n" } else { "not ok\n" });
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body).into_response()
}
