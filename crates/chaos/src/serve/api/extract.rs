//! What requests carry: permission, a part of the path, a body. Whatever is wrong with it is a [`Refusal`].

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::limits::BODY_BYTES_MAX;
use crate::serve::desk::Desk;
use crate::serve::guard::Guard;
use crate::serve::refusal::{Refusal, RefusalKind};

/// The state behind the operations.
#[derive(Clone)]
pub(super) struct ApiState {
    pub(super) desk: Desk,
    pub(super) guard: Arc<Guard>,
    /// Cancelled when the controller has ended.
    pub(super) ended: CancellationToken,
    /// The OpenAPI document.
    pub(super) document: Bytes,
}

/// The caller is authorised to change something. Extracted before the body, so that the body of a refused request is not read.
pub(super) struct Authorised;

impl FromRequestParts<ApiState> for Authorised {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        let text = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        state.guard.authorise(text(header::AUTHORIZATION), text(header::ORIGIN)).map(|()| Self)
    }
}

/// The parameter in the path.
pub(super) struct InPath(pub(super) String);

impl FromRequestParts<ApiState> for InPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        let Path(part) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Refusal::invalid(format!("the path is invalid: {}", error.body_text())))?;
        Ok(Self(part))
    }
}

/// A JSON value as body: of a request, whatever its content type, or of an answer.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Refusal> {
        let body = Bytes::from_request(request, state).await.map_err(|error| {
            if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let why = format!("the body has more than {BODY_BYTES_MAX} bytes");
                Refusal::new(RefusalKind::TooLarge, why, "send a smaller body")
            } else {
                Refusal::invalid(format!("the body cannot be read: {}", error.body_text()))
            }
        })?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| Refusal::invalid(format!("the body is invalid: {error}")))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_string(&self.0) {
            Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
            Err(error) => Refusal::failed(&error).into_response(),
        }
    }
}
