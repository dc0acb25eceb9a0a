//! Single faults, outside of any run.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::extract::{ApiState, Authorised, Json};
use super::model::{ApplyFault, Fault, Faults, Healed};
use super::problem::{Apply, Heal};
use crate::serve::refusal::Refusal;

/// The faults that are in force, or may be
#[utoipa::path(
    get,
    path = "/v1/faults",
    tag = "faults",
    responses((status = 200, description = "All faults, those of a run among them", body = Faults))
)]
pub(super) async fn list_faults(State(state): State<ApiState>) -> Json<Faults> {
    Json(Faults { faults: state.desk.faults().into_iter().map(Fault::from).collect() })
}

/// Applies one fault, which is healed after its time
#[utoipa::path(
    post,
    path = "/v1/faults",
    tag = "faults",
    security((), ("token" = [])),
    request_body = ApplyFault,
    responses((status = 201, description = "The fault is in force", body = Fault), Apply)
)]
pub(super) async fn apply_fault(
    State(state): State<ApiState>,
    _: Authorised,
    Json(ApplyFault { fault, nodes, lasts, with }): Json<ApplyFault>,
) -> Result<Response, Refusal> {
    let applied = state.desk.apply(&fault, &nodes, lasts.0, with).await?;
    Ok((StatusCode::CREATED, Json(Fault::from(applied))).into_response())
}

/// Heals all faults now
#[utoipa::path(
    delete,
    path = "/v1/faults",
    tag = "faults",
    security((), ("token" = [])),
    responses((status = 200, description = "No fault is in force", body = Healed), Heal)
)]
pub(super) async fn heal_faults(
    State(state): State<ApiState>,
    _: Authorised,
) -> Result<Json<Healed>, Refusal> {
    Ok(Json(Healed { healed: state.desk.heal().await? }))
}
