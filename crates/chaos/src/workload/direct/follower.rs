//! Follows every room at one server, and resumes often.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use conclave_check::History;
use conclave_client::api::{
    JoinChatRequest, RoomRef, RoomSubscription, room_subscription::Start, stream_frame::Frame,
};
use conclave_proto::frame::EncodedFrame;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{Direct, PAUSE, wait_unless_stopped};
use crate::workload::{Room, clients};

/// The longest that one stream is followed; then the follower resumes on a new stream.
const STREAM_MAX: Duration = Duration::from_millis(2_500);

/// Follows every room at one server. It ends each stream after a second or two and resumes on a new one, alternately by the last
/// seqs and by the resume token, to test resuming.
pub(in crate::workload) struct Follower {
    pub(in crate::workload) direct: Direct,
    pub(in crate::workload) rooms: Vec<Room>,
    pub(in crate::workload) history: History,
}

/// The follower's position.
#[derive(Debug, Default)]
struct Position {
    /// The last seq by room id.
    seqs: BTreeMap<u64, u64>,
    /// The resume token of the last frame, for the same position.
    token: Bytes,
}

impl Follower {
    pub(in crate::workload) async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let mut position = Position::default();
        let mut number = 0_u64;
        while wait_unless_stopped(&stop, PAUSE).await {
            let by_token = number.is_multiple_of(2) && !position.token.is_empty();
            self.record_begin(number + 1, &position);
            let opened = self.open(&position, by_token).await;
            let Some(stream) = opened else { continue };
            number += 1;
            let rest = tokio::time::sleep(STREAM_MAX.mul_f64(rand::random_range(0.2..1.0)));
            tokio::select! {
                () = stop.cancelled() => {}
                () = rest => {}
                () = self.follow(stream, number, &mut position) => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, position: &Position, by_token: bool) -> Option<Streaming<EncodedFrame>> {
        let wanted = |room: &Room| RoomSubscription {
            room: Some(RoomRef { name: room.name.clone(), id: room.id }),
            join: false,
            start: Some(Start::AfterSeq(position.seqs.get(&room.id).copied().unwrap_or(0))),
        };
        let question = JoinChatRequest {
            // For rooms that are in the token, the token decides; `start` is for the others.
            rooms: self.rooms.iter().map(wanted).collect(),
            resume_token: if by_token { position.token.clone() } else { Bytes::new() },
        };
        self.direct.call(question, |chat, request| Box::pin(chat.join_chat(request))).await.ok()
    }

    fn reader(&self) -> String {
        format!("follower of {}", self.direct.node)
    }

    /// Records that a stream begins, before the server is asked for it: what the server has read by then is judged by what it
    /// had told before.
    fn record_begin(&self, number: u64, position: &Position) {
        for room in &self.rooms {
            let after = position.seqs.get(&room.id).copied().unwrap_or(0);
            self.history.resumed(&self.reader(), number, room.id, after, &self.direct.node);
        }
    }

    /// Records the events of one stream until it ends or is as old as [`STREAM_MAX`].
    async fn follow(&self, mut stream: Streaming<EncodedFrame>, number: u64, position: &mut Position) {
        let reader = self.reader();
        let began = Instant::now();
        while let Ok(Some(frame)) = stream.message().await {
            let Ok(frame) = frame.into_frame() else { return };
            match frame.frame {
                Some(Frame::Events(batch)) => {
                    for event in &batch.events {
                        self.history.observed(&reader, number, event.room_id, &clients::event(event));
                        position.seqs.insert(event.room_id, event.seq);
                    }
                    position.token = batch.resume_token;
                }
                Some(Frame::CaughtUp(reached)) => {
                    for room in &reached.rooms {
                        self.history.caught_up(&reader, number, room.room_id, room.seq);
                    }
                    position.token = reached.resume_token;
                }
                Some(Frame::Truncated(gone)) => {
                    self.history.truncated(&reader, number, gone.room_id, gone.first_seq);
                    position.seqs.insert(gone.room_id, gone.first_seq.saturating_sub(1));
                }
                Some(Frame::GoAway(_)) => return,
                _ => {}
            }
            if began.elapsed() > STREAM_MAX {
                return;
            }
        }
    }
}
