//! The client, as programs use it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conclave_core::limits::LIST_ROOMS_MAX;
use conclave_core::name::{check_room_name, is_direct_name};
use conclave_core::planted::{Bug, planted};
use conclave_proto::chat;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::error::{CallError, SendError};
use crate::handle::Handle;
use crate::nodes::Chat;
use crate::people::People;
use crate::position::Positions;
use crate::state::{Waiter, Wakes};
use crate::storage::blocking;
use crate::subscription::Subscription;
use crate::ticket::Ticket;
use crate::types::{Ack, Content, Follow, HistoryQuery, Pending, Pong, Position, RefusedRequest, Session};

/// One user's connection to a cluster. Cheap to clone; all clones are one client with one session.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
}

impl Client {
    /// Submits a request to a room. When this returns, the request is in the outbox (with a durable outbox: on disk),
    /// has its number, and is sent until its outcome is known. Waits while the outbox is full. After the future was
    /// dropped it is unknown whether the request was accepted.
    ///
    /// # Errors
    /// If the request is invalid, or the outbox cannot be written.
    pub async fn submit(&self, room: &str, content: Content) -> Result<Ticket, SendError> {
        self.check(room, &content)?;
        let shared = &self.handle.shared;
        let (waiter, answer) = oneshot::channel();
        let mut ask = Some((content, waiter));
        let (request_no, serial) = loop {
            let space_freed = shared.space_freed.notified();
            if let Some(taken) = self.try_submit(room, &mut ask)? {
                break taken;
            }
            space_freed.await;
        };
        let mut ticket = Ticket { request_no, answer, early: None };
        if serial > 0 {
            let mut progress = self.handle.progress.clone();
            progress.wait_for(|done| *done >= serial).await.map_err(|_| SendError::Closed)?;
            match ticket.answer.try_recv() {
                Ok(Err(SendError::Outbox(why))) => return Err(SendError::Outbox(why)),
                Ok(answer) => ticket.early = Some(answer),
                Err(_) => {}
            }
        }
        Ok(ticket)
    }

    /// Refuses a request that the cluster would refuse, as far as is known here.
    fn check(&self, room: &str, content: &Content) -> Result<(), SendError> {
        if self.handle.shared.nodes.reader().is_some() {
            return Err(SendError::reads_only());
        }
        let named = if is_direct_name(room) { Ok(()) } else { check_room_name(room) };
        named.and_then(|()| content.check()).map_err(SendError::refused)?;
        let too_low = |level: &u32| content.level() > *level && !planted(Bug::SkipLevelGate);
        match self.handle.shared.nodes.feature_level().filter(too_low) {
            Some(level) => Err(SendError::not_yet(content.level(), level)),
            None => Ok(()),
        }
    }

    fn try_submit(
        &self,
        room: &str,
        ask: &mut Option<(Content, Waiter)>,
    ) -> Result<Option<(u64, u64)>, SendError> {
        let mut wakes = Wakes::default();
        let mut state = self.handle.shared.lock();
        if !state.has_room_for(1)? {
            return Ok(None);
        }
        let Some((content, waiter)) = ask.take() else { return Ok(None) };
        let taken = state.submit(room, content, waiter, &mut wakes);
        drop(state);
        self.handle.shared.wake(wakes);
        Ok(Some(taken))
    }

    /// The positions of the consumer that [`Client::reply`] has recorded: the seq of the last event that it is done with, by
    /// room id.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<u64, u64> {
        self.handle.shared.lock().requests.positions().clone()
    }

    /// Records that a consumer is done with an event, and submits its replies to it. When this returns, a durable outbox has
    /// both on disk, written as one: a crash keeps the position and all replies, or nothing. So a consumer that continues
    /// at [`Client::positions`] replies to each event exactly once. Waits while the outbox is full.
    ///
    /// # Errors
    /// If a reply is invalid, or the outbox cannot be written; then the position has not moved.
    pub async fn reply(
        &self,
        position: Position,
        replies: Vec<(String, Content)>,
    ) -> Result<Vec<Ticket>, SendError> {
        self.reply_to_all(vec![position], replies).await
    }

    /// As [`Client::reply`], for a consumer that is done with several events at once: all positions and all replies are
    /// one record. The events need not be those of rooms; a consumer of other events has its own numbers for where they
    /// come from in place of the ids of rooms, and an outbox of its own.
    ///
    /// # Errors
    /// As [`Client::reply`]; then no position has moved.
    pub async fn reply_to_all(
        &self,
        positions: Vec<Position>,
        replies: Vec<(String, Content)>,
    ) -> Result<Vec<Ticket>, SendError> {
        let shared = &self.handle.shared;
        let (mut asked, mut answers) = (Vec::new(), Vec::new());
        for (room, content) in replies {
            self.check(&room, &content)?;
            let (waiter, answer) = oneshot::channel();
            asked.push((room, content, waiter));
            answers.push(answer);
        }
        let mut asked = Some(asked);
        let (numbers, serial) = loop {
            let space_freed = shared.space_freed.notified();
            if let Some(taken) = self.try_reply(&positions, &mut asked)? {
                break taken;
            }
            space_freed.await;
        };
        if serial > 0 {
            let mut progress = self.handle.progress.clone();
            progress.wait_for(|done| *done >= serial).await.map_err(|_| SendError::Closed)?;
            let state = shared.lock();
            let is_stored = |at: &Position| state.requests.has_stored(at.room_id, at.seq);
            if !positions.iter().all(is_stored) {
                return Err(SendError::Outbox("the position and the replies were not stored".to_owned()));
            }
        }
        let tickets = numbers.into_iter().zip(answers);
        Ok(tickets.map(|(request_no, answer)| Ticket { request_no, answer, early: None }).collect())
    }

    fn try_reply(
        &self,
        positions: &[Position],
        asked: &mut Option<Vec<(String, Content, Waiter)>>,
    ) -> Result<Option<(Vec<u64>, u64)>, SendError> {
        let mut wakes = Wakes::default();
        let mut state = self.handle.shared.lock();
        if !state.has_room_for(asked.as_ref().map_or(0, Vec::len))? {
            return Ok(None);
        }
        let Some(replies) = asked.take() else { return Ok(None) };
        let taken = state.submit_replies(positions, replies, &mut wakes);
        drop(state);
        self.handle.shared.wake(wakes);
        Ok(Some(taken))
    }

    /// Forgets the positions of a consumer for which this is false. The outbox file forgets them when it is rewritten the
    /// next time: until then they are back after a restart.
    pub fn retain_positions(&self, keep: impl Fn(Position) -> bool) {
        self.handle.shared.lock().requests.retain_positions(keep);
    }

    /// Sends a message and waits for its ack without a timeout.
    ///
    /// # Errors
    /// If the message is refused, or the outbox cannot be written. Network failures are retried and never reported.
    pub async fn send(&self, room: &str, text: impl Into<String>) -> Result<Ack, SendError> {
        self.submit(room, Content::Text(text.into())).await?.wait().await
    }

    /// Becomes a member of a room.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn join(&self, room: &str) -> Result<Ack, SendError> {
        self.submit(room, Content::Join).await?.wait().await
    }

    /// Ends the membership of a room.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn leave(&self, room: &str) -> Result<Ack, SendError> {
        self.submit(room, Content::Leave).await?.wait().await
    }

    /// Sets the topic of a room.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn set_topic(&self, room: &str, topic: impl Into<String>) -> Result<Ack, SendError> {
        self.submit(room, Content::Topic(topic.into())).await?.wait().await
    }

    /// The requests without a known outcome, in order within each room.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        self.handle.shared.lock().requests.pending()
    }

    /// Why the server that was asked last has no place for this client, in a sentence; `None` if a server has answered since,
    /// or none has said that it is full.
    #[must_use]
    pub fn full(&self) -> Option<String> {
        self.handle.shared.nodes.full()
    }

    /// The number of requests without a known outcome.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.handle.shared.lock().requests.unsettled_count()
    }

    /// The requests that were refused while nobody waited for them, such as those that an earlier process left in the outbox:
    /// they will not be sent. Each is returned once; at most 1,024 are kept.
    #[must_use]
    pub fn take_refused(&self) -> Vec<RefusedRequest> {
        std::mem::take(&mut self.handle.shared.lock().refused)
    }

    /// Waits at most `patience` until every request has an outcome. Returns the number of requests that have none.
    pub async fn flush(&self, patience: Duration) -> usize {
        let empty = async {
            loop {
                let space_freed = self.handle.shared.space_freed.notified();
                if self.pending_count() == 0 {
                    return;
                }
                space_freed.await;
            }
        };
        // After a timeout the caller gets the number of requests that are left.
        let _ = tokio::time::timeout(patience, empty).await;
        self.pending_count()
    }

    /// Subscribes to rooms.
    #[must_use]
    pub fn subscribe(&self, rooms: Vec<Follow>) -> Subscription {
        self.resume(Bytes::new(), rooms)
    }

    /// Continues a subscription after the event that `token` belongs to, and follows `more` rooms.
    #[must_use]
    pub fn resume(&self, token: Bytes, more: Vec<Follow>) -> Subscription {
        Subscription::new(Arc::clone(&self.handle), Positions::new(more, token))
    }

    /// Reads past events.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn history(&self, query: HistoryQuery) -> Result<chat::HistoryResponse, CallError> {
        let name = query.room.clone();
        let question = query.into_wire();
        let page =
            self.call(question, |mut chat: Chat, request| async move { chat.history(request).await }).await?;
        self.handle.shared.lock().learn_name(page.room_id, &name);
        Ok(page)
    }

    /// One page of the room directory: rooms with names greater than `after`, at most `limit` of them (0: the server's
    /// default).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn rooms(&self, after: &str, limit: u32) -> Result<chat::ListRoomsResponse, CallError> {
        let question = chat::ListRoomsRequest {
            after_name: after.to_owned(),
            limit,
            ..chat::ListRoomsRequest::default()
        };
        self.page_of_rooms(question).await
    }

    async fn page_of_rooms(
        &self,
        question: chat::ListRoomsRequest,
    ) -> Result<chat::ListRoomsResponse, CallError> {
        let page = self
            .call(question, |mut chat: Chat, request| async move { chat.list_rooms(request).await })
            .await?;
        let mut state = self.handle.shared.lock();
        for room in &page.rooms {
            state.learn_name(room.id, &room.name);
        }
        drop(state);
        Ok(page)
    }

    /// All rooms of the room directory.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn all_rooms(&self) -> Result<Vec<chat::Room>, CallError> {
        let mut rooms: Vec<chat::Room> = Vec::new();
        let limit = u32::try_from(LIST_ROOMS_MAX).unwrap_or(0);
        let mut question = chat::ListRoomsRequest { limit, ..chat::ListRoomsRequest::default() };
        loop {
            let page = self.page_of_rooms(question.clone()).await?;
            let next = match page.next_after_room_id {
                // Version 0.1.0 goes on behind the last room's name.
                0 => chat::ListRoomsRequest {
                    after_name: page.rooms.last().map(|room| room.name.clone()).unwrap_or_default(),
                    ..question.clone()
                },
                after_room_id => chat::ListRoomsRequest { after_room_id, ..question.clone() },
            };
            rooms.extend(page.rooms);
            if !page.more || next == question {
                return Ok(rooms);
            }
            question = next;
        }
    }

    /// The members of a room whose ids come after `after`, at most `limit` of them (0: the server's default).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn members(
        &self,
        room: &str,
        after: u64,
        limit: u32,
    ) -> Result<chat::MembersResponse, CallError> {
        let question = chat::MembersRequest {
            room: Some(chat::RoomRef { name: room.to_owned(), id: 0 }),
            after_user_id: after,
            limit,
            ..chat::MembersRequest::default()
        };
        self.call(question, |mut chat: Chat, request| async move { chat.members(request).await }).await
    }

    /// Says that the user has read the events of a room up to `seq`. A marker never goes back.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn mark_read(&self, room: &str, seq: u64) -> Result<(), CallError> {
        let read = chat::room_action::Kind::Read(chat::Read { upto_seq: seq });
        let action = chat::RoomAction { kind: Some(read) };
        let question = chat::SendMessageRequest {
            room: Some(chat::RoomRef { name: room.to_owned(), id: 0 }),
            content: Some(chat::send_message_request::Content::Action(action)),
            ..chat::SendMessageRequest::default()
        };
        self.call(question, |mut chat: Chat, request| async move { chat.send_message(request).await })
            .await
            .map(drop)
    }

    /// How many messages of rooms the user has not read, for those of which the user is a member. At most 100 rooms, by id.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn unread(&self, rooms: &[u64]) -> Result<Vec<chat::UnreadRoom>, CallError> {
        let question = chat::UnreadRequest { room_ids: rooms.to_vec() };
        let answer =
            self.call(question, |mut chat: Chat, request| async move { chat.unread(request).await }).await?;
        Ok(answer.rooms)
    }

    /// Opens the direct conversation with these users; none of them for notes to oneself.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn open_direct(&self, users: &[String]) -> Result<chat::OpenDirectResponse, CallError> {
        let question = chat::OpenDirectRequest { users: users.to_vec() };
        let opened = self
            .call(question, |mut chat: Chat, request| async move { chat.open_direct(request).await })
            .await?;
        self.handle.shared.lock().learn_name(opened.room_id, &opened.name);
        Ok(opened)
    }

    /// Creates an open room unless it exists.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn create_room(&self, name: &str) -> Result<chat::CreateRoomResponse, CallError> {
        self.create_room_of_kind(name, chat::RoomKind::Open).await
    }

    /// Creates a room of this kind unless a room of this name exists, of whichever kind.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn create_room_of_kind(
        &self,
        name: &str,
        kind: chat::RoomKind,
    ) -> Result<chat::CreateRoomResponse, CallError> {
        let question = chat::CreateRoomRequest { name: name.to_owned(), kind: kind.into() };
        let made = self
            .call(question, |mut chat: Chat, request| async move { chat.create_room(request).await })
            .await?;
        self.handle.shared.lock().learn_name(made.room_id, name);
        Ok(made)
    }

    /// The status of the whole cluster, as one node sees it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<chat::GetServerStatusResponse, CallError> {
        let status = self.handle.caller.status(false, self.handle.patience).await?;
        self.handle.shared.nodes.observe_status(&status);
        Ok(status)
    }

    /// The status of the node at this address.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status_of(&self, address: &str) -> Result<chat::GetServerStatusResponse, CallError> {
        let question = chat::GetServerStatusRequest { local_only: true };
        let call = |mut chat: Chat, request| async move { chat.get_server_status(request).await };
        self.handle.caller.call_node(address, self.handle.patience, question, call).await
    }

    /// Pings the node at this address.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn ping(&self, address: &str) -> Result<Pong, CallError> {
        self.handle.caller.ping(address, self.handle.patience).await
    }

    /// The session of this client; without one only what is known of it.
    #[must_use]
    pub fn session(&self) -> Session {
        let shared = &self.handle.shared;
        if let Some(identity) = &shared.lock().session {
            return identity.session.clone();
        }
        let user = shared.nodes.reader().map(|reader| reader.user.clone());
        let cluster_id = shared.nodes.cluster().map(str::to_owned);
        Session {
            user: user.unwrap_or_default(),
            cluster_id: cluster_id.unwrap_or_default(),
            ..Session::default()
        }
    }

    /// The addresses of all known nodes, the preferred first.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.handle.shared.nodes.addresses()
    }

    /// The number of data shards of the cluster; 0 until it is known.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.handle.shared.nodes.shards()
    }

    /// The name of a room, if this client knows it.
    #[must_use]
    pub fn room_name(&self, room_id: u64) -> Option<Arc<str>> {
        self.handle.shared.lock().room_name(room_id)
    }

    /// Stops sending, ends the library's tasks, and writes the rest of a durable outbox to disk. Waiting tickets end
    /// with [`SendError::Closed`], and subscriptions with [`CallError::Closed`].
    pub async fn close(self) {
        self.handle.shared.close();
        self.handle.tracker.close();
        self.handle.tracker.wait().await;
        let writer = self.handle.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // The panic hook has already reported a panic of the writer.
            let _ = blocking(move || writer.join()).await;
        }
    }

    /// The calls about accounts and sessions, with what authorizes this client: its session, the token of
    /// [`Builder::login`](crate::Builder::login), or nothing.
    #[must_use]
    pub fn people(&self) -> People {
        People { handle: Arc::clone(&self.handle) }
    }

    async fn call<Q: Clone, A, F>(
        &self,
        question: Q,
        call: impl Fn(Chat, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        Box::pin(self.handle.caller.call(self.handle.patience, question, call)).await
    }
}
