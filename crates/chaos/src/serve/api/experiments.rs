//! Reading: the controller's status, experiments, nodes and the schedule.

use axum::extract::State;

use super::extract::{ApiState, InPath, Json};
use super::model::{Experiment, ExperimentDetails, Experiments, Node, Nodes, Schedule, Status};
use super::problem::{ListNodes, LookUp};
use crate::serve::refusal::Refusal;

/// What the controller does now
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "controller",
    responses((status = 200, description = "The status", body = Status))
)]
pub(super) async fn get_status(State(state): State<ApiState>) -> Json<Status> {
    Json(state.desk.status().into())
}

/// The experiments that can be run
#[utoipa::path(
    get,
    path = "/v1/experiments",
    tag = "experiments",
    responses((status = 200, description = "All experiments", body = Experiments))
)]
pub(super) async fn list_experiments(State(state): State<ApiState>) -> Json<Experiments> {
    Json(Experiments { experiments: state.desk.experiments().map(Experiment::from).collect() })
}

/// One experiment with its steps
#[utoipa::path(
    get,
    path = "/v1/experiments/{name}",
    tag = "experiments",
    params(("name" = String, Path, description = "The experiment's name")),
    responses((status = 200, description = "The experiment", body = ExperimentDetails), LookUp)
)]
pub(super) async fn get_experiment(
    State(state): State<ApiState>,
    InPath(name): InPath,
) -> Result<Json<ExperimentDetails>, Refusal> {
    Ok(Json(state.desk.experiment(&name)?.into()))
}

/// The nodes that faults can be applied to
#[utoipa::path(
    get,
    path = "/v1/targets",
    tag = "faults",
    responses((status = 200, description = "The nodes of now, or during a run those of its beginning", body = Nodes), ListNodes)
)]
pub(super) async fn list_targets(State(state): State<ApiState>) -> Result<Json<Nodes>, Refusal> {
    let targets = state.desk.targets().await?.into_iter().map(Node::from).collect();
    Ok(Json(Nodes { backend: state.desk.backend(), targets }))
}

/// The schedule and its next runs
#[utoipa::path(
    get,
    path = "/v1/schedule",
    tag = "experiments",
    responses((status = 200, description = "The schedule, which the controller was started with", body = Schedule))
)]
pub(super) async fn get_schedule(State(state): State<ApiState>) -> Json<Schedule> {
    Json(state.desk.schedule().into())
}
