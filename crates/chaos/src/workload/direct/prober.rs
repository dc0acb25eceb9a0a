//! Reads from one server, linearizably and locally.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_check::History;
use conclave_client::api::{
    Consistency, Event, HistoryRequest, HistoryResponse, RoomRef, history_request::Where,
};
use tokio_util::sync::CancellationToken;

use super::{Direct, Failed, wait_unless_stopped};
use crate::workload::{Room, clients};

/// Pause between two reads.
const EVERY: Duration = Duration::from_millis(40);
/// One of this many reads is local.
const LOCAL_EVERY: u64 = 5;
/// The most events of one page.
const PAGE: u32 = 500;

/// Reads the last event of each room from one server repeatedly, linearizably. Every [`LOCAL_EVERY`]th read is local, and gets the
/// events after those of the previous local read.
pub(in crate::workload) struct Prober {
    pub(in crate::workload) direct: Direct,
    pub(in crate::workload) rooms: Vec<Room>,
    pub(in crate::workload) history: History,
}

impl Prober {
    pub(in crate::workload) async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let mut read_up_to: BTreeMap<u64, u64> = BTreeMap::new();
        let mut reads = 0_u64;
        let rooms = self.rooms.clone();
        for room in rooms.iter().cycle() {
            if !wait_unless_stopped(&stop, EVERY).await {
                break;
            }
            reads += 1;
            let node = self.direct.node.clone();
            if reads.is_multiple_of(LOCAL_EVERY) {
                let last = read_up_to.entry(room.id).or_default();
                let after = Where::AfterSeq(*last);
                let Ok(page) = self.read(room, PAGE, Consistency::Local, Some(after)).await else { continue };
                let reader = format!("reads of {node}");
                for event in &page.events {
                    self.history.observed(&reader, 0, room.id, &clients::event(event));
                    *last = event.seq;
                }
            } else {
                let begun = self.history.now();
                // Without a quorum the server does not answer, which is right.
                if let Ok(page) = self.read(room, 1, Consistency::Linearizable, None).await {
                    self.history.read(begun, room.id, page.last_seq, &node);
                }
            }
        }
        Ok(())
    }

    /// Reads every room from the beginning, linearizably: the final read of this server. Retries without end; the caller sets
    /// the timeout.
    pub(in crate::workload) async fn read_all(mut self) {
        for room in self.rooms.clone() {
            let mut events: Vec<Event> = Vec::new();
            loop {
                let after = Where::AfterSeq(events.last().map_or(0, |event| event.seq));
                let Ok(page) = self.read(&room, PAGE, Consistency::Linearizable, Some(after)).await else {
                    tokio::time::sleep(EVERY).await;
                    continue;
                };
                let more = !page.events.is_empty();
                events.extend(page.events);
                if !more || events.last().is_some_and(|event| event.seq >= page.last_seq) {
                    break;
                }
            }
            self.history.final_read(&self.direct.node, room.id, 0, events.iter().map(clients::event));
        }
    }

    async fn read(
        &mut self,
        room: &Room,
        limit: u32,
        consistency: Consistency,
        r#where: Option<Where>,
    ) -> Result<HistoryResponse, Failed> {
        let question = HistoryRequest {
            room: Some(RoomRef { name: room.name.clone(), id: room.id }),
            limit,
            r#where,
            consistency: consistency.into(),
        };
        self.direct.call(question, |chat, request| Box::pin(chat.history(request))).await
    }
}
