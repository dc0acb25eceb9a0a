//! The calls of `ChatService`: admit, translate.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;

use conclave_core::limits::{
    HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX, LIST_ROOMS_DEFAULT, LIST_ROOMS_MAX, PAGE_BYTES_MAX,
    PING_BYTES_MAX,
};
use conclave_core::{Refusal, RoomId, Seq, ShardId};
use conclave_proto::chat::chat_service_server::ChatService;
use conclave_proto::chat::{
    self, Consistency, CreateRoomRequest, CreateRoomResponse, GetServerStatusRequest,
    GetServerStatusResponse, HistoryRequest, HistoryResponse, JoinChatRequest, LeaveRoomRequest,
    ListRoomsRequest, ListRoomsResponse, OpenSessionRequest, OpenSessionResponse, PingRequest, PingResponse,
    SendBatch, SendMessageRequest, SendMessageResponse, SendResults, history_request::Where,
    send_message_request::Content,
};
use conclave_proto::event::decode_records;
use conclave_proto::frame::EncodedFrame;
use conclave_proto::status::Failure;
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::auth::{self, Caller};
use crate::api::gateway::Gateway;
use crate::api::sends::{SendStream, send_one};
use crate::api::{status, subscription};
use crate::shard::reader::storage;

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The caller of a call, whom [`crate::api::front`] has authenticated.
fn caller<T>(request: &Request<T>) -> Result<Caller, Failure> {
    request.extensions().get::<Caller>().cloned().ok_or_else(auth::token_missing)
}

impl Gateway {
    /// Answers a call, and counts a failure by its code. All else about calls is counted at the port.
    async fn call<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Response<T>, Status> {
        work.await.map(Response::new).map_err(|failure| {
            self.metrics.call_failures.with_label_values(&[method, failure.code()]).inc();
            Status::from(failure)
        })
    }

    async fn read_history(&self, request: HistoryRequest) -> Result<HistoryResponse, Failure> {
        let room = self.router.room(request.room.as_ref()).await?;
        let reader = self.router.room_reader(room)?;
        if request.consistency() == Consistency::Linearizable {
            self.router.barrier(reader.shard()).await?;
        }
        let mut found = reader.room(room).await?;
        if found.is_none() {
            self.router.open_room(room).await?;
            self.router.barrier(reader.shard()).await?;
            found = reader.room(room).await?;
        }
        let (head, _) = found.ok_or(Failure::Refused(Refusal::RoomUnknown))?;
        let limit = page_size(request.limit, HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX);
        let last = head.last.0;
        let back = |before: u64| before.saturating_sub(1).saturating_sub(limit as u64);
        let (after, end) = match request.r#where {
            Some(Where::AfterSeq(after)) => (after, last),
            Some(Where::BeforeSeq(before)) => {
                (back(before.min(last + 1)), before.saturating_sub(1).min(last))
            }
            None => (back(last + 1), last),
        };
        let wanted = usize::try_from(end.saturating_sub(after)).unwrap_or(usize::MAX).min(limit);
        let mut events = Vec::new();
        if wanted > 0 {
            let page = reader.page(room, Seq(after), wanted, PAGE_BYTES_MAX).await?;
            events = decode_records(&page.records).map_err(storage)?;
        }
        Ok(HistoryResponse { events, last_seq: last, room_id: room.0 })
    }

    async fn list_rooms_page(
        &self,
        caller: &Caller,
        request: ListRoomsRequest,
    ) -> Result<ListRoomsResponse, Failure> {
        let meta = self.router.reader(ShardId::META)?;
        if request.consistency() == Consistency::Linearizable {
            self.router.barrier(ShardId::META).await?;
        }
        let limit = page_size(request.limit, LIST_ROOMS_DEFAULT, LIST_ROOMS_MAX);
        let mut entries = meta.directory_page(&request.after_name, limit + 1).await?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        // One read for each shard, however many of its rooms are listed.
        let mut by_shard: BTreeMap<ShardId, Vec<RoomId>> = BTreeMap::new();
        for entry in &entries {
            by_shard.entry(self.router.shards.of_room(entry.room).id).or_default().push(entry.room);
        }
        let mut known = HashMap::new();
        for (shard, rooms) in by_shard {
            let found = self.router.reader(shard)?.rooms(&rooms, caller.user).await?;
            known.extend(rooms.into_iter().zip(found));
        }
        let rooms = entries.into_iter().map(|entry| {
            // A room that its shard does not have yet is empty.
            let (head, info, joined) = known.remove(&entry.room).flatten().unwrap_or_default();
            chat::Room {
                id: entry.room.0,
                name: entry.name,
                topic: info.topic,
                last_seq: head.last.0,
                members: head.members,
                shard: self.router.shards.of_room(entry.room).id.0,
                joined,
            }
        });
        Ok(ListRoomsResponse { rooms: rooms.collect(), more })
    }
}

fn page_size(asked: u32, default: usize, max: usize) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => default,
        asked => asked.min(max),
    }
}

#[tonic::async_trait]
impl ChatService for Gateway {
    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let OpenSessionRequest { user, client, reads_only } = request.into_inner();
        self.call("OpenSession", async {
            let Self { router, readers, node, .. } = self;
            let mut answer = match reads_only {
                true => auth::open_reading(router, readers, &user, node.cluster).await?,
                false => auth::open(router, &user, &client, node.cluster).await?,
            };
            answer.cluster = Some((**self.views.borrow()).clone());
            Ok(answer)
        })
        .await
    }

    type JoinChatStream = Frames<EncodedFrame>;

    async fn join_chat(
        &self,
        request: Request<JoinChatRequest>,
    ) -> Result<Response<Self::JoinChatStream>, Status> {
        self.call("JoinChat", async {
            let caller = caller(&request)?;
            let frames = subscription::open(self, &caller, request.into_inner()).await?;
            Ok(Box::pin(frames) as Self::JoinChatStream)
        })
        .await
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        self.call("SendMessage", async {
            let caller = caller(&request)?;
            send_one(self, &caller, request.into_inner()).await
        })
        .await
    }

    type SendMessagesStream = Frames<SendResults>;

    async fn send_messages(
        &self,
        request: Request<Streaming<SendBatch>>,
    ) -> Result<Response<Self::SendMessagesStream>, Status> {
        self.call("SendMessages", async {
            let caller = caller(&request)?;
            let permit = self.node.sessions.admit_sends(caller.session);
            let permit = permit.map_err(|why| self.placement.refused(why))?;
            let stream = SendStream::open(request.into_inner(), self, caller, permit);
            Ok(Box::pin(stream) as Self::SendMessagesStream)
        })
        .await
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.call("History", async {
            caller(&request)?;
            self.read_history(request.into_inner()).await
        })
        .await
    }

    async fn list_rooms(
        &self,
        request: Request<ListRoomsRequest>,
    ) -> Result<Response<ListRoomsResponse>, Status> {
        self.call("ListRooms", async {
            let caller = caller(&request)?;
            self.list_rooms_page(&caller, request.into_inner()).await
        })
        .await
    }

    async fn create_room(
        &self,
        request: Request<CreateRoomRequest>,
    ) -> Result<Response<CreateRoomResponse>, Status> {
        self.call("CreateRoom", async {
            let caller = caller(&request)?;
            let name = request.into_inner().name;
            let name = name.strip_prefix('#').unwrap_or(&name);
            let (room, created) = self.router.create_room(name, caller.user).await?;
            Ok(CreateRoomResponse { room_id: room.0, created })
        })
        .await
    }

    async fn leave_room(
        &self,
        request: Request<LeaveRoomRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        self.call("LeaveRoom", async {
            let caller = caller(&request)?;
            let LeaveRoomRequest { room, request_no, settled_no } = request.into_inner();
            let content = Some(Content::Leave(chat::Leave {}));
            let request = SendMessageRequest { room, request_no, settled_no, content };
            send_one(self, &caller, request).await
        })
        .await
    }

    async fn get_server_status(
        &self,
        request: Request<GetServerStatusRequest>,
    ) -> Result<Response<GetServerStatusResponse>, Status> {
        let local_only = request.into_inner().local_only;
        self.call("GetServerStatus", async { Ok(status::cluster_status(self, local_only).await) }).await
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.call("Ping", async {
            let payload = request.into_inner().payload;
            if payload.len() > PING_BYTES_MAX {
                let why = format!("a ping carries at most {PING_BYTES_MAX} bytes, not {}", payload.len());
                return Err(Failure::invalid("ping_too_large", why));
            }
            Ok(PingResponse {
                payload,
                node_id: self.node.id.0,
                version: conclave_core::version::VERSION.to_owned(),
                time_ms: self.clock.now_ms(),
            })
        })
        .await
    }
}
