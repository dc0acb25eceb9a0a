//! The calls of `ChatService`: admit, translate.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;

use conclave_core::access::{Actor, Deed, RoomKind, RoomPolicy, Sight, may};
use conclave_core::limits::{
    DIRECT_PEOPLE_MAX, HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX, LIST_MEMBERS_DEFAULT, LIST_MEMBERS_MAX,
    LIST_ROOMS_DEFAULT, LIST_ROOMS_MAX, LIST_ROOMS_PAGES_MAX, PAGE_BYTES_MAX, PING_BYTES_MAX,
};
use conclave_core::meta::direct_name;
use conclave_core::record::{DirectoryEntry, RoomHead, RoomInfo};
use conclave_core::{Refusal, RoomId, Seq, ShardId, UserId};
use conclave_proto::chat::chat_service_server::ChatService;
use conclave_proto::chat::{
    self, Consistency, CreateRoomRequest, CreateRoomResponse, GetServerStatusRequest,
    GetServerStatusResponse, HistoryRequest, HistoryResponse, JoinChatRequest, LeaveRoomRequest,
    ListRoomsRequest, ListRoomsResponse, MembersRequest, MembersResponse, OpenDirectRequest,
    OpenDirectResponse, OpenSessionRequest, OpenSessionResponse, PingRequest, PingResponse, SendBatch,
    SendMessageRequest, SendMessageResponse, SendResults, UnreadRequest, UnreadResponse,
    history_request::Where, send_message_request::Content,
};
use conclave_proto::event::decode_records;
use conclave_proto::frame::EncodedFrame;
use conclave_proto::rights::{kind_from_proto, person_to_proto, policy_to_proto, role_to_proto};
use conclave_proto::status::Failure;
use conclave_store::MembersPage;
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::auth::{self, Caller};
use crate::api::gateway::Gateway;
use crate::api::sends::{SendStream, send_one};
use crate::api::{status, subscription};
use crate::shard::reader::{SeenRoom, storage};

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

    async fn read_history(
        &self,
        caller: &Caller,
        request: HistoryRequest,
    ) -> Result<HistoryResponse, Failure> {
        let room = self.router.room(request.room.as_ref(), caller.user).await?;
        let reader = self.router.room_reader(room)?;
        if request.consistency() == Consistency::Linearizable {
            self.router.barrier(reader.shard()).await?;
        }
        let seen = self.seen_room(caller, room).await?;
        // The last event that the caller may see; events that come meanwhile are not in the answer.
        let Some(visible) = seen.sight.visible_back(seen.head.last) else {
            return Err(Failure::Refused(seen.sight.refusal()));
        };
        let limit = page_size(request.limit, HISTORY_EVENTS_DEFAULT, HISTORY_EVENTS_MAX);
        let last = visible.upto.0;
        let (after, end) = match request.r#where {
            Some(Where::AfterSeq(after)) => match seen.sight.visible(Seq(after.saturating_add(1))) {
                Some((from, upto)) => {
                    (after.max(from.0.saturating_sub(1)), upto.map_or(last, |upto| upto.0.min(last)))
                }
                None => (last, last),
            },
            Some(Where::BeforeSeq(before)) => back(&seen, before.saturating_sub(1).min(last), limit),
            None => back(&seen, last, limit),
        };
        let wanted = usize::try_from(end.saturating_sub(after)).unwrap_or(usize::MAX).min(limit);
        let mut events = Vec::new();
        if wanted > 0 {
            let page = reader.page(room, Seq(after), wanted, PAGE_BYTES_MAX).await?;
            events = decode_records(&page.records).map_err(storage)?;
        }
        let folds = self.folds(caller, room, &mut events).await?;
        Ok(HistoryResponse { events, last_seq: last, room_id: room.0, folds })
    }

    /// A room as the caller may see it. A room that exists only in the room directory is created in its shard.
    pub(super) async fn seen_room(&self, caller: &Caller, room: RoomId) -> Result<SeenRoom, Failure> {
        let reader = self.router.room_reader(room)?;
        let mut found = reader.seen_room(room, caller.user, caller.powers()).await?;
        if found.is_none() {
            self.router.open_room(room).await?;
            self.router.barrier(reader.shard()).await?;
            found = reader.seen_room(room, caller.user, caller.powers()).await?;
        } else if found.as_ref().is_some_and(|seen| seen.sight == Sight::Nothing)
            && self.router.barrier(reader.shard()).await.is_ok()
        {
            // The caller was made a member a moment ago, and this replica did not know it.
            found = reader.seen_room(room, caller.user, caller.powers()).await?;
        }
        found.ok_or(Failure::Refused(Refusal::RoomUnknown))
    }

    async fn members_page(
        &self,
        caller: &Caller,
        request: MembersRequest,
    ) -> Result<MembersResponse, Failure> {
        let room = self.router.room(request.room.as_ref(), caller.user).await?;
        let reader = self.router.room_reader(room)?;
        if request.consistency() == Consistency::Linearizable {
            self.router.barrier(reader.shard()).await?;
        }
        let limit = page_size(request.limit, LIST_MEMBERS_DEFAULT, LIST_MEMBERS_MAX);
        let (seen, page) = loop {
            let seen = self.seen_room(caller, room).await?;
            let role = seen.role(caller.user);
            let actor = Actor { powers: caller.powers(), role, banned: seen.is_banned(), muted: false };
            may(actor, seen.head.policy, Deed::Read).map_err(Failure::Refused)?;
            let page = reader.members(room, UserId(request.after_user_id), limit).await?;
            // The caller may have been removed between the two reads, and others added.
            if reader.sight_number() == seen.number {
                break (seen, page);
            }
        };
        let MembersPage { members, next } = page;
        let users: Vec<_> = members.iter().map(|(user, _)| *user).collect();
        let names = self.router.reader(ShardId::META)?.user_names(&users).await?;
        let creator = seen.info.creator;
        let members = members.into_iter().zip(names).map(|((user, member), name)| chat::RoomMember {
            user_id: user.0,
            name: name.unwrap_or_default(),
            role: role_to_proto(member.role_in_force(user, creator)).into(),
            muted_until_ms: member.muted_until_ms,
        });
        Ok(MembersResponse {
            members: members.collect(),
            more: next.is_some(),
            next_after_user_id: next.map_or(0, |user| user.0),
        })
    }

    /// The direct conversation between the caller and these users.
    async fn direct(
        &self,
        caller: &Caller,
        request: OpenDirectRequest,
    ) -> Result<OpenDirectResponse, Failure> {
        if request.users.len() >= DIRECT_PEOPLE_MAX {
            return Err(Failure::Refused(Refusal::PeopleInvalid));
        }
        let mut people = vec![caller.user];
        for name in &request.users {
            match self.router.user_named(name).await? {
                UserId(0) => return Err(Failure::Refused(Refusal::UserUnknown)),
                user => people.push(user),
            }
        }
        people.sort_unstable();
        people.dedup();
        let (room, created) = self.router.open_direct(caller.user, people.clone()).await?;
        let name = direct_name(&people);
        let names = self.router.reader(ShardId::META)?.user_names(&people).await?;
        let person = |(user, name): (UserId, Option<String>)| chat::Person {
            user_id: user.0,
            name: name.unwrap_or_default(),
        };
        let people = people.into_iter().zip(names).map(person).collect();
        Ok(OpenDirectResponse { room_id: room.0, created, name, people })
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
        let mut after = match request.after_room_id {
            0 => request.after_name,
            room => {
                let known = meta.directory_entry(RoomId(room)).await?;
                known.ok_or(Failure::Refused(Refusal::RoomUnknown))?.name
            }
        };
        // By id: the name of a room that the caller may not see is not the caller's to know.
        let mut next_after_room_id = 0;
        let mut rooms = Vec::new();
        for _ in 0..LIST_ROOMS_PAGES_MAX {
            let wanted = limit - rooms.len();
            let mut entries = meta.directory_page(&after, wanted + 1).await?;
            let more = entries.len() > wanted;
            entries.truncate(wanted);
            if let Some(last) = entries.last() {
                after.clone_from(&last.name);
                next_after_room_id = last.room.0;
            }
            rooms.extend(self.visible_rooms(caller, entries).await?);
            if !more || rooms.len() == limit {
                return Ok(ListRoomsResponse { rooms, more, next_after_room_id });
            }
        }
        Ok(ListRoomsResponse { rooms, more: true, next_after_room_id })
    }

    /// Those of these rooms that the caller may see.
    async fn visible_rooms(
        &self,
        caller: &Caller,
        entries: Vec<DirectoryEntry>,
    ) -> Result<Vec<chat::Room>, Failure> {
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
        let rooms = entries.into_iter().filter_map(|entry| {
            // A room that its shard does not have yet is empty, and begins with what the directory says.
            let (head, info, member) = known.remove(&entry.room).flatten().unwrap_or_else(|| {
                let kind = entry.founding.as_ref().map(|founding| founding.kind).unwrap_or_default();
                let policy = RoomPolicy { kind, ..RoomPolicy::default() };
                (RoomHead { policy, ..RoomHead::default() }, RoomInfo::default(), None)
            });
            let sight = Sight::of(caller.powers(), head.policy, member.clone());
            let last = sight.visible_back(head.last.max(Seq(1)))?.upto.min(head.last);
            let role = member.as_ref().and_then(|member| member.role_in_force(caller.user, info.creator));
            // Who was a member may read what there was then, and finds the room by its name only.
            if role.is_none() && head.policy.kind != RoomKind::Open {
                return None;
            }
            let people = entry.founding.iter().flat_map(|founding| &founding.people);
            Some(chat::Room {
                id: entry.room.0,
                name: entry.name,
                topic: info.topic,
                last_seq: last.0,
                members: head.members,
                shard: self.router.shards.of_room(entry.room).id.0,
                joined: role.is_some(),
                policy: Some(policy_to_proto(head.policy)),
                people: people.map(person_to_proto).collect(),
                role: role_to_proto(role).into(),
                read_seq: member.map_or(0, |member| member.read.0),
            })
        });
        Ok(rooms.collect())
    }
}

/// Refuses a guest, who is in the rooms that somebody added the guest to, and makes none.
fn no_guest(caller: &Caller) -> Result<(), Failure> {
    if caller.powers().guest { Err(Failure::Refused(Refusal::NotAllowed)) } else { Ok(()) }
}

/// The newest `limit` events up to `end` that somebody may see, as the event before them and the last of them.
fn back(seen: &SeenRoom, end: u64, limit: usize) -> (u64, u64) {
    let Some(span) = seen.sight.visible_back(Seq(end)) else { return (0, 0) };
    let before = span.upto.0.saturating_sub(limit as u64);
    (before.max(span.from.0.saturating_sub(1)), span.upto.0)
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
            match reads_only {
                true => auth::open_reading(self, &user).await,
                false => auth::open(self, &user, &client).await,
            }
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
            auth::check_open(self, &caller).await?;
            let stream = SendStream::open(request.into_inner(), self, caller, permit);
            Ok(Box::pin(stream) as Self::SendMessagesStream)
        })
        .await
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.call("History", async {
            let caller = caller(&request)?;
            self.read_history(&caller, request.into_inner()).await
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
            no_guest(&caller)?;
            let CreateRoomRequest { name, kind } = request.into_inner();
            let unknown = |_| Failure::invalid("kind_unknown", "a room is open or private");
            let kind = kind_from_proto(kind).map_err(unknown)?;
            let name = name.strip_prefix('#').unwrap_or(&name);
            let (room, created) = self.router.create_room(name, caller.user, kind).await?;
            Ok(CreateRoomResponse { room_id: room.0, created })
        })
        .await
    }

    async fn open_direct(
        &self,
        request: Request<OpenDirectRequest>,
    ) -> Result<Response<OpenDirectResponse>, Status> {
        self.call("OpenDirect", async {
            let caller = caller(&request)?;
            no_guest(&caller)?;
            self.direct(&caller, request.into_inner()).await
        })
        .await
    }

    async fn members(&self, request: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        self.call("Members", async {
            let caller = caller(&request)?;
            self.members_page(&caller, request.into_inner()).await
        })
        .await
    }

    async fn unread(&self, request: Request<UnreadRequest>) -> Result<Response<UnreadResponse>, Status> {
        self.call("Unread", async {
            let caller = caller(&request)?;
            self.unread_rooms(&caller, request.into_inner()).await
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
            let request = SendMessageRequest { room, request_no, settled_no, content, ..Default::default() };
            send_one(self, &caller, request).await
        })
        .await
    }

    async fn get_server_status(
        &self,
        request: Request<GetServerStatusRequest>,
    ) -> Result<Response<GetServerStatusResponse>, Status> {
        let patience = status::Patience::of(request.metadata());
        let local_only = request.into_inner().local_only;
        self.call("GetServerStatus", async { Ok(status::cluster_status(self, local_only, patience).await) })
            .await
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
