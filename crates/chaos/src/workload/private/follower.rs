//! Follows a private room and reads its pages as one user, at any server.

use std::time::Duration;

use bytes::Bytes;
use conclave_check::History;
use conclave_client::api::{
    Consistency, HistoryRequest, JoinChatRequest, RoomRef, RoomSubscription, history_request::Where,
    room_subscription::Start, stream_frame::Frame,
};
use conclave_proto::frame::EncodedFrame;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::workload::direct::{Direct, PAUSE, wait_unless_stopped};
use crate::workload::{Room, clients};

/// The longest that one stream is followed; then the follower goes to another server.
const STREAM_MAX: Duration = Duration::from_millis(2_000);
/// The most events of a page of history.
const PAGE: u32 = 100;

/// Follows the room as one user and goes on at a random server, alternately by the last seq and by the resume token, whether or
/// not the user is a member. Reads pages between two streams.
pub(super) struct Follower {
    /// A session of the user at each server.
    pub(super) servers: Vec<Direct>,
    /// The user's name.
    pub(super) name: String,
    pub(super) room: Room,
    pub(super) history: History,
    /// Gets this user's latest resume token.
    pub(super) shares: Option<watch::Sender<Bytes>>,
    /// The latest resume token of another user, which this one uses, too.
    pub(super) stolen: Option<watch::Receiver<Bytes>>,
}

/// A stream as the history names it.
struct Named {
    reader: String,
    number: u64,
    node: String,
    user: u64,
}

/// The follower's position.
#[derive(Debug, Default)]
struct Position {
    seq: u64,
    /// The resume token for the same position; empty if there is none.
    token: Bytes,
}

impl Follower {
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), String> {
        let mut position = Position::default();
        let mut number = 0_u64;
        while wait_unless_stopped(&stop, PAUSE).await {
            number += 1;
            let chosen = self.servers.get(rand::random_range(0..self.servers.len().max(1)));
            let Some(mut server) = chosen.cloned() else { return Ok(()) };
            let rest = tokio::time::sleep(STREAM_MAX.mul_f64(rand::random_range(0.2..1.0)));
            let work = async {
                match number % 4 {
                    0 if self.stolen.is_some() => self.follow_stolen(&mut server, number).await,
                    1 => self.read_page(&mut server, number, &position).await,
                    _ => self.follow_own(&mut server, number, &mut position).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = rest => {}
                () = work => {}
            }
        }
        Ok(())
    }

    async fn follow_own(&self, server: &mut Direct, number: u64, position: &mut Position) {
        let by_token = number.is_multiple_of(2) && !position.token.is_empty();
        let wanted = RoomSubscription {
            room: Some(self.room_ref()),
            join: false,
            start: Some(Start::AfterSeq(position.seq)),
        };
        let question = JoinChatRequest {
            rooms: if by_token { Vec::new() } else { vec![wanted] },
            resume_token: if by_token { position.token.clone() } else { Bytes::new() },
        };
        let opened = server.call(question, |chat, request| Box::pin(chat.join_chat(request))).await;
        // Who is no member and was none is refused; and the server may be away.
        let Ok(stream) = opened else { return };
        let named = self.named(server, self.name.clone(), number);
        self.history.resumed(&named.reader, number, self.room.id, position.seq, &named.node);
        self.follow(stream, &named, position).await;
    }

    /// Follows with the token of another user, from wherever that user is.
    async fn follow_stolen(&self, server: &mut Direct, number: u64) {
        let Some(token) = self.stolen.as_ref().map(|stolen| stolen.borrow().clone()) else { return };
        if token.is_empty() {
            return;
        }
        let question = JoinChatRequest { rooms: Vec::new(), resume_token: token };
        let opened = server.call(question, |chat, request| Box::pin(chat.join_chat(request))).await;
        let Ok(stream) = opened else { return };
        let named = self.named(server, format!("{} with a token of the owner", self.name), number);
        self.follow(stream, &named, &mut Position::default()).await;
    }

    /// Records the events of one stream until it ends.
    async fn follow(&self, mut stream: Streaming<EncodedFrame>, named: &Named, position: &mut Position) {
        let Named { reader, number, user, .. } = named;
        while let Ok(Some(frame)) = stream.message().await {
            let Ok(frame) = frame.into_frame() else { return };
            match frame.frame {
                Some(Frame::Events(batch)) => {
                    for event in &batch.events {
                        self.history.observed_by(
                            *user,
                            reader,
                            *number,
                            event.room_id,
                            &clients::event(event),
                        );
                        position.seq = event.seq;
                    }
                    position.token = batch.resume_token;
                    if let Some(shares) = &self.shares {
                        shares.send_replace(position.token.clone());
                    }
                }
                Some(Frame::CaughtUp(reached)) => {
                    for room in &reached.rooms {
                        self.history.caught_up(reader, *number, room.room_id, room.seq);
                    }
                }
                Some(Frame::Truncated(gone)) => {
                    self.history.truncated(reader, *number, gone.room_id, gone.first_seq);
                    position.seq = gone.first_seq.saturating_sub(1);
                    position.token = Bytes::new();
                }
                Some(Frame::RoomClosed(closed)) => {
                    return self.history.closed(*user, reader, *number, closed.room_id);
                }
                Some(Frame::GoAway(_)) => return,
                _ => {}
            }
        }
    }

    /// Reads the events after a random one, or the last ones.
    async fn read_page(&self, server: &mut Direct, number: u64, position: &Position) {
        let from = rand::random_range(0..=position.seq);
        let consistency = if rand::random_bool(0.5) { Consistency::Local } else { Consistency::Linearizable };
        let question = HistoryRequest {
            room: Some(self.room_ref()),
            limit: PAGE,
            r#where: rand::random_bool(0.5).then_some(Where::AfterSeq(from)),
            consistency: consistency.into(),
        };
        let read = server.call(question, |chat, request| Box::pin(chat.history(request))).await;
        let Ok(page) = read else { return };
        let Named { reader, number, user, .. } =
            self.named(server, format!("pages of {}", self.name), number);
        for event in &page.events {
            self.history.observed_by(user, &reader, number, self.room.id, &clients::event(event));
        }
    }

    fn named(&self, server: &Direct, reader: String, number: u64) -> Named {
        Named { reader, number, node: server.node.clone(), user: server.user }
    }

    fn room_ref(&self) -> RoomRef {
        RoomRef { name: self.room.name.clone(), id: self.room.id }
    }
}
