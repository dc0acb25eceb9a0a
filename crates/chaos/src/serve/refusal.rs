//! Why a request is refused, and what the caller can do.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of reason.
    pub kind: RefusalKind,
    /// The reason.
    pub why: String,
    /// What the caller can do.
    pub advice: Cow<'static, str>,
}

/// The kinds of reasons; the API has a status code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request is invalid.
    Invalid,
    /// The token is missing or wrong.
    Unauthenticated,
    /// The caller has no permission.
    Forbidden,
    /// The named object does not exist.
    NotFound,
    /// The object does not have this operation.
    MethodNotAllowed,
    /// The controller's state does not allow it: a run or a fault has to end first, or has ended already.
    Conflict,
    /// The request's body is too large.
    TooLarge,
    /// Too many requests or watchers.
    TooMany,
    /// The operation failed at the cluster or on the controller's disk.
    Failed,
    /// The controller is shutting down.
    ShuttingDown,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.advice)
    }
}

impl Refusal {
    pub(super) fn new(
        kind: RefusalKind,
        why: impl Into<String>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { kind, why: why.into(), advice: advice.into() }
    }

    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self::new(RefusalKind::Invalid, why, "correct the request; /openapi.json describes every request")
    }

    pub(super) fn failed(why: &impl fmt::Display) -> Self {
        let advice = "mend what failed and try again; the controller's log has more, and GET /v1/faults what is still in force";
        Self::new(RefusalKind::Failed, why.to_string(), advice)
    }

    pub(super) fn not_in_progress(id: &str) -> Self {
        let why = format!("run {id} is not in progress");
        Self::new(RefusalKind::Conflict, why, "GET /v1/runs/current is the run that can be stopped")
    }

    pub(super) fn shutting_down() -> Self {
        let advice = "send the request to the next controller; this one heals every fault before it ends";
        Self::new(RefusalKind::ShuttingDown, "the controller is shutting down", advice)
    }
}
