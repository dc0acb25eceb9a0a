//! Runs: lists, starts and stops them, and serves their reports.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio_util::io::ReaderStream;

use super::extract::{ApiState, Authorised, InPath, Json};
use super::model::{Run, Runs, StartRun};
use super::problem::{LookUp, Start, Stop};
use crate::limits::{RUNS_LISTED, RUNS_LISTED_MAX};
use crate::serve::refusal::{Refusal, RefusalKind};

/// The runs that are kept, newest first, and the one in progress
#[utoipa::path(
    get,
    path = "/v1/runs",
    tag = "runs",
    params(
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "The most runs of this page, 50 by default"),
        ("after" = Option<String>, Query, description = "The page begins after the run of this id: `next` of the page before")
    ),
    responses((status = 200, description = "A page of runs", body = Runs), LookUp)
)]
pub(super) async fn list_runs(
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Runs>, Refusal> {
    let (limit, after) = parse_page(query.as_deref().unwrap_or_default())?;
    let (runs, more) = state.desk.runs(limit, after)?;
    let next = runs.last().filter(|_| more).map(|run| run.id.clone());
    Ok(Json(Runs { runs: runs.into_iter().map(Run::from).collect(), next }))
}

/// Parses `limit=50&after=ID`. Ids are letters and digits, so nothing is percent-encoded.
fn parse_page(query: &str) -> Result<(usize, Option<&str>), Refusal> {
    let (mut limit, mut after) = (RUNS_LISTED, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", value)) => {
                let number = value.parse().ok().filter(|number| (1..=RUNS_LISTED_MAX).contains(number));
                limit = number.ok_or_else(|| {
                    Refusal::invalid(format!("`limit` must be 1 to {RUNS_LISTED_MAX}, not {value:?}"))
                })?;
            }
            Some(("after", value)) => after = Some(value),
            _ => return Err(Refusal::invalid(format!("the query takes `limit` and `after`, not {pair:?}"))),
        }
    }
    Ok((limit, after))
}

/// Starts a run, which goes on after the answer
#[utoipa::path(
    post,
    path = "/v1/runs",
    tag = "runs",
    security((), ("token" = [])),
    request_body = StartRun,
    responses(
        (status = 201, description = "The run has begun", body = Run, headers(("location" = String, description = "The run's path"))),
        Start
    )
)]
pub(super) async fn start_run(
    State(state): State<ApiState>,
    _: Authorised,
    Json(StartRun { experiment, seed }): Json<StartRun>,
) -> Result<Response, Refusal> {
    let run = Run::from(state.desk.start(&experiment, seed).await?);
    let location = [(header::LOCATION, format!("/v1/runs/{}", run.id))];
    Ok((StatusCode::CREATED, location, Json(run)).into_response())
}

/// One run
#[utoipa::path(
    get,
    path = "/v1/runs/{id}",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id, or `current` for the run in progress")),
    responses((status = 200, description = "The run", body = Run), LookUp)
)]
pub(super) async fn get_run(State(state): State<ApiState>, InPath(id): InPath) -> Result<Json<Run>, Refusal> {
    Ok(Json(state.desk.run(&id)?.into()))
}

/// Stops a run; answers when all of its faults are healed
#[utoipa::path(
    post,
    path = "/v1/runs/{id}/stop",
    tag = "runs",
    security((), ("token" = [])),
    params(("id" = String, Path, description = "The run's id, or `current` for the run in progress")),
    responses((status = 200, description = "The run has ended", body = Run), Stop)
)]
pub(super) async fn stop_run(
    State(state): State<ApiState>,
    _: Authorised,
    InPath(id): InPath,
) -> Result<Json<Run>, Refusal> {
    Ok(Json(state.desk.stop_run(&id).await?.into()))
}

/// The report of a run with a verdict, for people
#[utoipa::path(
    get,
    path = "/v1/runs/{id}/report.html",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id")),
    responses((status = 200, description = "The report", body = String, content_type = "text/html; charset=utf-8"), LookUp)
)]
pub(super) async fn get_report_page(
    State(state): State<ApiState>,
    InPath(id): InPath,
) -> Result<Response, Refusal> {
    file(&state, &id, "report.html", "text/html; charset=utf-8").await
}

/// The report of a run with a verdict, for programs
#[utoipa::path(
    get,
    path = "/v1/runs/{id}/report.json",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id")),
    responses((status = 200, description = "The report", body = Object), LookUp)
)]
pub(super) async fn get_report(
    State(state): State<ApiState>,
    InPath(id): InPath,
) -> Result<Response, Refusal> {
    file(&state, &id, "report.json", "application/json").await
}

/// What the run's clients did and saw, one JSON object a line; conclave-check judges it
#[utoipa::path(
    get,
    path = "/v1/runs/{id}/history.jsonl",
    tag = "runs",
    params(("id" = String, Path, description = "The run's id")),
    responses((status = 200, description = "The history", body = String, content_type = "application/jsonl"), LookUp)
)]
pub(super) async fn get_history(
    State(state): State<ApiState>,
    InPath(id): InPath,
) -> Result<Response, Refusal> {
    file(&state, &id, "history.jsonl", "application/jsonl").await
}

/// A file of a run. The desk knows the run's directory, so no part of the path comes from the request.
async fn file(state: &ApiState, id: &str, name: &str, kind: &'static str) -> Result<Response, Refusal> {
    let path = state.desk.run_dir(id)?.join(name);
    match tokio::fs::File::open(&path).await {
        // Streamed: a history may be larger than memory.
        Ok(file) => {
            Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(ReaderStream::new(file))).into_response())
        }
        Err(_) => {
            let why = format!("run {id} has no {name}");
            let advice = "wait for the run's verdict; a run without one has no report";
            Err(Refusal::new(RefusalKind::NotFound, why, advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_bound() {
        assert_eq!(parse_page("").unwrap(), (RUNS_LISTED, None));
        assert_eq!(parse_page("limit=200&after=ab12").unwrap(), (RUNS_LISTED_MAX, Some("ab12")));
        for wrong in ["limit=0", "limit=201", "limit=x", "limit", "before=1"] {
            assert_eq!(parse_page(wrong).unwrap_err().kind, RefusalKind::Invalid, "{wrong}");
        }
        // The document repeats the bound.
        assert_eq!(RUNS_LISTED_MAX, 200);
    }
}
