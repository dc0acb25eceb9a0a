//! Events as a stream.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use futures::{Stream, StreamExt as _, stream};

use super::extract::ApiState;
use super::model::Event;
use super::problem::Subscribe;
use crate::serve::refusal::Refusal;
use crate::serve::shared::Watch;

/// The events from now on, as Server-Sent Events
///
/// Each event has its kind in the field `event` and an `Event` as JSON in the field `data`. The controller does not wait for a
/// client that reads too slowly: it leaves events out and counts them in `left_out`. A comment every 15 s keeps an idle
/// connection open. The stream ends with the controller.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "controller",
    responses((status = 200, description = "A stream of events", body = Event, content_type = "text/event-stream"), Subscribe)
)]
pub(super) async fn watch_events(
    State(state): State<ApiState>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    let watch = state.desk.watch()?;
    let events = stream::unfold(watch, async |mut watch: Watch| {
        let (record, left_out) = watch.next().await?;
        let kind = record.kind.name();
        // An event has only texts and numbers, which serde_json always writes.
        let data = serde_json::to_string(&Event::new(record, left_out)).unwrap_or_default();
        Some((Ok(sse::Event::default().event(kind).data(data)), watch))
    });
    Ok(Sse::new(events.take_until(state.ended.cancelled_owned())).keep_alive(KeepAlive::default()))
}
