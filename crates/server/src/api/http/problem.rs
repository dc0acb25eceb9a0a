//! Failures as problems of RFC 9457.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use conclave_proto::chat;
use conclave_proto::status::{self, Failure};
use serde::Serialize;
use tonic::{Code, Status};

/// The media type of RFC 9457.
const PROBLEM: &str = "application/problem+json";

/// A failed request.
#[derive(Debug)]
pub(super) struct Problem(Box<Failed>);

#[derive(Debug)]
struct Failed {
    status: StatusCode,
    retry: String,
    failure: chat::Failure,
}

/// A problem as JSON. Its keys never change their meaning.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    /// Always `about:blank`: the code says more.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    /// The words of docs/api.md, like the next two.
    code: &'a str,
    certainty: &'static str,
    retry: &'a str,
    /// For people.
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_request_no: Option<u64>,
    /// The refused request used up its number.
    number_used: bool,
}

impl Problem {
    /// A request that is invalid before any service has seen it.
    pub(super) fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Failure::invalid(code, detail).into()
    }

    /// The same problem with another status.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self(Box::new(Failed { status, ..*self.0 }))
    }

    pub(super) fn json(&self) -> Json<'_> {
        let Failed { status, retry, failure } = &*self.0;
        let expected = failure.expected_request_no;
        Json {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: &failure.code,
            certainty: match failure.certainty() {
                chat::Certainty::Refused => "refused",
                chat::Certainty::NotSent => "not_sent",
                chat::Certainty::Unknown | chat::Certainty::Unspecified => "unknown",
            },
            retry,
            detail: &failure.message,
            expected_request_no: (expected != 0).then_some(expected),
            number_used: failure.number_used,
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Status::from(failure).into()
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let retry = status.metadata().get(status::RETRY).and_then(|word| word.to_str().ok());
        let retry = retry.unwrap_or("same_request").to_owned();
        let failure = status::from_status(&status);
        Self(Box::new(Failed { status: http_status(status.code(), &failure.code), retry, failure }))
    }
}

/// The HTTP status of a failure.
fn http_status(code: Code, word: &str) -> StatusCode {
    match (code, word) {
        // Another node takes the request.
        (Code::ResourceExhausted, "node_full" | "node_draining") => StatusCode::SERVICE_UNAVAILABLE,
        // The caller has too much in flight.
        (_, "busy" | "too_many_calls" | "too_many_streams" | status::TOO_MANY_LOG_INS) => {
            StatusCode::TOO_MANY_REQUESTS
        }
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::InvalidArgument | Code::OutOfRange, _) => StatusCode::BAD_REQUEST,
        (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition, _) => StatusCode::CONFLICT,
        (Code::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Code::PermissionDenied, _) => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let text = serde_json::to_string(&self.json()).unwrap_or_default() + "\n";
        let mut response = (self.0.status, [(header::CONTENT_TYPE, PROBLEM)], text).into_response();
        let headers = response.headers_mut();
        match self.0.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                // In whole seconds; `retry` has the milliseconds.
                let seconds = u64::from(self.0.failure.retry_after_ms).div_ceil(1_000).max(1);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

/// The answer to a request for a path that is not there.
pub(super) async fn no_such_path() -> Problem {
    Problem::invalid("path_unknown", "there is no such path; docs/http.md lists all of them")
        .with_status(StatusCode::NOT_FOUND)
}

/// The answer to a method that the path does not have.
pub(super) async fn no_such_method() -> Problem {
    Problem::invalid("method_unknown", "the path does not have this method; docs/http.md lists all of them")
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
}
