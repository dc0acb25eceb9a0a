//! Health and metrics over HTTP.
//!
//! `/livez` is about restarting the process, `/startupz` about its start, `/readyz` about sending requests to it. Each
//! answers 200 or 503, and lists the checks if one fails or with `?verbose`.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use conclave_net::{Entrance, Gated, InUse, Peer};
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// One check of a probe, and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The name in the answer.
    pub name: &'static str,
    /// Whether the check passed.
    pub ok: bool,
}

/// The content of the pages. Called on each request, so no method may block.
pub trait Page: Clone + Send + Sync + 'static {
    /// Checks of `/livez`: if one fails, the process should be restarted. They must never depend on other processes:
    /// restarting a healthy process because others are gone would make a bad moment worse.
    fn alive(&self) -> Vec<Check>;

    /// Checks of `/startupz`: they pass once the start is complete.
    fn started(&self) -> Vec<Check>;

    /// Checks of `/readyz`: if one fails, no requests should be sent here.
    fn ready(&self) -> Vec<Check>;

    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// Serves the pages until `stop`.
pub async fn serve<P: Page>(entrance: Entrance, page: P, stop: CancellationToken) {
    serve_routes(entrance, router(page), stop).await;
}

/// Serves routes, such as those of [`router`] with others, until `stop`.
pub async fn serve_routes(entrance: Entrance, routes: Router, stop: CancellationToken) {
    let app = routes.layer(from_fn(in_use)).into_make_service_with_connect_info::<From>();
    let served = axum::serve(Doors(entrance), app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "HTTP server failed");
    }
}

/// The port of the pages, as axum listens.
struct Doors(Entrance);

impl Listener for Doors {
    type Io = Gated;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Gated, SocketAddr) {
        match self.0.accept().await {
            Some(gated) => {
                let from = gated.peer().address;
                (gated, from)
            }
            // Listening has ended, so no further connection comes.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The connection of a request.
#[derive(Clone, Debug)]
struct From(Peer);

impl Connected<IncomingStream<'_, Doors>> for From {
    fn connect_info(stream: IncomingStream<'_, Doors>) -> Self {
        Self(stream.io().peer())
    }
}

/// Tells the gate that the connection is in use until the answer has ended, and the routes who is at its other end.
async fn in_use(ConnectInfo(From(peer)): ConnectInfo<From>, mut request: Request, next: Next) -> Response {
    let in_use = peer.usage.begin();
    request.extensions_mut().insert(peer);
    next.run(request).await.map(|inner| Body::new(Answer { inner, _in_use: in_use }))
}

/// The body of an answer, which keeps the connection in use.
struct Answer {
    inner: Body,
    _in_use: InUse,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The routes of the pages, to be merged with others.
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

/// Answers 200 or 503, with one line for each check if one failed or with `?verbose`.
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
    struct FakePage {
        view: bool,
    }

    impl Page for FakePage {
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

    async fn get_page(view: bool, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(FakePage { view }).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_probe_runs_its_own_checks_and_lists_failures() {
        let (ok, unavailable) = (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get_page(false, "/livez").await, (ok, "ok\n".to_owned()));
        assert_eq!(get_page(false, "/startupz?a&verbose").await, (ok, "[+] serving\nok\n".to_owned()));
        assert_eq!(
            get_page(false, "/readyz").await,
            (unavailable, "[+] serving\n[-] view\nnot ok\n".to_owned())
        );
        assert_eq!(get_page(true, "/readyz").await, (ok, "ok\n".to_owned()));
        assert_eq!(get_page(true, "/metrics").await, (ok, "conclave_one 1\n".to_owned()));
        assert_eq!(get_page(true, "/").await.0, StatusCode::NOT_FOUND);
    }
}
