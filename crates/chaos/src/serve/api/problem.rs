//! Errors: each refusal as a problem of RFC 9457, with its status code, and which refusals each operation may answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::serve::refusal::{Refusal, RefusalKind};

/// The media type of RFC 9457.
const PROBLEM: &str = "application/problem+json";
/// Seconds after which a caller may try again where too many requests or watchers are there.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// An error, in the form of RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the code says more.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Conflict")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 409)]
    status: u16,
    /// The reason, for programs.
    code: RefusalKind,
    /// The reason, for people.
    #[schema(example = "slow disk 5ms is in force at node1")]
    detail: String,
    /// What the caller can do.
    #[schema(example = "wait for its end, or heal it: DELETE /v1/faults")]
    #[schema(value_type = String)]
    advice: Cow<'static, str>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { kind, why, advice } = self;
        let status = status(kind);
        let problem = Problem {
            kind: "about:blank",
            title: title(status),
            status: status.as_u16(),
            code: kind,
            detail: why,
            advice,
        };
        // A problem has only texts and numbers, which serde_json always writes.
        let text = serde_json::to_string(&problem).unwrap_or_default() + "\n";
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM)], text).into_response();
        match kind {
            RefusalKind::Unauthenticated => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            RefusalKind::TooMany => {
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
        response
    }
}

fn status(kind: RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::Invalid => StatusCode::BAD_REQUEST,
        RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        RefusalKind::Conflict => StatusCode::CONFLICT,
        RefusalKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        RefusalKind::Failed => StatusCode::BAD_GATEWAY,
        RefusalKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// The document's responses for these refusals.
fn responses(kinds: &[RefusalKind]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let response = |kind: &RefusalKind| {
        let status = status(*kind);
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().description(title(status)).content(PROBLEM, problem).build();
        (status.as_str().to_owned(), RefOr::T(response))
    };
    kinds.iter().map(response).collect()
}

/// The refusals of each kind of operation.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $($kind:ident),+;)+) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
                responses(&[$(RefusalKind::$kind),+])
            }
        }
    )+};
}

refusals! {
    /// The operation looks up an object by its name or id, or reads a page of a list.
    LookUp: Invalid, NotFound;
    /// The operation lists the cluster's nodes.
    ListNodes: TooMany, Failed, ShuttingDown;
    /// The operation starts a run.
    Start: Invalid, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge, TooMany, Failed, ShuttingDown;
    /// The operation stops a run.
    Stop: Invalid, Unauthenticated, Forbidden, NotFound, Conflict, TooMany, ShuttingDown;
    /// The operation applies a fault.
    Apply: Invalid, Unauthenticated, Forbidden, Conflict, TooLarge, TooMany, Failed, ShuttingDown;
    /// The operation heals all faults.
    Heal: Unauthenticated, Forbidden, Conflict, TooMany, Failed, ShuttingDown;
    /// The operation subscribes to events.
    Subscribe: TooMany;
}
