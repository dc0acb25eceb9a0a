//! What requests carry: a token, a body, parameters.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use conclave_core::SessionId;
use conclave_net::Peer;
use conclave_proto::chat::RoomRef;
use conclave_proto::status::Failure;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::metadata::{Ascii, MetadataValue};

use crate::api::auth::{self, Token};
use crate::api::http::Api;
use crate::api::http::problem::Problem;
use crate::limits::{CALL_DEADLINE, PUBLIC_CALL_BYTES_MAX, WEB_BODY_BYTES_MAX};

const JSON: &str = "application/json";

/// Who makes a request, for the calls that it becomes.
#[derive(Clone, Debug)]
pub(super) struct Call {
    authorization: Option<MetadataValue<Ascii>>,
    peer: Option<Peer>,
    token: Option<Token>,
}

impl Call {
    fn of(headers: &HeaderMap, peer: Option<&Peer>) -> Self {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let authorization = value.and_then(|value| MetadataValue::try_from(value).ok());
        Self { authorization, peer: peer.cloned(), token: Token::read(headers).ok() }
    }

    /// A request of somebody who says the token in another way.
    pub(super) fn with_token(peer: Option<&Peer>, token: &str) -> Self {
        let mut headers = HeaderMap::new();
        if let Ok(value) = format!("Bearer {token}").parse() {
            headers.insert(header::AUTHORIZATION, value);
        }
        Self::of(&headers, peer)
    }

    /// A call with this message.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        request
    }

    /// The session that the token names, as it says.
    pub(super) fn claimed(&self) -> Result<SessionId, Failure> {
        self.token.as_ref().map(Token::claimed).ok_or_else(auth::token_missing)
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers, parts.extensions.get::<Peer>()))
    }
}

/// A JSON body that anybody may send. It is small.
pub(super) struct PublicJson<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for PublicJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Api) -> Result<Self, Problem> {
        body(request, PUBLIC_CALL_BYTES_MAX).await.map(Self)
    }
}

/// A JSON body of a session. The body of somebody without one is not read.
pub(super) struct SessionJson<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for SessionJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let token = Token::read(request.headers())?;
        let gateway = &api.gateway;
        let caller = auth::caller(gateway, token).await?;
        // Held while the body is read; the call takes its own afterwards.
        let _place = gateway.budget.call_places.admit(caller.session)?;
        let _share = gateway.budget.call().await?;
        body(request, WEB_BODY_BYTES_MAX).await.map(Self)
    }
}

/// Reads a body. A page of another origin cannot send this content type without being asked first where it comes from.
async fn body<T: DeserializeOwned>(request: Request, bytes_max: usize) -> Result<T, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == JSON);
    if !kind.is_some_and(is_json) {
        let problem = Problem::invalid("content_type", format!("send the body as {JSON}"));
        return Err(problem.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let too_large = || {
        let problem = Problem::invalid("body_too_large", format!("the body has more than {bytes_max} bytes"));
        problem.with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let read =
        tokio::time::timeout(CALL_DEADLINE, axum::body::to_bytes(request.into_body(), bytes_max)).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        // The connection broke, or the body is too large: who is still there sent too much.
        Ok(Err(_)) => return Err(too_large()),
        Err(_) => {
            let problem = Problem::invalid("timeout", "the body did not come in time");
            return Err(problem.with_status(StatusCode::REQUEST_TIMEOUT));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::invalid("body_invalid", format!("the body is not what this path takes: {error}"))
    })
}

/// The parameters behind the path: numbers and words.
#[derive(Debug)]
pub(super) struct Query(String);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.uri.query().unwrap_or_default().to_owned()))
    }
}

impl Query {
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.0
            .split('&')
            .filter_map(|part| part.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let parsed = self.word(name).map(str::parse).transpose();
        parsed.map_err(|_| Problem::invalid("parameter_invalid", format!("{name} is a number")))
    }

    pub(super) fn limit(&self) -> Result<u32, Problem> {
        Ok(self.number("limit")?.map_or(0, |limit| u32::try_from(limit).unwrap_or(u32::MAX)))
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.word(name) == Some("true")
    }
}

/// A room as paths and bodies name it: by its name, or by `id:` and its id.
pub(super) fn room(text: &str) -> Result<RoomRef, Problem> {
    match text.strip_prefix("id:") {
        None => Ok(RoomRef { name: text.to_owned(), id: 0 }),
        Some(id) => {
            let id = id.parse().ok().filter(|id| *id != 0);
            let id = id.ok_or_else(|| {
                Problem::invalid("room_invalid", "behind id: comes the room's id, a number")
            })?;
            Ok(RoomRef { name: String::new(), id })
        }
    }
}

fn encoded(value: &impl Serialize) -> Result<Bytes, Problem> {
    let text = serde_json::to_vec(value);
    let text =
        text.map_err(|error| Failure::unknown("encoding", format!("the answer is no JSON: {error}")))?;
    Ok(Bytes::from(text))
}

/// A small answer.
pub(super) fn json(value: &impl Serialize) -> Result<Response, Problem> {
    Ok(([(header::CONTENT_TYPE, JSON)], encoded(value)?).into_response())
}

/// An answer that may be large: it has a share of the node's budget until its client has taken it.
pub(super) async fn page(api: &Api, call: &Call, value: &impl Serialize) -> Result<Response, Problem> {
    let text = encoded(value)?;
    let budget = &api.gateway.budget;
    let place = budget.answer_places.admit(call.claimed()?)?;
    let share = budget.answer_of(text.len()).await?;
    let answer = tonic::codegen::http::Response::new(tonic::body::Body::new(Body::from(text)));
    let mut answer = api.gateway.answers.hold(answer, share, place).map(Body::new);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(JSON));
    Ok(answer)
}
