//! The handlers: each is one call.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use conclave_core::NodeId;
use conclave_proto::chat::history_request::Where;
use conclave_proto::chat::{self, Consistency};
use conclave_proto::people;
use conclave_proto::status::Failure;
use serde::Serialize;

use crate::api::http::Api;
use crate::api::http::extract::{Call, PublicJson, Query, SessionJson, json, page, room};
use crate::api::http::problem::Problem;
use crate::api::http::{event, requests, views};

type Answer = Result<Response, Problem>;

fn consistency(query: &Query) -> Result<i32, Problem> {
    match query.word("consistency") {
        None | Some("local") => Ok(Consistency::Local.into()),
        Some("linearizable") => Ok(Consistency::Linearizable.into()),
        Some(_) => Err(Problem::invalid("parameter_invalid", "consistency is local or linearizable")),
    }
}

pub(super) async fn open_session(
    State(mut api): State<Api>,
    call: Call,
    PublicJson(body): PublicJson<requests::OpenSession>,
) -> Answer {
    let requests::OpenSession { user, password, client, label } = body;
    let session = match password {
        None => {
            let request = chat::OpenSessionRequest { user, client, reads_only: false };
            api.chat.open_session(call.request(request)).await?.into_inner()
        }
        Some(password) => {
            let request = people::LogInRequest { name: user, password, client, label, expires_in_ms: 0 };
            let opened = api.people.log_in(call.request(request)).await?.into_inner();
            opened.session.ok_or_else(|| Failure::unknown("undecided", "the answer has no session"))?
        }
    };
    json(&views::session(&session))
}

pub(super) async fn close_session(State(mut api): State<Api>, call: Call) -> Result<StatusCode, Problem> {
    // Without a token it would be a call of an operator, who has no session.
    call.claimed()?;
    api.people.log_out(call.request(people::LogOutRequest {})).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn me(State(mut api): State<Api>, call: Call) -> Answer {
    call.claimed()?;
    let answer = api.people.who_am_i(call.request(people::WhoAmIRequest {})).await?.into_inner();
    let level = api.gateway.router.shards.topology.feature_level();
    json(&views::me(&answer, format!("{:032x}", api.gateway.node.cluster), level))
}

pub(super) async fn rooms(State(mut api): State<Api>, call: Call, query: Query) -> Answer {
    let request = chat::ListRoomsRequest {
        after_room_id: query.number("after")?.unwrap_or(0),
        limit: query.limit()?,
        consistency: consistency(&query)?,
        ..chat::ListRoomsRequest::default()
    };
    let answer = api.chat.list_rooms(call.request(request)).await?.into_inner();
    page(&api, &call, &views::rooms(&answer)).await
}

pub(super) async fn create_room(
    State(mut api): State<Api>,
    call: Call,
    SessionJson(body): SessionJson<requests::CreateRoom>,
) -> Answer {
    let answer = api.chat.create_room(call.request(body.into_message())).await?.into_inner();
    json(&views::created(&answer))
}

pub(super) async fn open_direct(
    State(mut api): State<Api>,
    call: Call,
    SessionJson(body): SessionJson<requests::OpenDirect>,
) -> Answer {
    let request = chat::OpenDirectRequest { users: body.users };
    let answer = api.chat.open_direct(call.request(request)).await?.into_inner();
    json(&views::direct(&answer))
}

/// A page of history.
#[derive(Serialize)]
struct Events<'a> {
    room_id: u64,
    events: Vec<event::Json<'a>>,
    folds: Vec<event::Fold<'a>>,
    last_seq: u64,
}

pub(super) async fn events(
    State(mut api): State<Api>,
    Path(named): Path<String>,
    call: Call,
    query: Query,
) -> Answer {
    let r#where = match (query.number("before")?, query.number("after")?) {
        (Some(before), None) => Some(Where::BeforeSeq(before)),
        (None, Some(after)) => Some(Where::AfterSeq(after)),
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(Problem::invalid("parameter_invalid", "a page is before a seq or after one"));
        }
    };
    let request = chat::HistoryRequest {
        room: Some(room(&named)?),
        limit: query.limit()?,
        consistency: consistency(&query)?,
        r#where,
    };
    let answer = api.chat.history(call.request(request)).await?.into_inner();
    let name = (!named.starts_with("id:")).then_some(named.as_str());
    let page_of_events = Events {
        room_id: answer.room_id,
        events: answer.events.iter().map(|one| event::json(name, one)).collect(),
        folds: answer.folds.iter().map(event::fold).collect(),
        last_seq: answer.last_seq,
    };
    page(&api, &call, &page_of_events).await
}

pub(super) async fn members(
    State(mut api): State<Api>,
    Path(named): Path<String>,
    call: Call,
    query: Query,
) -> Answer {
    let request = chat::MembersRequest {
        room: Some(room(&named)?),
        after_user_id: query.number("after")?.unwrap_or(0),
        limit: query.limit()?,
        consistency: consistency(&query)?,
    };
    let answer = api.chat.members(call.request(request)).await?.into_inner();
    page(&api, &call, &views::members(&answer)).await
}

pub(super) async fn request(
    State(mut api): State<Api>,
    Path(named): Path<String>,
    call: Call,
    SessionJson(body): SessionJson<requests::Request>,
) -> Answer {
    let request = body.into_message(room(&named)?);
    let answer = api.chat.send_message(call.request(request)).await?.into_inner();
    json(&views::decided(&answer))
}

pub(super) async fn cluster(State(mut api): State<Api>, call: Call, query: Query) -> Answer {
    let request = chat::GetServerStatusRequest { local_only: query.flag("local") };
    let status = api.chat.get_server_status(call.request(request)).await?.into_inner();
    let gateway = &api.gateway;
    let topology = &gateway.router.shards.topology;
    json(&views::cluster(&status, gateway.node.id.0, |node| topology.web_address(NodeId(node))))
}
