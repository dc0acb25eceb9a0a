//! Health and metrics over HTTP.
//!
//! `/livez` says whether the process is worth keeping, `/startupz` whether its start is over, `/readyz` whether it should be
//! asked for anything. Each answers 200 or 503, and says what is wrong, or everything with `?verbose`.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// One thing that a probe looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is shown of it.
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
}

/// What the pages are made from. Asked at each request, so nothing here may wait.
pub trait Page: Clone + Send + Sync + 'static {
    /// What must be well for the process to be worth keeping. Must never depend on others: restarting what is healthy
    /// because others are gone would only make things worse.
    fn alive(&self) -> Vec<Check>;

    /// What must be well for the start to be over.
    fn started(&self) -> Vec<Check>;

    /// What must be well for others to come here.
    fn ready(&self) -> Vec<Check>;

    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// Serves until `stop`.
pub async fn serve<P: Page>(listener: TcpListener, page: P, stop: CancellationToken) {
    let served = axum::serve(listener, router(page)).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "serving health and metrics failed");
    }
}

/// The pages, for whoever serves more beside them.
pub fn router<P: Page>(page: P) -> Router {
    let alive = get(async |State(page): State<P>, query: RawQuery| answer(&page.alive(), &query));
    let started = get(async |State(page): State<P>, query: RawQuery| answer(&page.started(), &query));
    let ready = get(async |State(page): State<P>, query: RawQuery| answer(&page.ready(), &query));
    let metrics = get(async |State(page): State<P>| {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.metrics())
    });
    Router::new()
        .route("/livez", alive)
        .route("/startupz", started)
        .route("/readyz", ready)
        .route("/metrics", metrics)
        .with_state(page)
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

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    #[derive(Clone)]
    struct Patient {
        view: bool,
    }

    impl Page for Patient {
        fn alive(&self) -> Vec<Check> {
            vec![Check { name: "serving", ok: true }]
        }

        fn started(&self) -> Vec<Check> {
            self.alive()
        }

        fn ready(&self) -> Vec<Check> {
            vec![Check { name: "serving", ok: true }, Check { name: "view", ok: self.view }]
        }

        fn metrics(&self) -> String {
            "conclave_one 1\n".to_owned()
        }
    }

    async fn ask(view: bool, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(Patient { view }).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_probe_asks_for_its_own_and_says_what_is_wrong() {
        let (ok, unwell) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ask(false, "/livez").await, (ok, "ok\n".to_owned()));
        assert_eq!(ask(false, "/startupz?a&verbose").await, (ok, "[+] serving\nok\n".to_owned()));
        assert_eq!(ask(false, "/readyz").await, (unwell, "[+] serving\n[-] view\nnot ok\n".to_owned()));
        assert_eq!(ask(true, "/readyz").await, (ok, "ok\n".to_owned()));
        assert_eq!(ask(true, "/metrics").await, (ok, "conclave_one 1\n".to_owned()));
        assert_eq!(ask(true, "/").await.0, StatusCode::NOT_FOUND);
    }
}
