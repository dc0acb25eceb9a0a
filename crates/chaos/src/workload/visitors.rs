//! Short-lived clients: each visit has a new session, and finds the cluster by name where there is a name server.

use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use conclave_client::{Client, Content, SendError};
use tokio_util::sync::CancellationToken;

use crate::workload::{ClientView, Connect, Room, clients};

/// Pause between two short-lived clients.
const EVERY: Duration = Duration::from_millis(400);
/// Timeout of one try to connect; then the visitor starts over, as a person would.
const PATIENCE: Duration = Duration::from_secs(5);

/// Visits repeatedly, each time with a new session: joins, sends a message, leaves.
pub(super) struct Visitor {
    pub(super) number: u32,
    pub(super) connect: Connect,
    pub(super) zone: Option<String>,
    pub(super) rooms: Vec<Room>,
    pub(super) history: History,
    pub(super) seen: Arc<ClientView>,
}

impl Visitor {
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), String> {
        for (visit, room) in self.rooms.iter().cycle().enumerate() {
            let came_us = self.seen.now_us();
            let client = tokio::select! {
                () = stop.cancelled() => break,
                client = self.arrive() => client,
            };
            // Without a majority no session can be opened, and without a name server no node is found.
            if let Some(client) = client {
                self.visit(&client, room, visit).await?;
                client.close().await;
                self.seen.visited(came_us);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        Ok(())
    }

    async fn arrive(&self) -> Option<Client> {
        let builder = (self.connect)(&format!("chaos-visitor{}", self.number)).patience(PATIENCE);
        let builder = match &self.zone {
            Some(zone) => builder.servers([zone.clone()]),
            None => builder,
        };
        builder.connect().await.ok()
    }

    async fn visit(&self, client: &Client, room: &Room, visit: usize) -> Result<(), String> {
        let session = client.session().id;
        let text = format!("visit {visit} of {session}");
        for (no, content) in (1..).zip([Content::Join, Content::Text(text), Content::Leave]) {
            let (what, body) = clients::recorded(&content);
            self.history.invoke_other(session, room.id, no, what, body);
            let taken = client.submit(&room.name, content).await;
            let ticket = taken
                .map_err(|error| format!("the client library did not accept a visitor's request: {error}"))?;
            match ticket.wait().await {
                Ok(ack) => self.history.ok(session, room.id, no, ack.seq),
                Err(SendError::Refused { code, .. }) => self.history.refused(session, room.id, no, &code),
                Err(_) => self.history.unknown(session, room.id, no),
            }
        }
        Ok(())
    }
}
