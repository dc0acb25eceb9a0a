//! Senders and readers that use the client library.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use conclave_check::{Event, History, SINCE_JOIN, What};
use conclave_client::api::{Past, Person, RoomAction, Target, event::Kind, room_action};
use conclave_client::{Client, Content, Follow, HistoryQuery, Incoming, SendError, Start, Ticket};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::Sent;
use crate::workload::{ClientView, Room};

/// The most sends that one sender has in flight.
const IN_FLIGHT: usize = 16;
/// Of this many requests, one joins, one leaves, and one sets the topic.
const OTHERS_EVERY: u64 = 24;

/// Sends to one room, at a fixed rate or as fast as acks come.
pub(super) struct Sender {
    pub(super) client: Client,
    pub(super) room: Room,
    /// Time between two sends; `None` is as fast as acks come.
    pub(super) pace: Option<Duration>,
    /// The sender's number; it shifts the first send, so that senders do not all send at once.
    pub(super) phase: u32,
    /// The shortest message, bytes.
    pub(super) text_bytes: usize,
    pub(super) history: History,
    pub(super) seen: Arc<ClientView>,
}

impl Sender {
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), String> {
        let mut undecided = FuturesUnordered::new();
        let session = self.client.session().id;
        let mut due = Instant::now() + self.pace.unwrap_or_default() / 16 * (self.phase % 16);
        let mut no = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = undecided.next() => {}
                () = tokio::time::sleep_until(due), if undecided.len() < IN_FLIGHT => {
                    no += 1;
                    let content = self.content(session, no);
                    let (what, body) = recorded(&content);
                    self.history.invoke_other(session, self.room.id, no, what, body);
                    match self.client.submit(&self.room.name, content).await {
                        Ok(ticket) => undecided.push(self.record_outcome(ticket, session, no, due)),
                        Err(error) => return Err(format!("the client library did not accept a send: {error}")),
                    }
                    // Latency counts from when the send was due, so that an outage shows in every send that it delayed.
                    due = self.pace.map_or_else(Instant::now, |pace| due + pace);
                }
            }
        }
        while undecided.next().await.is_some() {}
        drop(undecided);
        self.client.close().await;
        Ok(())
    }

    /// The content of the request `no`: mostly a message of the required length.
    fn content(&self, session: u64, no: u64) -> Content {
        match no % OTHERS_EVERY {
            15 => Content::Topic(format!("topic {session}-{no}")),
            22 => Content::Leave,
            // Only members write.
            23 => Content::Join,
            _ => Content::Text(format!("{:-<width$}", format!("{session}-{no}"), width = self.text_bytes)),
        }
    }

    async fn record_outcome(&self, ticket: Ticket, session: u64, no: u64, due: Instant) {
        let due = if self.pace.is_some() { due } else { Instant::now() };
        match ticket.wait().await {
            Ok(ack) => {
                self.history.ok(session, self.room.id, no, ack.seq);
                self.seen.acked(due);
                if ack.duplicate {
                    self.seen.duplicates.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(SendError::Refused { code, .. }) => {
                self.history.refused(session, self.room.id, no, &code);
                self.seen.given_up(Sent::Refused, due);
            }
            Err(_) => {
                self.history.unknown(session, self.room.id, no);
                self.seen.given_up(Sent::Unknown, due);
            }
        }
    }
}

/// Follows one room until its end.
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) room: Room,
    pub(super) history: History,
    pub(super) seen: Arc<ClientView>,
}

impl Reader {
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), String> {
        let mut events = self.client.subscribe(vec![Follow::room(&self.room.name).from(Start::After(0))]);
        let (mut stream, mut last) = (0, 0);
        let mut end = None;
        let mut at: Option<String> = None;
        while end.is_none_or(|end| last < end) {
            let incoming = tokio::select! {
                incoming = events.next() => incoming.map_err(|error| format!("{} cannot continue: {error}", self.name))?,
                () = stop.cancelled(), if end.is_none() => {
                    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest(&self.room.name, 1) };
                    let page = self.client.history(query).await;
                    end = Some(page.map_err(|error| format!("{} cannot read: {error}", self.name))?.last_seq);
                    continue;
                }
            };
            match incoming {
                Incoming::Connected { node } => {
                    stream += 1;
                    self.history.resumed(&self.name, stream, self.room.id, last, &node);
                    if at.replace(node.to_string()).is_some_and(|before| before != *node) {
                        self.seen.moves.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Incoming::Event(got) => {
                    last = got.seq;
                    self.history.observed(&self.name, stream, self.room.id, &event(&got));
                }
                _ => {}
            }
        }
        drop(events);
        self.client.close().await;
        Ok(())
    }
}

/// Waits for the outcome of a request and records it. Returns the seq of an acked one.
pub(super) async fn record_outcome(
    history: &History,
    (session, room, no): (u64, u64, u64),
    ticket: Ticket,
) -> Option<u64> {
    match ticket.wait().await {
        Ok(ack) => {
            history.ok(session, room, no, ack.seq);
            return Some(ack.seq);
        }
        Err(SendError::Refused { code, .. }) => history.refused(session, room, no, &code),
        Err(_) => history.unknown(session, room, no),
    }
    None
}

/// The content of a request as the history records it.
pub(super) fn recorded(content: &Content) -> (What, &str) {
    match content {
        Content::Text(text) => (What::Message, text),
        Content::Topic(topic) => (What::Topic, topic),
        Content::Join => (What::Joined, ""),
        Content::Leave => (What::Left, ""),
        Content::Action(action) => recorded_action(action),
    }
}

fn recorded_action(action: &RoomAction) -> (What, &str) {
    match &action.kind {
        Some(room_action::Kind::AddMember(add)) => (What::MemberAdded, name(add.who.as_ref())),
        Some(room_action::Kind::RemoveMember(remove)) => (What::MemberRemoved, name(remove.who.as_ref())),
        Some(room_action::Kind::SetPolicy(policy)) => (What::Policy, past(policy.past())),
        // The workload asks for no other action. Nobody can ask for this event, so the checker would object to one.
        _ => (What::Created, ""),
    }
}

fn name(who: Option<&Target>) -> &str {
    who.map_or("", |who| who.name.as_str())
}

/// What newcomers see, as the history records it.
fn past(past: Past) -> &'static str {
    if past == Past::SinceJoin { SINCE_JOIN } else { "all" }
}

/// An event as the history records it.
pub(super) fn event(event: &conclave_client::api::Event) -> Event<'_> {
    let (what, body, about) = match &event.kind {
        Some(Kind::Message(message)) => (What::Message, message.text.as_str(), 0),
        Some(Kind::TopicChanged(changed)) => (What::Topic, changed.topic.as_str(), 0),
        Some(Kind::Joined(_)) => (What::Joined, "", event.author_id),
        Some(Kind::Left(_)) => (What::Left, "", event.author_id),
        Some(Kind::MemberAdded(added)) => member(What::MemberAdded, added.who.as_ref()),
        Some(Kind::MemberRemoved(removed)) => member(What::MemberRemoved, removed.who.as_ref()),
        Some(Kind::PolicyChanged(policy)) => (What::Policy, past(policy.past()), 0),
        // None of these was requested by a client.
        Some(Kind::Edited(edited)) => (What::Edited, edited.text.as_str(), edited.target_seq),
        Some(Kind::Deleted(deleted)) => (What::Deleted, deleted.reason.as_str(), deleted.target_seq),
        Some(Kind::Reacted(reacted)) => (What::Reacted, reacted.emoji.as_str(), reacted.target_seq),
        Some(Kind::Erased(erased)) => (What::Erased, "", erased.deleted_seq),
        Some(Kind::Created(_) | Kind::Pinned(_) | Kind::RoleChanged(_) | Kind::Muted(_)) | None => {
            (What::Created, "", 0)
        }
    };
    Event {
        seq: event.seq,
        session: event.session_id,
        no: event.request_no,
        what,
        body,
        about,
        author: event.author_id,
    }
}

/// The kind, the name and the id of a change of members.
fn member(what: What, who: Option<&Person>) -> (What, &str, u64) {
    who.map_or((what, "", 0), |who| (what, who.name.as_str(), who.user_id))
}
