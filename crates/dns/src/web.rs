//! Health and metrics over HTTP.
//!
//! `/livez` says whether the process is worth keeping, `/startupz` whether it serves, `/readyz` whether it has anything to
//! say: before the first node is heard of, every question is answered with SERVFAIL.

use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
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

/// One thing that a probe looks at.
struct Check {
    name: &'static str,
    ok: bool,
}

impl Page {
    fn serving(&self) -> Check {
        Check { name: "dns_served", ok: !self.dns_ended.is_cancelled() }
    }

    fn view(&self) -> Check {
        Check { name: "view", ok: self.zone.load().is_some() }
    }
}

/// Serves until the resolver stops.
pub(crate) async fn serve(listener: TcpListener, page: Page, stop: CancellationToken) {
    let alive = get(async |State(page): State<Page>, query: RawQuery| answer(&[page.serving()], &query));
    let app = Router::new()
        .route("/livez", alive.clone())
        .route("/startupz", alive)
        .route(
            "/readyz",
            get(async |State(page): State<Page>, query: RawQuery| {
                answer(&[page.serving(), page.view()], &query)
            }),
        )
        .route("/metrics", get(metrics))
        .with_state(page);
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "serving health and metrics failed");
    }
}

async fn metrics(State(page): State<Page>) -> Response {
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
