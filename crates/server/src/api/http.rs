//! The HTTP API, and the web client that uses it.
//!
//! This module translates: JSON to the messages of `ChatService` and `PeopleService`, and back. It calls those services within
//! the process, through the same checks as a call from outside ([`Front`], [`PeopleFront`]). So who may call, what is valid, how
//! much of it, and what is counted is decided in one place.
//!
//! * [`calls`]: the handlers.
//! * [`stream`]: `JoinChat` over a WebSocket.
//! * [`requests`]: JSON of requests to their messages.
//! * [`event`]: events and folds as JSON.
//! * [`views`]: rooms, members, sessions and the cluster as JSON.
//! * [`extract`]: the token, the body and the parameters of a request.
//! * [`problem`]: failures as problems of RFC 9457.
//! * [`origin`]: which web pages may call.
//! * [`page`]: the files of the web client.

mod calls;
mod event;
mod extract;
mod origin;
mod page;
mod problem;
mod requests;
mod stream;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use conclave_proto::chat::chat_service_client::ChatServiceClient;
use conclave_proto::people::people_service_client::PeopleServiceClient;
use conclave_telemetry::calls::Counted;
use conclave_telemetry::operators::Operators;
use tokio_util::task::TaskTracker;
use tower::Layer as _;

use crate::api::front::Front;
use crate::api::gateway::Gateway;
use crate::api::http::page::Page;
use crate::api::people::front::PeopleFront;
use crate::limits::WEB_BODY_BYTES_MAX;

/// The state behind the routes.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    gateway: Gateway,
    chat: ChatServiceClient<Counted<Front>>,
    people: PeopleServiceClient<Counted<PeopleFront>>,
    page: Arc<Page>,
    /// The node's tracker: WebSockets belong to it.
    tasks: TaskTracker,
}

/// The routes of the HTTP API and of the web client.
pub(crate) fn routes(gateway: Gateway, operators: Operators, tasks: TaskTracker) -> Router {
    let counted = gateway.metrics.calls.clone();
    let state = Api {
        chat: ChatServiceClient::new(counted.layer(Front::new(gateway.clone()))),
        people: PeopleServiceClient::new(counted.layer(PeopleFront::new(gateway.clone(), operators))),
        page: Arc::new(Page::new()),
        gateway,
        tasks,
    };
    let api = Router::new()
        .route("/sessions", post(calls::open_session))
        .route("/sessions/current", delete(calls::close_session))
        .route("/me", get(calls::me))
        .route("/rooms", get(calls::rooms).post(calls::create_room))
        .route("/directs", post(calls::open_direct))
        .route("/rooms/{room}/events", get(calls::events))
        .route("/rooms/{room}/members", get(calls::members))
        .route("/rooms/{room}/requests", post(calls::request))
        .route("/cluster", get(calls::cluster))
        .route("/stream", get(stream::open))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(WEB_BODY_BYTES_MAX))
        .layer(from_fn_with_state(state.clone(), origin::guard));
    Router::new()
        .nest("/api/v1", api)
        .route("/", get(page::index))
        .route("/app/{version}/{file}", get(page::file))
        .fallback(problem::no_such_path)
        .with_state(state)
}
