//! `JoinChat` over a WebSocket: the same frames, in JSON.
//!
//! The client's first frame says who it is and what it wants to follow. After that the server sends, and each frame is asked
//! for when the one before has been taken: a slow reader costs no memory here, and one that takes nothing is disconnected.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State};
use axum::response::Response;
use conclave_core::{RoomId, ShardId};
use conclave_net::Peer;
use conclave_proto::chat::{self, stream_frame::Frame};
use conclave_proto::frame::EncodedFrame;
use conclave_proto::status::Failure;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::Streaming;

use crate::api::http::extract::Call;
use crate::api::http::problem::{self, Problem};
use crate::api::http::requests::OpenStream;
use crate::api::http::{Api, event, views};
use crate::limits::{
    ANSWER_UNREAD_MAX, FIRST_REQUEST_MAX, WEB_BODY_BYTES_MAX, WEB_PING_INTERVAL, WEB_SILENCE_MAX,
};

/// A frame of a stream. Its keys never change their meaning.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Json<'a> {
    /// The first frame: which node serves the stream.
    Opened {
        node_id: u64,
        node: &'a str,
    },
    Events {
        room_id: u64,
        events: Vec<event::Json<'a>>,
        resume_token: String,
    },
    CaughtUp {
        rooms: Vec<Position<'a>>,
        resume_token: String,
    },
    Keepalive {
        quorum: bool,
        leaders: Vec<Leader>,
        resume_token: String,
    },
    Truncated {
        room_id: u64,
        first_seq: u64,
    },
    GoAway {
        in_ms: u32,
        web_addresses: Vec<String>,
        reason: &'a str,
        stay_away: bool,
    },
    ClusterView {
        version: u64,
        feature_level: u32,
        nodes: Vec<views::Place<'a>>,
    },
    RoomClosed {
        room_id: u64,
        code: &'a str,
        resume_token: String,
    },
    /// The last frame of a stream that failed.
    Failed {
        problem: problem::Json<'a>,
    },
}

#[derive(Serialize)]
struct Position<'a> {
    room_id: u64,
    name: &'a str,
    seq: u64,
}

#[derive(Serialize)]
struct Leader {
    shard: u32,
    term: u64,
    node_id: u64,
}

fn base64(token: &[u8]) -> String {
    data_encoding::BASE64.encode(token)
}

/// `GET /stream`
pub(super) async fn open(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    let task = api.tasks.token();
    upgrade.max_message_size(WEB_BODY_BYTES_MAX).max_frame_size(WEB_BODY_BYTES_MAX).on_upgrade(
        move |socket| async move {
            let stop = api.gateway.node.stop.clone();
            // The gate must not take the connection for an idle one.
            let in_use = peer.as_ref().map(|peer| peer.usage.begin());
            let stream = Stream { api, socket, peer, names: HashMap::new() };
            tokio::select! {
                () = stream.run() => {}
                () = async {
                    stop.cancelled().await;
                    tokio::time::sleep(STOP_PATIENCE).await;
                } => {}
            }
            drop((in_use, task));
        },
    )
}

/// A stream may take this long to end when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// One stream.
struct Stream {
    api: Api,
    socket: WebSocket,
    peer: Option<Peer>,
    /// The names of the stream's rooms.
    names: HashMap<u64, Option<String>>,
}

/// The client is gone, or takes nothing.
struct Gone;

impl Stream {
    async fn run(mut self) {
        let ended = match self.subscribe().await {
            Ok(Ok(frames)) => self.forward(frames).await,
            Ok(Err(problem)) => self.fail(&problem).await,
            Err(Gone) => return,
        };
        if ended.is_ok() {
            let reason = "the stream has ended".into();
            let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason }));
            // The client is gone already, or learns it from the end of the connection.
            let _ = timeout(ANSWER_UNREAD_MAX, self.socket.send(close)).await;
        }
    }

    /// Reads the first frame, and subscribes.
    async fn subscribe(&mut self) -> Result<Result<Streaming<EncodedFrame>, Problem>, Gone> {
        let first = timeout(FIRST_REQUEST_MAX, self.first()).await;
        let first = first.unwrap_or(Err(Gone))?;
        let node = self.api.gateway.node.clone();
        let wanted: OpenStream = match serde_json::from_str(&first) {
            Ok(wanted) => wanted,
            Err(error) => {
                let why = format!("the first frame says what to follow: {error}");
                return Ok(Err(Problem::invalid("body_invalid", why)));
            }
        };
        let request = match wanted.message() {
            Ok(request) => Call::with_token(self.peer.as_ref(), &wanted.token).request(request),
            Err(problem) => return Ok(Err(problem)),
        };
        match self.api.chat.join_chat(request).await {
            Ok(frames) => {
                self.send(&Json::Opened { node_id: node.id.0, node: &node.member.name }).await?;
                Ok(Ok(frames.into_inner()))
            }
            Err(status) => Ok(Err(status.into())),
        }
    }

    async fn first(&mut self) -> Result<Utf8Bytes, Gone> {
        loop {
            match self.socket.recv().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_) | Message::Close(_)) | Err(_)) | None => return Err(Gone),
            }
        }
    }

    /// Sends frames until the stream ends or the client goes away.
    async fn forward(&mut self, mut frames: Streaming<EncodedFrame>) -> Result<(), Gone> {
        let mut pings = interval(WEB_PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            // What the client said is looked at first: a frame may have taken long to send.
            tokio::select! {
                biased;
                message = self.socket.recv() => match message {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => heard = Instant::now(),
                    Some(Ok(Message::Text(_) | Message::Binary(_) | Message::Close(_)) | Err(_)) | None => {
                        return Err(Gone);
                    }
                },
                _ = pings.tick() => {
                    if heard.elapsed() > WEB_SILENCE_MAX {
                        return Err(Gone);
                    }
                    self.put(Message::Ping(Vec::new().into())).await?;
                }
                frame = frames.message() => match frame {
                    Ok(Some(frame)) => self.frame(frame).await?,
                    Ok(None) => return Ok(()),
                    Err(status) => return self.fail(&status.into()).await,
                },
            }
        }
    }

    async fn frame(&mut self, frame: EncodedFrame) -> Result<(), Gone> {
        let frame = match frame.into_frame() {
            Ok(frame) => frame.frame,
            Err(error) => {
                return self.fail(&Failure::unknown("storage", error.to_string()).into()).await;
            }
        };
        // A frame that this version does not know comes from nobody: the node itself made it.
        let Some(frame) = frame else { return Ok(()) };
        if let Frame::Events(batch) = &frame {
            let room_id = batch.events.first().map_or(0, |event| event.room_id);
            let name = self.name(room_id).await;
            let events = batch.events.iter().map(|one| event::json(name.as_deref(), one)).collect();
            let resume_token = base64(&batch.resume_token);
            return self.send(&Json::Events { room_id, events, resume_token }).await;
        }
        let origins = match &frame {
            Frame::GoAway(go_away) => self.web_addresses(&go_away.addresses),
            _ => Vec::new(),
        };
        match plain(&frame, origins) {
            Some(json) => self.send(&json).await,
            None => Ok(()),
        }
    }

    /// The name of a room of the stream.
    async fn name(&mut self, room_id: u64) -> Option<String> {
        if let Some(known) = self.names.get(&room_id) {
            return known.clone();
        }
        let meta = self.api.gateway.router.reader(ShardId::META).ok()?;
        let entry = meta.directory_entry(RoomId(room_id)).await.ok()?;
        let name = entry.map(|entry| entry.name);
        self.names.insert(room_id, name.clone());
        name
    }

    /// The origins of the nodes at these client addresses, in their order.
    fn web_addresses(&self, addresses: &[String]) -> Vec<String> {
        let view = self.api.gateway.views.borrow().clone();
        let origin = |address: &String| {
            let node = view.nodes.iter().find(|node| node.address == *address)?;
            (!node.web_address.is_empty()).then(|| node.web_address.clone())
        };
        addresses.iter().filter_map(origin).collect()
    }

    async fn fail(&mut self, problem: &Problem) -> Result<(), Gone> {
        self.send(&Json::Failed { problem: problem.json() }).await
    }

    async fn send(&mut self, frame: &Json<'_>) -> Result<(), Gone> {
        let Ok(text) = serde_json::to_string(frame) else { return Err(Gone) };
        self.put(Message::Text(text.into())).await
    }

    async fn put(&mut self, message: Message) -> Result<(), Gone> {
        match timeout(ANSWER_UNREAD_MAX, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// The JSON of a frame without events.
fn plain<'a>(frame: &'a Frame, web_addresses: Vec<String>) -> Option<Json<'a>> {
    Some(match frame {
        Frame::Events(_) => return None,
        Frame::CaughtUp(chat::CaughtUp { resume_token, rooms }) => {
            let position = |room: &'a chat::RoomPosition| Position {
                room_id: room.room_id,
                name: &room.name,
                seq: room.seq,
            };
            Json::CaughtUp { rooms: rooms.iter().map(position).collect(), resume_token: base64(resume_token) }
        }
        Frame::Keepalive(chat::Keepalive { resume_token, leaders, quorum }) => {
            let leaders = leaders.iter().map(|leader| Leader {
                shard: leader.shard,
                term: leader.term,
                node_id: leader.node_id,
            });
            Json::Keepalive {
                quorum: *quorum,
                leaders: leaders.collect(),
                resume_token: base64(resume_token),
            }
        }
        Frame::Truncated(chat::Truncated { room_id, first_seq }) => {
            Json::Truncated { room_id: *room_id, first_seq: *first_seq }
        }
        Frame::GoAway(chat::GoAway { in_ms, reason, stay_away, .. }) => {
            Json::GoAway { in_ms: *in_ms, web_addresses, reason, stay_away: *stay_away }
        }
        Frame::ClusterView(view) => Json::ClusterView {
            version: view.version,
            feature_level: view.feature_level,
            nodes: view.nodes.iter().map(views::place).collect(),
        },
        Frame::RoomClosed(chat::RoomClosed { room_id, resume_token, code }) => {
            Json::RoomClosed { room_id: *room_id, code, resume_token: base64(resume_token) }
        }
    })
}
