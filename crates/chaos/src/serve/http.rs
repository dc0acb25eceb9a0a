//! The desk over HTTP in JSON, beside metrics and health.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use conclave_telemetry::web::{Check, Page};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::limits::BODY_BYTES_MAX;
use crate::metrics::Metrics;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;
use crate::serve::refusal::{Refusal, RefusalKind};
use crate::time::{self, Span};

/// How long a fault is in force by default.
const LASTS: Duration = Duration::from_secs(5);

/// The state behind the pages.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The controller's desk; `None` for a single run, which only serves metrics.
    pub desk: Option<Desk>,
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

/// Serves metrics and health, and the API if there is a desk, until `stop`.
pub async fn serve(listener: TcpListener, pages: Pages, guard: Arc<Guard>, stop: CancellationToken) {
    let api = pages.desk.clone().map(|desk| api(ApiState { desk, guard }));
    let app = conclave_telemetry::web::router(pages).merge(api.unwrap_or_default());
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "HTTP server failed");
    }
}

#[derive(Clone)]
struct ApiState {
    desk: Desk,
    guard: Arc<Guard>,
}

type ApiResult = Result<Response, Refusal>;

fn api(state: ApiState) -> Router {
    Router::new()
        .route("/experiments", get(experiments))
        .route("/targets", get(targets))
        .route("/faults", get(faults).post(apply))
        .route("/runs", get(runs).post(start))
        .route("/runs/current", delete(stop_run).get(current))
        .route("/runs/{id}", get(run))
        .route("/runs/{id}/{file}", get(file))
        .route("/heal", post(heal))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

async fn experiments(State(state): State<ApiState>) -> Response {
    let experiments = state.desk.experiments().map(|experiment| {
        json!({
            "name": experiment.name,
            "proves": experiment.proves,
            "lasts": time::show(experiment.workload.duration),
        })
    });
    answer(&experiments.collect::<Value>())
}

async fn targets(State(state): State<ApiState>) -> ApiResult {
    let targets = state.desk.targets().await?.into_iter();
    let targets: Value = targets
        .map(|target| json!({ "name": target.name, "kind": format!("{:?}", target.kind).to_lowercase(), "client": target.client }))
        .collect();
    Ok(answer(&json!({ "backend": state.desk.backend(), "targets": targets })))
}

async fn faults(State(state): State<ApiState>) -> Response {
    answer(&state.desk.faults())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Apply {
    fault: String,
    #[serde(default = "one")]
    nodes: String,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    #[serde(default)]
    with: BTreeMap<String, String>,
}

fn one() -> String {
    "one".to_owned()
}

async fn apply(State(state): State<ApiState>, headers: HeaderMap, body: Bytes) -> ApiResult {
    state.admit(&headers)?;
    let Apply { fault, nodes, lasts, with } = read(&body)?;
    let lasts = lasts.map_or(LASTS, |lasts| lasts.0);
    Ok(answer(&state.desk.apply(&fault, &nodes, lasts, with).await?))
}

async fn runs(State(state): State<ApiState>) -> Response {
    let (runs, halted) = state.desk.runs();
    answer(&json!({ "runs": runs, "schedule_halted": halted }))
}

async fn current(State(state): State<ApiState>) -> ApiResult {
    Ok(answer(&state.desk.run("current")?))
}

async fn run(State(state): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    Ok(answer(&state.desk.run(&id)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    experiment: String,
    seed: Option<u64>,
}

async fn start(State(state): State<ApiState>, headers: HeaderMap, body: Bytes) -> ApiResult {
    state.admit(&headers)?;
    let Start { experiment, seed } = read(&body)?;
    let record = state.desk.start(&experiment, seed).await?;
    Ok((StatusCode::CREATED, answer(&record)).into_response())
}

async fn stop_run(State(state): State<ApiState>, headers: HeaderMap) -> ApiResult {
    state.admit(&headers)?;
    Ok(answer(&state.desk.stop_run().await?))
}

async fn heal(State(state): State<ApiState>, headers: HeaderMap) -> ApiResult {
    state.admit(&headers)?;
    Ok(answer(&json!({ "healed": state.desk.heal().await? })))
}

/// A file of a run. The names are fixed, so no part of the path comes from the request.
async fn file(State(state): State<ApiState>, Path((id, name)): Path<(String, String)>) -> ApiResult {
    let (name, kind) = match name.as_str() {
        "report.html" => ("report.html", "text/html; charset=utf-8"),
        "report.json" => ("report.json", "application/json"),
        "history.jsonl" => ("history.jsonl", "application/jsonl"),
        other => {
            let why = format!("a run has report.html, report.json and history.jsonl, but no {other:?}");
            return Err(Refusal { kind: RefusalKind::NotFound, why });
        }
    };
    let path = state.desk.run_dir(&id)?.join(name);
    match tokio::fs::File::open(&path).await {
        // Streamed: a history may be larger than memory.
        Ok(file) => {
            Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(ReaderStream::new(file))).into_response())
        }
        Err(_) => {
            let why = format!("run {id} has no {name}: a report exists only once the run has a verdict");
            Err(Refusal { kind: RefusalKind::NotFound, why })
        }
    }
}

impl ApiState {
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        self.guard.authorise(text(header::AUTHORIZATION), text(header::ORIGIN))
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal { kind: RefusalKind::Invalid, why: format!("the body is invalid: {error}") })
}

fn answer<T: Serialize>(value: &T) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Busy => StatusCode::CONFLICT,
            RefusalKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            RefusalKind::Forbidden => StatusCode::FORBIDDEN,
            RefusalKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Failed => StatusCode::BAD_GATEWAY,
        };
        (status, answer(&json!({ "error": self.why }))).into_response()
    }
}
