//! openraft's network over gRPC.
//!
//! Entries use one stream per (shard, follower), with as many requests in flight as HTTP/2's flow control permits.
//! Heartbeats have their own streams and votes are unary calls, so that neither waits behind entries.

mod snapshot;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_core::ShardId;
use conclave_proto::raft::{self, append_entries_response::Result as Appended};
use conclave_store::{TypeConfig, Vote, convert};
use futures::Stream;
use futures::stream::{self, StreamExt as _};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse,
};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use prometheus::{Histogram, IntCounter};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::metrics::Metrics;
use crate::peer::admission::Admission;
use crate::peer::echo::Call;
use crate::peer::probe::Probe;
use crate::peer::{Peer, PeerClient, Peers};
use crate::shard::confirmations::Confirmations;

/// openraft reopens a broken stream without any delay; this delay is added.
const RECONNECT_PAUSE: Duration = Duration::from_millis(30);

type RpcError = RPCError<TypeConfig>;

/// Creates the connections of one shard's group.
#[derive(Clone, Debug)]
pub(crate) struct Factory {
    pub(crate) shard: ShardId,
    pub(crate) peers: Arc<Peers>,
    pub(crate) admission: Admission,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) confirmations: Arc<Confirmations>,
}

/// One shard's connection to one other replica.
#[derive(Debug)]
pub(crate) struct PeerNetwork {
    shard: ShardId,
    target: u64,
    peer: Option<Arc<Peer>>,
    heartbeat: bool,
    heartbeat_stream: Option<HeartbeatStream>,
    confirmations: Arc<Confirmations>,
    rtt: Histogram,
    append: Histogram,
    append_failures: IntCounter,
    admission: Admission,
    metrics: Arc<Metrics>,
}

/// A stream of heartbeats.
#[derive(Debug)]
struct HeartbeatStream {
    requests: mpsc::Sender<raft::AppendEntriesRequest>,
    answers: Streaming<raft::AppendEntriesResponse>,
}

impl HeartbeatStream {
    async fn open(client: &mut PeerClient) -> Result<Self, Status> {
        let (requests, queue) = mpsc::channel(1);
        let response = client.append_entries(tokio_stream::wrappers::ReceiverStream::new(queue)).await?;
        Ok(Self { requests, answers: response.into_inner() })
    }

    async fn exchange(
        &mut self,
        request: raft::AppendEntriesRequest,
    ) -> Result<raft::AppendEntriesResponse, Status> {
        let ended = || Status::unavailable("the stream of heartbeats ended");
        self.requests.send(request).await.map_err(|_| ended())?;
        self.answers.message().await?.ok_or_else(ended)
    }
}

impl Factory {
    fn make(&self, target: u64, heartbeat: bool) -> PeerNetwork {
        let peer = self.peers.get(target.into()).cloned();
        let name = peer.as_ref().map_or_else(|| target.to_string(), |peer| peer.name.clone());
        PeerNetwork {
            shard: self.shard,
            target,
            peer,
            heartbeat,
            heartbeat_stream: None,
            confirmations: Arc::clone(&self.confirmations),
            rtt: self.metrics.raft_peer_rtt.with_label_values(&[&name]),
            append: self.metrics.raft_peer_append.with_label_values(&[&name]),
            append_failures: self.metrics.raft_peer_append_failures.with_label_values(&[&name]),
            admission: self.admission.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> PeerNetwork {
        self.make(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &openraft::EmptyNode) -> PeerNetwork {
        self.make(target, true)
    }
}

impl PeerNetwork {
    fn peer(&self) -> Result<&Arc<Peer>, RpcError> {
        let unknown =
            || RPCError::Unreachable(Unreachable::from_string(format!("node {} is not known", self.target)));
        self.peer.as_ref().ok_or_else(unknown)
    }

    fn failed(&self, status: &Status) -> RpcError {
        self.admission.watch(status);
        RPCError::Unreachable(Unreachable::from_string(format!("node {}: {status}", self.target)))
    }

    fn append_failed(&self, status: &Status) -> RpcError {
        self.append_failures.inc();
        self.failed(status)
    }

    /// Records an answer that shows that the follower knows of no later term.
    fn confirm(&self, result: &StreamAppendResult<TypeConfig>, term: u64, round: u64) {
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            self.confirmations.answered(self.target, term, round);
        }
    }

    async fn open_append<S>(
        &mut self,
        input: S,
    ) -> Result<BoxStream<'_, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let shard = self.shard;
        let probe = Arc::new(Probe::default());
        let outgoing = Arc::clone(&probe);
        // Each request of the stream gets one answer, in order.
        let in_flight = Arc::new(Mutex::new(VecDeque::new()));
        let sent = Arc::clone(&in_flight);
        let confirmations = Arc::clone(&self.confirmations);
        let peer = Arc::clone(self.peer()?);
        let mut client = peer.client();
        let requests = input.map(move |request| {
            outgoing.sent(!request.entries.is_empty());
            lock(&sent).push_back((request.vote.leader_id().term, confirmations.round()));
            let message = append_to_proto(shard, &request);
            peer.observe(|| Call::Append(message.clone()));
            message
        });
        match client.append_entries(requests).await {
            Ok(response) => {
                let answers = response.into_inner().map(move |answer| match answer {
                    Ok(answer) => {
                        if let Some(took) = probe.answered() {
                            self.append.observe(took.as_secs_f64());
                        }
                        let request = lock(&in_flight).pop_front();
                        let result = appended(answer)?;
                        if let Some((term, round)) = request {
                            self.confirm(&result, term, round);
                        }
                        Ok(result)
                    }
                    Err(status) => Err(self.append_failed(&status)),
                });
                Ok(Box::pin(answers))
            }
            Err(status) => {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                Err(self.append_failed(&status))
            }
        }
    }

    /// Sends one heartbeat over a stream that stays open between heartbeats: nine groups send forty a second each, and
    /// a call for each heartbeat would cost an idle node more than all its other work.
    async fn send_heartbeat(
        &mut self,
        request: &AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let began = Instant::now();
        let round = self.confirmations.round();
        let message = append_to_proto(self.shard, request);
        // After any error, the next heartbeat opens a new stream: an answer always belongs to the last heartbeat.
        let stream = self.heartbeat_stream.take();
        let mut client = self.peer()?.client();
        let exchange = async {
            let mut stream = match stream {
                Some(stream) => stream,
                None => HeartbeatStream::open(&mut client).await?,
            };
            let answer = stream.exchange(message).await?;
            Ok::<_, Status>((stream, answer))
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok((stream, answer))) => {
                self.rtt.observe(began.elapsed().as_secs_f64());
                let result = appended(answer)?;
                self.confirm(&result, request.vote.leader_id().term, round);
                self.heartbeat_stream = result.is_ok().then_some(stream);
                Ok(result)
            }
            Ok(Err(status)) => Err(self.append_failed(&status)),
            Err(_) => Err(self.append_failed(&Status::deadline_exceeded("heartbeat"))),
        }
    }

    async fn request_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let peer = self.peer()?;
        let mut client = peer.client();
        let message = raft::RequestVoteRequest {
            shard: self.shard.0,
            vote: Some(convert::vote_to_proto(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(convert::log_id_to_proto),
            pre_vote,
            leadership_transfer: request.leadership_transfer,
        };
        peer.observe(|| Call::Vote(message));
        let answer = match tokio::time::timeout(option.hard_ttl(), client.request_vote(message)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(self.failed(&status)),
            Err(_) => return Err(self.failed(&Status::deadline_exceeded("vote"))),
        };
        let vote = read_vote(answer.vote)?;
        let last = answer.last_log_id.map(convert::log_id_from_proto);
        Ok(VoteResponse::new(vote, last, answer.granted))
    }
}

impl NetStreamAppend<TypeConfig> for PeerNetwork {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if !self.heartbeat {
            return Box::pin(self.open_append(input));
        }
        let timeout = option.hard_ttl();
        Box::pin(async move {
            let heartbeats = stream::unfold((self, input), move |(network, mut input)| async move {
                let request = input.next().await?;
                let answer = network.send_heartbeat(&request, timeout).await;
                Some((answer, (network, input)))
            });
            Ok(Box::pin(heartbeats) as BoxStream<'s, _>)
        })
    }
}

impl NetVote<TypeConfig> for PeerNetwork {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.request_vote(request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.request_vote(request, true, &option).await
    }
}

impl NetTransferLeader<TypeConfig> for PeerNetwork {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut client = self.peer()?.client();
        let message = raft::TransferLeaderRequest {
            shard: self.shard.0,
            from_leader: Some(convert::vote_to_proto(request.from_leader())),
            to: *request.to_node_id(),
            last_log_id: request.last_log_id().map(convert::log_id_to_proto),
        };
        match tokio::time::timeout(option.hard_ttl(), client.transfer_leader(message)).await {
            Ok(Ok(_)) => Ok(Ok(())),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.failed(&Status::deadline_exceeded("transfer leader"))),
        }
    }
}

impl NetBackoff<TypeConfig> for PeerNetwork {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

/// Locks a queue that no code can leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn append_to_proto(shard: ShardId, request: &AppendEntriesRequest<TypeConfig>) -> raft::AppendEntriesRequest {
    raft::AppendEntriesRequest {
        shard: shard.0,
        vote: Some(convert::vote_to_proto(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(convert::log_id_to_proto),
        leader_commit: request.leader_commit.as_ref().map(convert::log_id_to_proto),
        entries: request.entries.iter().map(convert::entry_to_proto).collect(),
    }
}

fn appended(answer: raft::AppendEntriesResponse) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
    match answer.result {
        Some(Appended::Matched(matched)) => Ok(Ok(matched.log_id.map(convert::log_id_from_proto))),
        Some(Appended::Conflict(log_id)) => {
            Ok(Err(StreamAppendError::Conflict(convert::log_id_from_proto(log_id))))
        }
        Some(Appended::HigherVote(vote)) => {
            let vote = convert::vote_from_proto(vote);
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        None => Err(RPCError::Network(NetworkError::from_string("the answer to an append is empty"))),
    }
}

fn read_vote(vote: Option<conclave_proto::log::Vote>) -> Result<Vote, RpcError> {
    let missing = || RPCError::Network(NetworkError::from_string("an answer without a vote"));
    vote.map(convert::vote_from_proto).ok_or_else(missing)
}
