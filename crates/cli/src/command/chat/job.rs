//! Requests of a chat that run as tasks beside its loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_client::{Client, HistoryQuery, Ticket};
use conclave_proto::chat;

use super::super::follow::names;
use super::super::members::{all, table};
use super::super::rooms;
use crate::errors::{of_call, of_send};
use crate::exit::Failed;
use crate::search::Search;
use crate::settings::Style;
use crate::view::status::page;

/// The result of a task.
#[derive(Debug)]
pub(super) enum JobResult {
    /// A message has its outcome: its seq, or why it was refused.
    Settled {
        room: String,
        request_no: u64,
        outcome: Result<u64, Failed>,
    },
    Joined(String),
    Left(String),
    Text(String),
    History(String, chat::HistoryResponse),
    /// The names of nodes by address.
    Nodes(BTreeMap<String, String>),
    Failed(Failed),
}

/// Waits for the outcome of a message without a timeout.
pub(super) async fn await_outcome(room: String, ticket: Ticket) -> JobResult {
    let request_no = ticket.request_no();
    let outcome = ticket.wait().await.map(|ack| ack.seq).map_err(|error| of_send(&room, &error));
    JobResult::Settled { room, request_no, outcome }
}

pub(super) async fn join(client: Client, room: String, create: bool) -> JobResult {
    if create && let Err(error) = client.create_room(&room).await {
        return JobResult::Failed(of_call(Some(&room), &error));
    }
    match client.join(&room).await {
        Ok(_) => JobResult::Joined(room),
        Err(error) => {
            let mut failed = of_send(&room, &error);
            if failed.exit == crate::exit::Exit::NotFound {
                failed.next = format!("/rooms lists them, /create {room} makes it");
            }
            JobResult::Failed(failed)
        }
    }
}

pub(super) async fn leave(client: Client, room: String) -> JobResult {
    match client.leave(&room).await {
        Ok(_) => JobResult::Left(room),
        Err(error) => JobResult::Failed(of_send(&room, &error)),
    }
}

/// Waits for the outcome of a change of the room.
pub(super) async fn decided(room: String, ticket: Ticket) -> JobResult {
    match ticket.wait().await {
        Ok(ack) if ack.seq == 0 => JobResult::Text("there is nothing to change".to_owned()),
        // The event of the change is shown to the user as well.
        Ok(_) => JobResult::Text(String::new()),
        Err(error) => JobResult::Failed(of_send(&room, &error)),
    }
}

/// The members of a room.
pub(super) async fn members(client: Client, style: Style, room: String) -> JobResult {
    match all(&client, &room).await {
        Ok(list) => JobResult::Text(table(style, &list).trim_end().to_owned()),
        Err(failed) => JobResult::Failed(failed),
    }
}

/// Opens the direct conversation with these users.
pub(super) async fn direct(client: Client, users: Vec<String>) -> JobResult {
    match client.open_direct(&users).await {
        Ok(opened) => JobResult::Joined(opened.name),
        Err(error) => JobResult::Failed(of_call(None, &error)),
    }
}

pub(super) async fn list(client: Client, style: Style) -> JobResult {
    match client.all_rooms().await {
        Ok(list) => JobResult::Text(rooms::table(style, &list).trim_end().to_owned()),
        Err(error) => JobResult::Failed(of_call(None, &error)),
    }
}

pub(super) async fn history(client: Client, room: String, limit: u32) -> JobResult {
    match client.history(HistoryQuery::newest(room.clone(), limit)).await {
        Ok(page) => JobResult::History(room, page),
        Err(error) => JobResult::Failed(of_call(Some(&room), &error)),
    }
}

pub(super) async fn status(client: Client, style: Style) -> JobResult {
    match client.status().await {
        Ok(status) => JobResult::Text(page(style, &status, crate::output::columns()).trim_end().to_owned()),
        Err(error) => JobResult::Failed(of_call(None, &error)),
    }
}

pub(super) async fn nodes(client: Client, search: Arc<Search>) -> JobResult {
    JobResult::Nodes(names(client, search).await)
}
