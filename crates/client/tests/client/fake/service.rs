//! The fake cluster's side of the API.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::Refusal;
use conclave_proto::chat::chat_service_server::ChatService;
use conclave_proto::chat::*;
use conclave_proto::frame::EncodedFrame;
use conclave_proto::status;
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Node;

/// The trait needs a type of this crate.
pub(super) struct Service(pub(super) Arc<Node>);

type Frames = Pin<Box<dyn Stream<Item = Result<EncodedFrame, Status>> + Send>>;

#[tonic::async_trait]
impl ChatService for Service {
    type JoinChatStream = Frames;
    type SendMessagesStream = ReceiverStream<Result<SendResults, Status>>;

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        self.0.check().await?;
        if self.0.faults.lock().unwrap().opens_no_session {
            return Err(status::Failure::not_sent("no_leader", "no majority", Duration::ZERO).into());
        }
        let mut data = self.0.data.lock().unwrap();
        let session_id = data.sessions.len() as u64 + 1;
        let user = request.into_inner().user;
        let token = format!("token{session_id}");
        data.sessions.insert(token.clone(), (session_id, user.clone()));
        let named = (1..).zip(data.members.clone());
        let named =
            named.map(|(node_id, address)| NodeView { node_id, address, alive: true, ..NodeView::default() });
        let view = ClusterView { nodes: named.collect(), ..ClusterView::default() };
        Ok(Response::new(OpenSessionResponse {
            token,
            session_id,
            user_id: 1,
            user,
            cluster_id: "c".into(),
            feature_level: 1,
            cluster: Some(view).filter(|view| !view.nodes.is_empty()),
        }))
    }

    async fn join_chat(&self, request: Request<JoinChatRequest>) -> Result<Response<Frames>, Status> {
        self.0.check().await?;
        self.0.session(&request)?;
        if let Some(addresses) = self.0.faults.lock().unwrap().full.clone() {
            let message = "the node is full".to_owned();
            return Err(status::Failure::Elsewhere { code: "node_full", message, addresses }.into());
        }
        let request = request.into_inner();
        let mut rooms = Vec::new();
        for wanted in &request.rooms {
            let mut data = self.0.data.lock().unwrap();
            let found = data.room(wanted.room.as_ref());
            let (name, room) =
                found.ok_or_else(|| Status::from(status::Failure::Refused(Refusal::RoomUnknown)))?;
            let head = room.events.len() as u64;
            let after = match wanted.start {
                Some(room_subscription::Start::AfterSeq(seq)) => seq,
                Some(room_subscription::Start::Last(count)) => head.saturating_sub(count.into()),
                None => head,
            };
            rooms.push((name, room.id, after));
        }
        let node = Arc::clone(&self.0);
        let (frames, receiver) = mpsc::channel(1);
        node.streams.send_modify(|n| *n += 1);
        tokio::spawn(async move {
            tokio::select! {
                () = stream(&node, rooms, &frames) => {}
                () = frames.closed() => {}
            }
            node.streams.send_modify(|n| *n -= 1);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn send_message(
        &self,
        _request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        Err(Status::unimplemented("the library does not use it"))
    }

    async fn send_messages(
        &self,
        request: Request<Streaming<SendBatch>>,
    ) -> Result<Response<Self::SendMessagesStream>, Status> {
        self.0.check().await?;
        let (session, user) = self.0.session(&request)?;
        let node = Arc::clone(&self.0);
        let mut batches = request.into_inner();
        let (results, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut index = 0;
            let mut changed = node.changed.subscribe();
            loop {
                let batch = tokio::select! {
                    batch = batches.next() => batch,
                    () = dead(&node, &mut changed) => {
                        let _ = results.send(Err(Status::unavailable("reset"))).await;
                        return;
                    }
                };
                let Some(Ok(batch)) = batch else { return };
                if node.check().await.is_err() {
                    return;
                }
                let mut answers = SendResults::default();
                for send in batch.sends {
                    let Some(outcome) = node.answer(session, &user, &send) else {
                        let _ = results.send(Err(Status::unavailable("reset"))).await;
                        return;
                    };
                    answers.results.push(SendResult { index, outcome: Some(outcome) });
                    index += 1;
                }
                if results.send(Ok(answers)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.0.check().await?;
        self.0.session(&request)?;
        let mut data = self.0.data.lock().unwrap();
        let found = data.room(request.get_ref().room.as_ref());
        let (_, room) = found.ok_or_else(|| Status::from(status::Failure::Refused(Refusal::RoomUnknown)))?;
        let (events, last_seq) = (room.events.clone(), room.events.len() as u64);
        Ok(Response::new(HistoryResponse { events, last_seq, room_id: room.id, folds: Vec::new() }))
    }

    async fn list_rooms(&self, _: Request<ListRoomsRequest>) -> Result<Response<ListRoomsResponse>, Status> {
        Ok(Response::new(ListRoomsResponse::default()))
    }

    async fn create_room(
        &self,
        request: Request<CreateRoomRequest>,
    ) -> Result<Response<CreateRoomResponse>, Status> {
        self.0.check().await?;
        self.0.session(&request)?;
        let name = request.into_inner().name;
        let mut data = self.0.data.lock().unwrap();
        data.make_room(&name);
        Ok(Response::new(CreateRoomResponse { room_id: data.rooms[&name].id, created: true }))
    }

    async fn open_direct(
        &self,
        _: Request<OpenDirectRequest>,
    ) -> Result<Response<OpenDirectResponse>, Status> {
        Err(Status::unimplemented("the fake has no direct conversations"))
    }

    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        Ok(Response::new(MembersResponse::default()))
    }

    async fn unread(&self, _: Request<UnreadRequest>) -> Result<Response<UnreadResponse>, Status> {
        Ok(Response::new(UnreadResponse::default()))
    }

    async fn leave_room(
        &self,
        _: Request<LeaveRoomRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        Err(Status::unimplemented("the library does not use it"))
    }

    async fn get_server_status(
        &self,
        _: Request<GetServerStatusRequest>,
    ) -> Result<Response<GetServerStatusResponse>, Status> {
        self.0.check().await?;
        let mut status = self.0.data.lock().unwrap().status.clone();
        if status.cluster_id.is_empty() {
            status.cluster_id = "c".into();
        }
        Ok(Response::new(status))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.0.check().await?;
        Ok(Response::new(PingResponse { version: "fake".into(), ..PingResponse::default() }))
    }
}

async fn dead(node: &Node, changed: &mut watch::Receiver<u64>) {
    // It only fails at the end of the test.
    let _ = changed.wait_for(|_| node.faults.lock().unwrap().dead).await;
}

/// Streams the events of rooms, with the injected faults.
async fn stream(
    node: &Node,
    mut rooms: Vec<(String, u64, u64)>,
    frames: &mpsc::Sender<Result<EncodedFrame, Status>>,
) {
    let mut changed = node.changed.subscribe();
    let mut caught_up = false;
    loop {
        if changed.wait_for(|_| !node.faults.lock().unwrap().mute).await.is_err() {
            return;
        }
        changed.mark_unchanged();
        if node.faults.lock().unwrap().dead {
            let _ = frames.send(Err(Status::unavailable("reset"))).await;
            return;
        }
        let mut out = due(node, &mut rooms);
        if !caught_up {
            caught_up = true;
            let position = |(name, id, seq): &(String, u64, u64)| RoomPosition {
                room_id: *id,
                name: name.clone(),
                seq: *seq,
            };
            let rooms = rooms.iter().map(position).collect();
            out.push_back(stream_frame::Frame::CaughtUp(CaughtUp { rooms, ..CaughtUp::default() }));
        }
        for frame in out {
            if frames.send(Ok(frame.into())).await.is_err() {
                return;
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// The frame to stream next, if there is one.
fn due(node: &Node, rooms: &mut [(String, u64, u64)]) -> VecDeque<stream_frame::Frame> {
    let mut out = VecDeque::new();
    let data = node.data.lock().unwrap();
    let mut faults = node.faults.lock().unwrap();
    if let Some(go_away) = faults.go_away.take() {
        out.push_back(stream_frame::Frame::GoAway(go_away));
    }
    for (name, _, after) in rooms {
        let all = &data.rooms[name].events;
        let mut events: Vec<_> = all[usize::try_from(*after).unwrap().min(all.len())..].to_vec();
        *after = (*after).max(all.len() as u64);
        if let Some(skip) = faults.skip_event
            && events.iter().any(|event| event.seq == skip)
        {
            faults.skip_event = None;
            events.retain(|event| event.seq != skip);
        }
        if !events.is_empty() {
            out.push_back(stream_frame::Frame::Events(EventBatch { events, ..EventBatch::default() }));
        }
    }
    out
}
