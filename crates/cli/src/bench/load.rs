//! Creates clients, rooms and texts for the measurements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use conclave_client::{Client, Content, Route};
use conclave_core::Refusal;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::report::Recorder;
use crate::errors::{of_call, of_connect};
use crate::exit::Failed;
use crate::identify::identify;
use crate::settings::Settings;

/// The number of clients that connect at the same time.
const CONNECTING_MAX: usize = 64;

/// The user of all sessions.
const USER: &str = "bench";

/// Connects clients, each to the next server in turn.
pub(crate) async fn clients(settings: &Settings, count: u32, route: Route) -> anyhow::Result<Vec<Client>> {
    let servers = all_servers(settings).await?;
    let cluster = identify(settings).await?;
    let (net, id) = (&cluster.net, cluster.id.clone().unwrap_or_default());
    let connect = |number: u32| {
        let mut servers = servers.clone();
        let count = servers.len();
        servers.rotate_left(usize::try_from(number).unwrap_or(0) % count);
        let builder = Client::builder()
            .servers(servers)
            .user(USER)
            .client_name("conclave-bench")
            .route(route)
            .network(net.clone())
            .cluster(id.clone());
        let timeout = settings.timeout;
        async move { builder.patience(timeout).connect().await.map_err(|error| of_load(of_connect(&error))) }
    };
    let connecting = stream::iter((0..count).map(connect)).buffered(CONNECTING_MAX);
    Ok(connecting.try_collect().await?)
}

/// The failure of a client of the load. Its sessions would crowd out those of a user, so it has none.
fn of_load(failed: Failed) -> Failed {
    if !failed.is_word(Refusal::LoginRequired.word()) {
        return failed;
    }
    let what = format!("the load is of the user {USER}, who has no password, and the cluster is not open");
    failed.saying(what).advising("measure a cluster of `conclave up --ephemeral`")
}

/// All servers that the cluster names or, if it names none, those that were found.
pub(crate) async fn all_servers(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let observer = crate::session::observer(settings, settings.timeout).await?;
    let status = observer.status().await.map_err(|error| of_call(None, &error));
    let known = observer.addresses();
    observer.close().await;
    let mut servers = Vec::new();
    for node in &status?.nodes {
        if node.reachable && !node.address.is_empty() {
            servers.push(node.address.clone());
        }
    }
    if servers.is_empty() { Ok(known) } else { Ok(servers) }
}

/// Creates new rooms.
pub(crate) async fn rooms(client: &Client, count: u32) -> anyhow::Result<Vec<String>> {
    let run = rand::random::<u32>();
    let make = |number: u32| async move {
        let name = format!("bench-{run:08x}-{number}");
        client.create_room(&name).await.map_err(|error| of_call(Some(&name), &error))?;
        anyhow::Ok(name)
    };
    stream::iter((0..count).map(make))
        .buffered(CONNECTING_MAX)
        .try_collect()
        .await
        .context("failed to create the rooms")
}

/// The measured time span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

impl Span {
    pub(crate) fn after(warmup: Duration, duration: Duration) -> Self {
        let begin = Instant::now() + warmup;
        Self { begin, end: begin + duration }
    }

    pub(crate) fn contains(&self, at: Instant) -> bool {
        self.begin <= at && at < self.end
    }
}

/// A text of `size` bytes that begins with a number in 16 hexadecimal digits.
pub(crate) fn text(number: u64, size: u32) -> String {
    let size = usize::try_from(size).unwrap_or(0);
    let mut text = String::with_capacity(size.max(17));
    text.push_str(&format!("{number:016x} "));
    while text.len() < size {
        let left = (size - text.len()).min(FILLER.len());
        text.push_str(&FILLER[..left]);
    }
    text
}

const FILLER: &str =
    "the quick brown fox jumps over the lazy dog and goes on to tell everybody about it at length ";

/// The number that a text begins with.
pub(crate) fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.get(..16)?, 16).ok()
}

/// One publisher: sends each message after the ack of the one before, until the end.
pub(crate) async fn publish(
    client: Client,
    room: String,
    size: u32,
    span: Span,
    recorder: Arc<Recorder>,
    zero: Instant,
) {
    while Instant::now() < span.end {
        let begun = Instant::now();
        let text = text(nanos_since(zero, begun), size);
        let sent = match client.submit(&room, Content::Text(text)).await {
            Ok(ticket) => ticket.wait().await,
            Err(error) => Err(error),
        };
        let now = Instant::now();
        match sent {
            Ok(_) => recorder.took(now - begun, span.contains(now)),
            Err(_) => recorder.error(),
        }
    }
}

/// Nanoseconds between two instants.
pub(crate) fn nanos_since(zero: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(zero).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_size_and_their_number() {
        for size in [24, 200, 16_384] {
            let text = text(77, size);
            assert_eq!(text.len(), usize::try_from(size).unwrap());
            assert_eq!(number(&text), Some(77));
        }
        assert_eq!(number("short"), None);
    }
}
