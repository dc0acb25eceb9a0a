//! The server side of [`crate::peer::network`]: the calls that peers make to this node.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conclave_core::{NodeId, ShardId};
use conclave_net::Peer;
use conclave_proto::FormatError;
use conclave_proto::admin::{
    DrainRequest, DrainResponse, RebalanceRequest, RebalanceResponse, UndrainRequest, UndrainResponse,
};
use conclave_proto::chat::{LeaderHint, NodeStatus};
use conclave_proto::log::Entry;
use conclave_proto::log::entry::Payload;
use conclave_proto::raft::raft_service_server::RaftService;
use conclave_proto::raft::{self, append_entries_response::Result as Appended};
use conclave_store::{Raft, Store, TypeConfig, Work, convert};
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use openraft::{Snapshot, SnapshotMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::drain::Drain;
use crate::cluster::placement::Placement;
use crate::disk_space::{DiskSpace, Room};
use crate::limits::{ROOM_WAIT, SNAPSHOT_STALL};
use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::peer::check::{Dishonest, Known};
use crate::peer::introduce::Introductions;
use crate::peer::link::serve_link;
use crate::shard::{Replica, Shards};
use crate::status::local_status;

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Why a follower takes no commands and no snapshot.
const NO_ROOM: &str = "this node's disk has too little room";

/// The Raft service of one node.
#[derive(Clone, Debug)]
pub(crate) struct PeerService {
    pub(crate) introductions: Introductions,
    pub(crate) shards: Arc<Shards>,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
    pub(crate) node: Arc<NodeInfo>,
    pub(crate) placement: Placement,
    pub(crate) drain: Drain,
    /// The number of messages that were refused by [`crate::peer::check`].
    pub(crate) refused: Arc<AtomicU64>,
}

impl PeerService {
    async fn admit<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        self.introductions.admission.admit(request.metadata(), request.extensions().get::<Peer>()).await
    }

    fn replica(&self, shard: u32) -> Result<&Arc<Replica>, Status> {
        let replica = self.shards.replica(ShardId(shard));
        replica.ok_or_else(|| Status::not_found(format!("no replica of shard {shard}")))
    }

    fn raft(&self, shard: u32) -> Result<&Raft, Status> {
        self.replica(shard).map(|replica| &replica.raft)
    }

    /// Whether the disk has room for a leader's entries. Entries without commands are few and small, and a new leader needs
    /// one of them.
    async fn has_room_for(&self, message: &raft::AppendEntriesRequest) -> bool {
        let is_command = |entry: &Entry| matches!(entry.payload, Some(Payload::Normal(_)));
        !message.entries.iter().any(is_command) || self.waits_for_room().await
    }

    /// Whether the disk has room for what a leader sends. If not, waits up to [`ROOM_WAIT`], which slows down the leader's
    /// retries.
    async fn waits_for_room(&self) -> bool {
        if self.node.disk.room() != Room::Critical {
            return true;
        }
        let mut room = self.node.disk.subscribe();
        tokio::time::timeout(ROOM_WAIT, room.wait_for(|room| *room != Room::Critical)).await.is_ok()
    }

    /// Checks a message from a peer, or refuses it. A peer that goes on must not fill the log: the first refusal is
    /// logged, then the second, the fourth, and so on.
    fn check(
        &self,
        from: NodeId,
        replica: &Replica,
        check: impl FnOnce(&Known) -> Result<(), Dishonest>,
    ) -> Result<(), Status> {
        let (term, committed, applied) = {
            let metrics = replica.raft.metrics();
            let metrics = metrics.borrow_watched();
            let committed = metrics.local_committed.as_ref().map(convert::log_id_to_proto);
            (metrics.current_term, committed, metrics.last_applied >= metrics.local_committed)
        };
        let topology = &self.shards.topology;
        let known = Known {
            from,
            term,
            committed,
            applied,
            term_at: &|index| self.store.log_term(replica.shard, index),
            is_member: &|node| topology.member(node).is_some(),
            understands: replica.state.feature_level(),
        };
        check(&known).map_err(|error| {
            let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            if refused.is_power_of_two() {
                tracing::warn!(peer = from.0, shard = replica.shard.0, refused, %error, "message from peer refused");
            }
            Status::invalid_argument(error.to_string())
        })
    }

    /// Refuses a snapshot of a cluster that uses what this node does not know: its rows would be read without it.
    fn understands(&self, from: NodeId, replica: &Replica, level: u32) -> Result<(), Status> {
        let known = replica.state.feature_level();
        if level <= known {
            return Ok(());
        }
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if refused.is_power_of_two() {
            tracing::error!(
                peer = from.0,
                shard = replica.shard.0,
                level,
                known,
                refused,
                "snapshot of a newer version refused; upgrade this node, its data is intact"
            );
        }
        Err(Status::failed_precondition(format!(
            "the snapshot needs feature level {level} and this node knows {known}: upgrade the node"
        )))
    }
}

#[tonic::async_trait]
impl RaftService for PeerService {
    async fn request_vote(
        &self,
        request: Request<raft::RequestVoteRequest>,
    ) -> Result<Response<raft::RequestVoteResponse>, Status> {
        let from = self.admit(&request).await?;
        let message = request.into_inner();
        let replica = self.replica(message.shard)?;
        self.check(from, replica, |known| known.vote(&message))?;
        let raft = &replica.raft;
        let vote = read_vote(message.vote)?;
        let mut ask = VoteRequest::new(vote, message.last_log_id.map(convert::log_id_from_proto));
        ask.leadership_transfer = message.leadership_transfer;
        let term = vote.leader_id().term;
        let answer = if message.pre_vote { raft.pre_vote(ask).await } else { raft.vote(ask).await };
        let answer = answer.map_err(failed)?;
        if answer.vote_granted && !message.pre_vote {
            replica.heartbeats.voted(term, Instant::now());
        }
        Ok(Response::new(raft::RequestVoteResponse {
            vote: Some(convert::vote_to_proto(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(convert::log_id_to_proto),
        }))
    }

    async fn introduce(
        &self,
        request: Request<raft::IntroduceRequest>,
    ) -> Result<Response<raft::IntroduceResponse>, Status> {
        let from = self
            .introductions
            .admission
            .identify(request.metadata(), request.extensions().get::<Peer>())
            .await?;
        let host = request.extensions().get::<Peer>().map(|peer| peer.address.ip());
        let caller = request.into_inner().caller.unwrap_or_default();
        let port = u16::try_from(caller.peer_port).unwrap_or(0);
        self.introductions.accept(from, caller).await?;
        if let Some(host) = host {
            self.shards.topology.heard_from(from, host, port);
        }
        Ok(Response::new(raft::IntroduceResponse { callee: Some(self.introductions.own()) }))
    }

    type AppendEntriesStream = ResponseStream<raft::AppendEntriesResponse>;

    async fn append_entries(
        &self,
        request: Request<Streaming<raft::AppendEntriesRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let from = self.admit(&request).await?;
        let requests = request.into_inner();
        // The first request names the shard; opening the call must not wait for it. The connection's own task polls
        // all of this: a hand-over to another task for each entry would cost more than the entry.
        let answers = stream::once(append_stream(self.clone(), from, requests)).try_flatten();
        Ok(Response::new(Box::pin(answers.take_until(self.stop.clone().cancelled_owned()))))
    }

    async fn offer_snapshot(
        &self,
        request: Request<raft::OfferSnapshotRequest>,
    ) -> Result<Response<raft::OfferSnapshotResponse>, Status> {
        self.admit(&request).await?;
        let shard = ShardId(request.into_inner().shard);
        self.raft(shard.0)?;
        if !self.waits_for_room().await {
            return Err(Status::resource_exhausted(NO_ROOM));
        }
        let store = self.store.clone();
        let prefixes = self.store.work().block(move || store.prefixes(shard)).await.map_err(failed)?;
        let rooms = prefixes.map_err(failed)?.into_iter();
        let rooms = rooms.map(|(room, seq)| raft::RoomPrefix { room_id: room.0, last_seq: seq.0 }).collect();
        Ok(Response::new(raft::OfferSnapshotResponse { rooms }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<raft::SnapshotChunk>>,
    ) -> Result<Response<raft::InstallSnapshotResponse>, Status> {
        let from = self.admit(&request).await?;
        let began = Instant::now();
        let mut chunks = request.into_inner();
        let mut first =
            chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty snapshot"))?;
        let header =
            first.header.take().ok_or_else(|| Status::invalid_argument("a snapshot without a header"))?;
        let shard = ShardId(header.shard);
        let replica = self.replica(shard.0)?;
        self.check(from, replica, |known| known.snapshot(&header))?;
        self.understands(from, replica, header.feature_level)?;
        let raft = &replica.raft;
        let vote = read_vote(header.vote)?;
        let meta = SnapshotMeta {
            last_log_id: header.last_log_id.map(convert::log_id_from_proto),
            last_membership: convert::stored_membership_from_proto(header.membership),
        };
        let left_out =
            header.left_out.iter().map(|prefix| (prefix.room_id.into(), prefix.last_seq.into())).collect();
        let receiver =
            self.store.receive_snapshot(shard, meta.clone(), left_out, header.digest).map_err(failed)?;
        let data = receive(self.store.work(), &self.node.disk, receiver, first, &mut chunks).await?;
        let answer =
            raft.install_full_snapshot(vote, Snapshot { meta, snapshot: data }).await.map_err(failed)?;
        self.metrics.raft_snapshot_install.observe(began.elapsed().as_secs_f64());
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(shard = shard.0, peer = from.0, took_ms, "snapshot installed");
        Ok(Response::new(raft::InstallSnapshotResponse { vote: Some(convert::vote_to_proto(&answer.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<raft::TransferLeaderRequest>,
    ) -> Result<Response<raft::TransferLeaderResponse>, Status> {
        let caller = self.admit(&request).await?;
        let message = request.into_inner();
        let replica = self.replica(message.shard)?;
        self.check(caller, replica, |known| known.transfer(&message))?;
        let raft = &replica.raft;
        let from = read_vote(message.from_leader)?;
        if message.to == *raft.node_id() {
            replica.early_elections.transfer(from.leader_id().term);
        }
        let last = message.last_log_id.map(convert::log_id_from_proto);
        let answer = raft.handle_transfer_leader(TransferLeaderRequest::new(from, message.to, last)).await;
        let accepted = answer.map_err(failed)?.is_ok();
        Ok(Response::new(raft::TransferLeaderResponse { vote: None, accepted }))
    }

    async fn redirect_to_leader(
        &self,
        request: Request<raft::RedirectToLeaderRequest>,
    ) -> Result<Response<raft::RedirectToLeaderResponse>, Status> {
        self.admit(&request).await?;
        let shard = ShardId(request.into_inner().shard);
        self.raft(shard.0)?;
        Ok(Response::new(raft::RedirectToLeaderResponse { leader: self.leader_hint(shard) }))
    }

    type LinkStream = ResponseStream<raft::LinkResponse>;

    async fn link(
        &self,
        request: Request<Streaming<raft::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let from = self.admit(&request).await?;
        let answers = serve_link(request.into_inner(), Arc::clone(&self.shards), from);
        // Ends the stream as soon as the node stops, so that peers notice at once.
        let stop = self.stop.clone();
        Ok(Response::new(Box::pin(answers.take_until(stop.cancelled_owned()))))
    }

    async fn read_index(
        &self,
        request: Request<raft::ReadIndexRequest>,
    ) -> Result<Response<raft::ReadIndexResponse>, Status> {
        self.admit(&request).await?;
        let shard = ShardId(request.into_inner().shard);
        let replica = self
            .shards
            .replica(shard)
            .ok_or_else(|| Status::not_found(format!("no replica of shard {shard}")))?;
        let index =
            replica.read_index_as_leader().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(raft::ReadIndexResponse { index }))
    }

    async fn node_status(
        &self,
        request: Request<raft::NodeStatusRequest>,
    ) -> Result<Response<NodeStatus>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(local_status(&self.node, &self.shards, &self.store, &self.metrics)))
    }

    async fn move_clients(
        &self,
        request: Request<raft::MoveClientsRequest>,
    ) -> Result<Response<raft::MoveClientsResponse>, Status> {
        self.admit(&request).await?;
        let raft::MoveClientsRequest { sessions, targets, reason } = request.into_inner();
        // A client that moves shows its session's token to the target, so that only members are targets. A member that
        // this node does not know at that address yet is left out.
        let members = self.shards.topology.members();
        let is_member = |target: &String| members.values().any(|member| member.client == *target);
        let targets: Vec<String> = targets.into_iter().filter(is_member).collect();
        let asked = self.placement.move_clients(sessions, &targets, &reason)?;
        Ok(Response::new(raft::MoveClientsResponse { asked }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(self.drain.run_here(request.into_inner().force).await?))
    }

    async fn undrain(&self, request: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(self.drain.undo_here()?))
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(self.placement.rebalance_as_leader()?))
    }
}

impl PeerService {
    fn leader_hint(&self, shard: ShardId) -> Option<LeaderHint> {
        self.shards.get(shard)?.hint()
    }
}

/// Passes a follower's append requests to its Raft group, in order, and streams the responses.
async fn append_stream(
    service: PeerService,
    from: NodeId,
    mut requests: Streaming<raft::AppendEntriesRequest>,
) -> Result<ResponseStream<raft::AppendEntriesResponse>, Status> {
    let first = requests.message().await?.ok_or_else(|| Status::cancelled("nothing was sent"))?;
    let replica = Arc::clone(service.replica(first.shard)?);
    service.check(from, &replica, |known| known.append(&first))?;
    heard(&replica, &first);
    if !service.has_room_for(&first).await {
        return Err(Status::resource_exhausted(NO_ROOM));
    }
    let first = append_from_proto(first)?;
    let raft = replica.raft.clone();
    // A malformed request, or one that the disk has no room for, ends the stream: the leader reopens it and probes the log
    // again.
    let rest =
        stream::unfold((requests, service, replica), move |(mut requests, service, replica)| async move {
            let message = requests.message().await.ok()??;
            service.check(from, &replica, |known| known.append(&message)).ok()?;
            heard(&replica, &message);
            if !service.has_room_for(&message).await {
                return None;
            }
            Some((append_from_proto(message).ok()?, (requests, service, replica)))
        });
    let results = raft.stream_append(stream::iter([first]).chain(rest));
    Ok(Box::pin(results.map(|result| Ok(appended_to_proto(&result.map_err(failed)?)))))
}

/// Notes that the leader said something, unless it leads no more.
fn heard(replica: &Replica, message: &raft::AppendEntriesRequest) {
    let term = message.vote.as_ref().map_or(0, |vote| vote.term);
    if term >= replica.leader().term {
        replica.heartbeats.of_leader(term, Instant::now());
    }
}

async fn receive(
    work: Work,
    disk: &DiskSpace,
    mut receiver: conclave_store::SnapshotReceiver,
    first: raft::SnapshotChunk,
    chunks: &mut Streaming<raft::SnapshotChunk>,
) -> Result<conclave_store::SnapshotData, Status> {
    let mut next = Some(first);
    while let Some(chunk) = next {
        if disk.room() == Room::Critical {
            return Err(Status::resource_exhausted(NO_ROOM));
        }
        // Writing to disk blocks; a chunk is small, so one blocking call for each keeps memory bounded.
        receiver = work
            .block(move || receiver.chunk(&chunk).map(|()| receiver))
            .await
            .map_err(failed)?
            .map_err(|error| Status::data_loss(error.to_string()))?;
        let late =
            |_| Status::deadline_exceeded(format!("no chunk of the snapshot came for {SNAPSHOT_STALL:?}"));
        next = tokio::time::timeout(SNAPSHOT_STALL, chunks.message()).await.map_err(late)??;
    }
    work.block(move || receiver.finish())
        .await
        .map_err(failed)?
        .map_err(|error| Status::data_loss(error.to_string()))
}

fn append_from_proto(
    message: raft::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    Ok(AppendEntriesRequest {
        vote: read_vote(message.vote)?,
        prev_log_id: message.prev_log_id.map(convert::log_id_from_proto),
        leader_commit: message.leader_commit.map(convert::log_id_from_proto),
        entries: message
            .entries
            .into_iter()
            .map(convert::entry_from_proto)
            .collect::<Result<_, _>>()
            .map_err(malformed)?,
    })
}

fn appended_to_proto(result: &StreamAppendResult<TypeConfig>) -> raft::AppendEntriesResponse {
    let result = match result {
        Ok(log_id) => {
            Appended::Matched(raft::Matched { log_id: log_id.as_ref().map(convert::log_id_to_proto) })
        }
        Err(StreamAppendError::Conflict(log_id)) => Appended::Conflict(convert::log_id_to_proto(log_id)),
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(convert::vote_to_proto(vote)),
    };
    raft::AppendEntriesResponse { result: Some(result) }
}

fn read_vote(vote: Option<conclave_proto::log::Vote>) -> Result<conclave_store::Vote, Status> {
    vote.map(convert::vote_from_proto).ok_or_else(|| malformed(FormatError::Missing("vote")))
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn malformed(error: FormatError) -> Status {
    Status::invalid_argument(format!("a malformed message: {error}"))
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
