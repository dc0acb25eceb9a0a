//! `SendMessage` and `SendMessages`: translate client requests into commands, and replies into results.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use conclave_core::access::RoomKind;
use conclave_core::limits::{SEND_BATCH_MAX, SENDS_IN_FLIGHT_MAX};
use conclave_core::{Action, Command, Origin, Refusal, Reply, RequestNo, RoomId, ShardId};
use conclave_proto::action::from_content;
use conclave_proto::chat::{self, SendMessageRequest, SendMessageResponse, SendResult, send_result};
use conclave_proto::command::{Encoded, encode};
use conclave_proto::status::Failure;
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use crate::api::auth::Caller;
use crate::api::gateway::Gateway;
use crate::budget::{Budget, Share};
use crate::limits::{STREAM_ROOMS_MAX, STREAM_SENDS_BYTES_MAX};
use crate::local::duty::{DutyReceiver, until};
use crate::local_sessions::SendPermit;
use crate::metrics::Metrics;
use crate::router::Router;

/// Submits one request and waits until it is decided.
pub(crate) async fn send_one(
    gateway: &Gateway,
    caller: &Caller,
    request: SendMessageRequest,
) -> Result<SendMessageResponse, Failure> {
    let Gateway { router, metrics, .. } = gateway;
    let began = Instant::now();
    let room = router.room(request.room.as_ref(), caller.user).await?;
    let request_no = request.request_no;
    let result = async {
        if request.join_first && joins(router, caller, room).await? {
            decide(router, room, join(caller, room)).await?;
        }
        let command = command(router, caller, room, request, &mut None).await?;
        response(room, request_no, decide(router, room, command).await?)
    };
    let result = result.await;
    metrics.count_send(&result, began);
    result
}

/// Gets one room command decided; creates a room first that exists only in the room directory.
pub(crate) async fn decide(router: &Router, room: RoomId, command: Encoded) -> Result<Reply, Failure> {
    let shard = router.shards.of_room(room).id;
    let reply = one(router.submit(shard, vec![command.clone()]).await.await?)?;
    if reply != Reply::Refused(Refusal::RoomUnknown) {
        return Ok(reply);
    }
    router.open_room(room).await?;
    one(router.submit(shard, vec![command]).await.await?)
}

fn one(replies: Vec<Reply>) -> Result<Reply, Failure> {
    let reply = replies.into_iter().next();
    reply.ok_or_else(|| Failure::unknown("undecided", "the shard sent an empty answer"))
}

/// Whether a request that asks for it makes the caller a member of the room: an open room of which the caller is no
/// member, as far as this node knows. A room that its shard does not have yet is created there.
async fn joins(router: &Router, caller: &Caller, room: RoomId) -> Result<bool, Failure> {
    let Some(seen) = router.room_reader(room)?.seen_room(room, caller.user, caller.powers()).await? else {
        // Else the join would be refused because there is no room, and what comes behind it because there was no join.
        router.open_room(room).await?;
        return Ok(true);
    };
    Ok(seen.head.policy.kind == RoomKind::Open && !seen.member.is_some_and(|member| member.is_present()))
}

/// The command that makes the caller a member, without a request number: joining twice changes nothing.
pub(crate) fn join(caller: &Caller, room: RoomId) -> Encoded {
    let origin = origin(caller, RequestNo(0), RequestNo(0));
    encode(&Command::Act { room, origin, action: Action::Join })
}

fn origin(caller: &Caller, request: RequestNo, settled: RequestNo) -> Origin {
    Origin {
        session: caller.session,
        author: caller.user,
        author_name: caller.name.clone(),
        request,
        settled,
        powers: caller.powers(),
    }
}

/// The encoded command of a client's request. A request that no state can make valid is not replicated; its refusal
/// is, because a refused request uses up its number.
async fn command(
    router: &Router,
    caller: &Caller,
    room: RoomId,
    request: SendMessageRequest,
    asked: &mut Option<Result<(), Failure>>,
) -> Result<Encoded, Failure> {
    let unknown =
        || Failure::invalid("content_missing", "the request has no content that this version knows");
    let action = from_content(request.content.ok_or_else(unknown)?).map_err(|_| unknown())?;
    router.check_level(action.level())?;
    let action = match action.check() {
        Ok(()) => named(router, action, asked).await?,
        Err(refusal) => Action::Void { refusal, digest: action.digest() },
    };
    let request_no = RequestNo(request.request_no);
    if !request_no.is_numbered() && !action.is_idempotent() {
        return Err(Failure::Refused(Refusal::RequestNumberMissing));
    }
    let origin = origin(caller, request_no, RequestNo(request.settled_no));
    Ok(encode(&Command::Act { room, origin, action }))
}

/// The action with the user whom it concerns.
async fn named(
    router: &Router,
    mut action: Action,
    asked: &mut Option<Result<(), Failure>>,
) -> Result<Action, Failure> {
    if let Some(target) = action.target() {
        let user = router.user_of_several(&target.name, asked).await?;
        action.stamp_target(user);
    }
    Ok(action)
}

fn response(room: RoomId, request_no: u64, reply: Reply) -> Result<SendMessageResponse, Failure> {
    let base = SendMessageResponse { room_id: room.0, request_no, ..SendMessageResponse::default() };
    match reply {
        Reply::Acked { seq, time_ms, duplicate } => {
            Ok(SendMessageResponse { seq: seq.0, time_ms, duplicate, ..base })
        }
        Reply::Unchanged | Reply::Done => Ok(base),
        Reply::Forgotten => Ok(SendMessageResponse { duplicate: true, answer_forgotten: true, ..base }),
        Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
        other @ (Reply::RoomCreated { .. } | Reply::SessionOpened { .. } | Reply::Account { .. }) => {
            Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}")))
        }
    }
}

/// A client's `SendMessages` stream: reads requests while fewer than the maximum are in flight, and answers each.
pub(crate) struct SendStream {
    requests: Streaming<chat::SendBatch>,
    router: Router,
    metrics: Arc<Metrics>,
    caller: Caller,
    /// Cancelled when the node drains: requests in flight are still answered, then the stream ends and the client
    /// continues on another node.
    duty: DutyReceiver,
    permit: SendPermit,
    open: bool,
    next_index: u64,
    in_flight: usize,
    budget: Budget,
    /// A frame that waits for its share of the budget. No further one is read meanwhile.
    waiting: Option<Waiting>,
    /// Size of the frames in flight, bytes; shared with their shares of the budget.
    bytes_in_flight: Arc<AtomicUsize>,
    pending: FuturesUnordered<Pending>,
    /// Results that are not handed to the transport yet.
    ready: VecDeque<SendResult>,
    /// Rooms whose first request was read.
    rooms: BTreeSet<RoomId>,
}

/// The results of the requests of one frame that belong to one shard.
type Pending = Pin<Box<dyn Future<Output = Vec<SendResult>> + Send>>;

/// The results of a [`SendStream`], which runs in a task of its own until this is dropped: nobody polls the results of a
/// client that takes none, and its requests must give back their shares of the budget all the same.
struct Results {
    results: mpsc::Receiver<Result<chat::SendResults, Status>>,
    _task: AbortOnDropHandle<()>,
}

impl Stream for Results {
    type Item = Result<chat::SendResults, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.results.poll_recv(context)
    }
}

/// A frame, and the share that it waits for.
struct Waiting {
    batch: chat::SendBatch,
    share: Pin<Box<dyn Future<Output = Result<Share, Failure>> + Send>>,
}

/// A frame in flight has a share of the budget until all of its requests are decided.
struct Held {
    _share: Share,
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Waits for the share of the frame that waits, if one does.
async fn share(waiting: &mut Option<Waiting>) -> Result<Share, Failure> {
    match waiting {
        Some(waiting) => waiting.share.as_mut().await,
        None => std::future::pending().await,
    }
}

/// A request in flight: its position in the stream, its room and its number.
struct Sent {
    /// `None` for a join that the stream puts before a room's first request: nobody waits for its result.
    index: Option<u64>,
    room: RoomId,
    request_no: u64,
    command: Encoded,
}

impl SendStream {
    pub(crate) fn open(
        requests: Streaming<chat::SendBatch>,
        gateway: &Gateway,
        caller: Caller,
        permit: SendPermit,
    ) -> impl Stream<Item = Result<chat::SendResults, Status>> + Send + use<> {
        let state = Self {
            requests,
            router: gateway.router.clone(),
            metrics: Arc::clone(&gateway.metrics),
            caller,
            duty: gateway.node.duty.subscribe(),
            permit,
            open: true,
            next_index: 0,
            in_flight: 0,
            budget: gateway.budget.clone(),
            waiting: None,
            bytes_in_flight: Arc::default(),
            pending: FuturesUnordered::new(),
            ready: VecDeque::new(),
            rooms: BTreeSet::new(),
        };
        let (sender, results) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            if let Err(status) = state.run(&sender).await {
                // The client may be gone.
                let _ = sender.send(Err(status)).await;
            }
        });
        Results { results, _task: AbortOnDropHandle::new(task) }
    }

    /// Serves the stream until it has ended and everything is answered.
    async fn run(mut self, results: &mpsc::Sender<Result<chat::SendResults, Status>>) -> Result<(), Status> {
        let ended = self.permit.ended();
        loop {
            tokio::select! {
                biased;
                Some(done) = self.pending.next(), if !self.pending.is_empty() => self.complete(done),
                place = results.reserve(), if !self.ready.is_empty() => {
                    let Ok(place) = place else { return Ok(()) };
                    place.send(Ok(self.drain()));
                }
                share = share(&mut self.waiting), if self.waiting.is_some() => {
                    let Some(Waiting { batch, .. }) = self.waiting.take() else { continue };
                    match share {
                        Ok(share) => self.accept(batch, share).await,
                        Err(failure) => self.fail(&batch, &failure),
                    }
                }
                message = self.requests.message(), if self.reads_on() => {
                    match message {
                        Ok(Some(batch)) => self.receive(batch).await?,
                        Ok(None) => self.open = false,
                        Err(status) => return Err(status),
                    }
                }
                // Without the condition the stream would wait for the end of its session once everything is answered.
                () = ended.cancelled(), if self.open || !self.pending.is_empty() => return Err(Failure::Refused(Refusal::SessionEnded).into()),
                () = until(&mut self.duty, |duty| duty.is_drained()), if self.open => {
                    self.open = false;
                    // Nothing of it was accepted: the client sends it to another node.
                    self.waiting = None;
                }
                else => return Ok(()),
            }
        }
    }

    fn reads_on(&self) -> bool {
        self.open
            && self.waiting.is_none()
            && self.in_flight + self.ready.len() < SENDS_IN_FLIGHT_MAX
            && self.bytes_in_flight.load(Ordering::Relaxed) < STREAM_SENDS_BYTES_MAX
    }

    fn complete(&mut self, results: Vec<SendResult>) {
        self.in_flight = self.in_flight.saturating_sub(results.len());
        self.ready.extend(results);
    }

    /// The next frame of results.
    fn drain(&mut self) -> chat::SendResults {
        let count = self.ready.len().min(SEND_BATCH_MAX);
        chat::SendResults { results: self.ready.drain(..count).collect() }
    }

    /// Accepts a frame, or lets it wait for its share of the budget.
    async fn receive(&mut self, batch: chat::SendBatch) -> Result<(), Failure> {
        // Checked before the frame may wait: a decoded request without content takes fifty times its encoded size.
        if batch.sends.len() > SEND_BATCH_MAX {
            let why = format!("a frame has at most {SEND_BATCH_MAX} requests, not {}", batch.sends.len());
            return Err(Failure::invalid("frame_too_large", why));
        }
        let bytes = batch.encoded_len();
        match self.budget.try_sends(bytes) {
            Some(share) => self.accept(batch, share).await,
            None => self.waiting = Some(Waiting { batch, share: Box::pin(self.budget.sends(bytes)) }),
        }
        Ok(())
    }

    /// Answers each request of a frame with this failure.
    fn fail(&mut self, batch: &chat::SendBatch, failure: &Failure) {
        let began = Instant::now();
        for _ in &batch.sends {
            let result = Err(failure.clone());
            self.metrics.count_send(&result, began);
            self.ready.push_back(to_result(self.next_index, result));
            self.next_index += 1;
        }
    }

    async fn accept(&mut self, batch: chat::SendBatch, share: Share) {
        let bytes = batch.encoded_len();
        self.bytes_in_flight.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { _share: share, bytes, of: Arc::clone(&self.bytes_in_flight) };
        let began = Instant::now();
        let mut shards: BTreeMap<ShardId, Vec<Sent>> = BTreeMap::new();
        let mut asked = None;
        for request in batch.sends {
            let index = self.next_index;
            self.next_index += 1;
            match prepare(&self.router, &self.caller, index, request, &mut asked, &mut self.rooms).await {
                Ok((join, sent)) => {
                    let shard = self.router.shards.of_room(sent.room).id;
                    shards.entry(shard).or_default().extend(join.into_iter().chain([sent]));
                }
                Err(failure) => {
                    let result = Err(failure);
                    self.metrics.count_send(&result, began);
                    self.ready.push_back(to_result(index, result));
                }
            }
        }
        let held = Arc::new(held);
        for (shard, sent) in shards {
            self.hand_over(shard, sent, began, Arc::clone(&held)).await;
        }
    }

    /// Submits one shard's requests before the next frame is read. So the leader receives them in the order of the
    /// stream.
    async fn hand_over(&mut self, shard: ShardId, sent: Vec<Sent>, began: Instant, held: Arc<Held>) {
        self.in_flight += sent.iter().filter(|sent| sent.index.is_some()).count();
        let commands = sent.iter().map(|sent| sent.command.clone()).collect();
        let replies = self.router.submit(shard, commands).await;
        let router = self.router.clone();
        let metrics = Arc::clone(&self.metrics);
        self.pending.push(Box::pin(async move {
            let replies = replies.await;
            let mut results = Vec::with_capacity(sent.len());
            match replies {
                Ok(replies) => {
                    for (sent, reply) in sent.into_iter().zip(replies) {
                        let Some(index) = sent.index else { continue };
                        let reply = match reply {
                            Reply::Refused(Refusal::RoomUnknown) => {
                                decide(&router, sent.room, sent.command).await
                            }
                            reply => Ok(reply),
                        };
                        let result = reply.and_then(|reply| response(sent.room, sent.request_no, reply));
                        metrics.count_send(&result, began);
                        results.push(to_result(index, result));
                    }
                }
                Err(failure) => {
                    for index in sent.into_iter().filter_map(|sent| sent.index) {
                        let result = Err(failure.clone());
                        metrics.count_send(&result, began);
                        results.push(to_result(index, result));
                    }
                }
            }
            drop(held);
            results
        }));
    }
}

async fn prepare(
    router: &Router,
    caller: &Caller,
    index: u64,
    request: SendMessageRequest,
    asked: &mut Option<Result<(), Failure>>,
    rooms: &mut BTreeSet<RoomId>,
) -> Result<(Option<Sent>, Sent), Failure> {
    let room = router.room_of_several(request.room.as_ref(), caller.user, asked).await?;
    let SendMessageRequest { request_no, join_first, .. } = request;
    let command = command(router, caller, room, request, asked).await?;
    let joins = !rooms.contains(&room) && join_first && joins(router, caller, room).await?;
    // A stream may name many rooms; those beyond the bound are looked up again with each request.
    if rooms.len() < STREAM_ROOMS_MAX {
        rooms.insert(room);
    }
    let join = joins.then(|| Sent { index: None, room, request_no: 0, command: join(caller, room) });
    Ok((join, Sent { index: Some(index), room, request_no, command }))
}

fn to_result(index: u64, result: Result<SendMessageResponse, Failure>) -> SendResult {
    let outcome = match result {
        Ok(response) => send_result::Outcome::Ack(response),
        Err(failure) => send_result::Outcome::Failure((&failure).into()),
    };
    SendResult { index, outcome: Some(outcome) }
}
