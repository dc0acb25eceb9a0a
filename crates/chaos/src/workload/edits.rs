//! The clients of a room whose messages change: three editors who write, edit and delete messages of their own, react to each
//! other's and try to edit what is not theirs; a follower of each server, which begins anew every second or two; and a reader of
//! pages at any server. They test what becomes of a message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_check::{Event, History, What};
use conclave_client::api::{
    Delete, Edit, HistoryRequest, HistoryResponse, MessageFold, React, RoomAction, RoomKind, RoomRef,
    event::Kind, history_request::Where, room_action,
};
use conclave_client::{Client, Content, SendError, Ticket};
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::direct::{Direct, Follower, wait_unless_stopped};
use super::{Room, Setup, WorkloadError, clients, private};

const EDITORS: [&str; 3] = ["chaos-editor0", "chaos-editor1", "chaos-editor2"];
const READER: &str = "chaos-pages";
/// Time between two requests of an editor.
const PACE: Duration = Duration::from_millis(60);
/// Time between two pages.
const PAGE_EVERY: Duration = Duration::from_millis(80);
/// The most events of a page.
const PAGE: u32 = 100;
/// The most requests that an editor has in flight.
const IN_FLIGHT: usize = 16;
/// The messages among which editors choose: the newest ones.
const RECENT_MAX: usize = 48;
/// Length of a message and of an edit, bytes: so that a server that was away needs a snapshot where logs are kept short.
const TEXT_BYTES: usize = 300;
const EMOJI: [&str; 3] = ["👍", "🎉", "👀"];

/// The newest messages: seq, and the number of the editor who wrote each.
type Recent = Arc<Mutex<VecDeque<(u64, usize)>>>;

/// Creates the room and starts its clients in `tasks`, until `stop`.
pub(super) async fn start(
    setup: &Setup<'_>,
    tasks: &mut JoinSet<Result<(), String>>,
    stop: &CancellationToken,
) -> Result<Room, WorkloadError> {
    let connect = EDITORS.map(|user| (setup.connect)(user).connect());
    let editors = try_join_all(connect).await?;
    let name = format!("chaos-{}-edits", setup.run);
    let room = private::create(&editors[0], name, RoomKind::Open).await?;
    let recent = Recent::default();
    for (number, client) in editors.into_iter().enumerate() {
        let (room, recent, history) = (room.clone(), Arc::clone(&recent), setup.history.clone());
        tasks.spawn(Editor { number, client, room, recent, history }.run(stop.clone()));
    }
    let open = setup.servers.iter().map(|server| Direct::open(server, READER, setup.dial));
    let servers = try_join_all(open).await?;
    for direct in servers.iter().cloned() {
        let (rooms, history) = (vec![room.clone()], setup.history.clone());
        tasks.spawn(Follower { direct, rooms, history }.run(stop.clone()));
    }
    tasks.spawn(Pages { servers, room: room.clone(), history: setup.history.clone() }.run(stop.clone()));
    Ok(room)
}

struct Editor {
    number: usize,
    client: Client,
    room: Room,
    recent: Recent,
    history: History,
}

impl Editor {
    async fn run(self, stop: CancellationToken) -> Result<(), String> {
        let mut undecided = FuturesUnordered::new();
        let session = self.client.session().id;
        let (mut due, mut no) = (Instant::now(), 1);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = undecided.next() => {}
                () = tokio::time::sleep_until(due), if undecided.len() < IN_FLIGHT => {
                    due += PACE;
                    let (what, target, body, content) = self.choose(session, no);
                    self.history.invoke_about(session, self.room.id, no, what, (target, &body));
                    match self.client.submit(&self.room.name, content).await {
                        Ok(ticket) => {
                            undecided.push(self.record_outcome(ticket, session, no, what));
                            no += 1;
                        }
                        // The client has not heard of the feature level yet; the number is not used up.
                        Err(SendError::Refused { code, .. }) if code == "not_yet" => {
                            self.history.refused(session, self.room.id, no, &code);
                        }
                        Err(error) => return Err(format!("the client library did not accept a send: {error}")),
                    }
                }
            }
        }
        while undecided.next().await.is_some() {}
        drop(undecided);
        self.client.close().await;
        Ok(())
    }

    /// What to do next, as the history records it (the kind, the message that it is about, the text) and as it is sent.
    fn choose(&self, session: u64, no: u64) -> (What, u64, String, Content) {
        let action = |kind| Content::Action(RoomAction { kind: Some(kind) });
        let dice = rand::random_range(0..20);
        let text = format!("{:-<TEXT_BYTES$}", format!("{session}-{no}"));
        match dice {
            0..=5 => {}
            6 | 7 => {
                if let Some((target_seq, _)) = self.recent(|(_, owner)| *owner == self.number) {
                    let kind = room_action::Kind::Delete(Delete { target_seq, reason: String::new() });
                    return (What::Deleted, target_seq, String::new(), action(kind));
                }
            }
            8..=12 => {
                if let Some((target_seq, _)) = self.recent(|_| true) {
                    let emoji = EMOJI[rand::random_range(0..EMOJI.len())].to_owned();
                    let kind = room_action::Kind::React(React {
                        target_seq,
                        emoji: emoji.clone(),
                        off: rand::random_bool(0.2),
                    });
                    return (What::Reacted, target_seq, emoji, action(kind));
                }
            }
            _ => {
                // One edit in eight is of a message that may be somebody else's.
                let any = dice == 19;
                if let Some((target_seq, _)) = self.recent(|(_, owner)| any || *owner == self.number) {
                    let kind = room_action::Kind::Edit(Edit { target_seq, text: text.clone() });
                    return (What::Edited, target_seq, text, action(kind));
                }
            }
        }
        (What::Message, 0, text.clone(), Content::Text(text))
    }

    /// A recent message for which `fits` holds.
    fn recent(&self, fits: impl Fn(&(u64, usize)) -> bool) -> Option<(u64, usize)> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting: Vec<_> = recent.iter().filter(|message| fits(message)).copied().collect();
        fitting.get(rand::random_range(0..fitting.len().max(1))).copied()
    }

    async fn record_outcome(&self, ticket: Ticket, session: u64, no: u64, what: What) {
        let acked = clients::record_outcome(&self.history, (session, self.room.id, no), ticket).await;
        if what == What::Message
            && let Some(seq @ 1..) = acked
        {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.push_back((seq, self.number));
            if recent.len() > RECENT_MAX {
                recent.pop_front();
            }
        }
    }
}

/// Reads pages from random places at random servers.
struct Pages {
    servers: Vec<Direct>,
    room: Room,
    history: History,
}

impl Pages {
    async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let (mut number, mut last) = (0, 0);
        while wait_unless_stopped(&stop, PAGE_EVERY).await {
            number += 1;
            let at = rand::random_range(0..self.servers.len().max(1));
            let Some(server) = self.servers.get_mut(at) else { return Ok(()) };
            // Mostly from anywhere, and now and then the newest events.
            let newest: u64 = u64::saturating_sub(last, u64::from(PAGE));
            let after = if rand::random_bool(0.7) { rand::random_range(0..=last) } else { newest };
            let question = HistoryRequest {
                room: Some(RoomRef { name: self.room.name.clone(), id: self.room.id }),
                limit: PAGE,
                r#where: Some(Where::AfterSeq(after)),
                ..HistoryRequest::default()
            };
            // Each page is a reader of its own, who begins before the server is asked.
            let reader = format!("page {number} of {}", server.node);
            self.history.resumed(&reader, number, self.room.id, after, &server.node);
            let read = server.call(question, |chat, request| Box::pin(chat.history(request))).await;
            let Ok(page) = read else { continue };
            last = last.max(page.last_seq);
            for event in &page.events {
                self.history.observed(&reader, number, self.room.id, &clients::event(event));
            }
            self.record_messages(&reader, &page);
        }
        Ok(())
    }

    /// Records each message of a page as somebody sees it who is shown the page.
    fn record_messages(&self, reader: &str, page: &HistoryResponse) {
        for event in &page.events {
            let fold = page.folds.iter().find(|fold| fold.seq == event.seq);
            let edit = fold.filter(|fold| fold.edits > 0);
            let text = |fold: &MessageFold| fold.text.clone();
            let (what, body) = match &event.kind {
                // Whatever the fold says of a deletion: a page that has the text shows it.
                Some(Kind::Message(message)) => {
                    (What::Message, edit.map_or_else(|| message.text.clone(), text))
                }
                // An erased edit is no message of the page.
                Some(Kind::Erased(erased)) if erased.edit_of_seq != 0 => continue,
                Some(Kind::Erased(_)) => (What::Erased, String::new()),
                _ => continue,
            };
            let message = Event { what, body: &body, ..clients::event(event) };
            let edited = edit.map_or(0, |fold| fold.edited_seq);
            self.history.shown(reader, self.room.id, page.last_seq, &message, edited);
        }
    }
}
