//! Links: one stream from each node to each other one.
//!
//! A link carries the proposals for shards that the other node leads, in order, and their results. It is also the
//! first to detect that the other process died: when the link breaks and a new connection is refused, no replica needs to
//! wait for an election timeout.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conclave_core::limits::SEND_BATCH_MAX;
use conclave_core::people::powers_of;
use conclave_core::{Command, NodeId, Reply, SessionId, ShardId, UserId, level};
use conclave_net::Net;
use conclave_proto::chat::{self, Certainty};
use conclave_proto::command::Encoded;
use conclave_proto::raft::{self, proposal_result::Outcome};
use conclave_proto::reply;
use conclave_proto::status::{DISK_FULL, DISK_FULL_RETRY, Failure, NOT_YET, NOT_YET_RETRY};
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::limits::{ENTRY_BYTES_MAX, FORWARD_QUEUE_MAX};
use crate::peer::Peer;
use crate::peer::echo::Call;
use crate::peer::introduce::Introductions;
use crate::shard::{ProposeError, ProposeResult, Replica, Shards};

/// Pause between two attempts to open a link.
const RETRY: Duration = Duration::from_millis(50);
/// A working network refuses a connection at once; a longer silence means a slow network, not a dead process.
const PROBE_TIMEOUT: Duration = Duration::from_millis(50);
/// How often a process that still accepts connections is probed again, and the pause between probes.
const PROBES: u32 = 8;
const PROBE_PAUSE: Duration = Duration::from_millis(3);
/// The code of a refusal that no repetition changes.
const PROPOSAL_INVALID: &str = "proposal_invalid";
/// Maximum number of results in one message.
const RESULTS_MAX: usize = 256;

/// Commands of one shard to forward to its leader's node.
#[derive(Debug)]
pub(crate) struct ForwardedProposal {
    pub(crate) shard: ShardId,
    pub(crate) commands: Vec<Encoded>,
    pub(crate) answer: oneshot::Sender<ProposeResult>,
}

/// Keeps the link to one peer open while the node runs. Sends the peer to `died` when its process is gone.
pub(crate) async fn maintain_link(
    net: Net,
    introductions: Introductions,
    peer: Arc<Peer>,
    mut queue: mpsc::Receiver<ForwardedProposal>,
    died: mpsc::Sender<NodeId>,
    stop: CancellationToken,
) {
    loop {
        let ended = tokio::select! {
            ended = run_link(&introductions, &peer, &mut queue) => ended,
            () = stop.cancelled() => return,
        };
        let was_alive = peer.alive.send_replace(false);
        if was_alive {
            tracing::info!(peer = peer.id.0, name = peer.name, reason = %ended, "link lost");
            if !peer.is_cut() && refuses_connections(&net, &peer.address()).await {
                // A full channel means that this death is queued already.
                let _ = died.try_send(peer.id);
            }
        }
        // Proposals queued for this link take another way, or wait for the next leader.
        while let Ok(forwarded) = queue.try_recv() {
            let _ = forwarded.answer.send(Err(ProposeError::NotSent { leader: None }));
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Runs one connection of the link until it breaks.
async fn run_link(
    introductions: &Introductions,
    peer: &Peer,
    queue: &mut mpsc::Receiver<ForwardedProposal>,
) -> Status {
    let (requests, outgoing) = mpsc::channel(4);
    let mut client = peer.client();
    let turn = peer.turn();
    if let Err(status) = introductions.introduce(peer).await {
        peer.give_up(turn);
        return status;
    }
    let mut answers = match client.link(tokio_stream::wrappers::ReceiverStream::new(outgoing)).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            peer.give_up(turn);
            return status;
        }
    };
    if !peer.alive.send_replace(true) {
        tracing::info!(peer = peer.id.0, name = peer.name, "link up");
    }
    let mut waiting: HashMap<u64, oneshot::Sender<ProposeResult>> = HashMap::new();
    let mut next_id = 0;
    let ended = loop {
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(response)) => complete(response, &mut waiting),
                Ok(None) => break Status::unavailable("the peer closed the link"),
                Err(status) => break status,
            },
            first = queue.recv(), if waiting.len() < FORWARD_QUEUE_MAX => {
                let Some(first) = first else { break Status::cancelled("the node stops") };
                let request = collect(first, queue, &mut waiting, &mut next_id);
                peer.observe(|| Call::Propose(request.clone()));
                if requests.send(request).await.is_err() {
                    break Status::unavailable("the link broke");
                }
            }
        }
    };
    for (_, answer) in waiting.drain() {
        let _ = answer.send(Err(ProposeError::Unknown("the link to the leader broke".to_owned())));
    }
    ended
}

/// Puts all queued proposals into one request, up to a bound.
fn collect(
    first: ForwardedProposal,
    queue: &mut mpsc::Receiver<ForwardedProposal>,
    waiting: &mut HashMap<u64, oneshot::Sender<ProposeResult>>,
    next_id: &mut u64,
) -> raft::LinkRequest {
    let mut proposals = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(forwarded) = next {
        bytes += forwarded.commands.iter().map(Encoded::len).sum::<usize>();
        *next_id += 1;
        waiting.insert(*next_id, forwarded.answer);
        proposals.push(raft::Proposal {
            id: *next_id,
            shard: forwarded.shard.0,
            min_level: forwarded.commands.iter().map(Encoded::level).max().unwrap_or(level::FIRST),
            commands: forwarded.commands.into_iter().map(Encoded::into_bytes).collect(),
        });
        let full = bytes >= ENTRY_BYTES_MAX || proposals.len() >= SEND_BATCH_MAX;
        next = if full { None } else { queue.try_recv().ok() };
    }
    raft::LinkRequest { proposals }
}

fn complete(response: raft::LinkResponse, waiting: &mut HashMap<u64, oneshot::Sender<ProposeResult>>) {
    for result in response.results {
        let Some(answer) = waiting.remove(&result.id) else {
            continue;
        };
        // The caller may have given up.
        let _ = answer.send(outcome(result.outcome));
    }
}

fn outcome(outcome: Option<Outcome>) -> ProposeResult {
    let unknown = |why: String| Err(ProposeError::Unknown(why));
    match outcome {
        Some(Outcome::Replies(replies)) => {
            let replies: Result<Vec<Reply>, _> = replies.replies.iter().map(reply::from_proto).collect();
            replies.or_else(|error| unknown(error.to_string()))
        }
        Some(Outcome::Failure(failure))
            if failure.certainty() == Certainty::NotSent && failure.code == NOT_YET =>
        {
            Err(ProposeError::NotUnderstood(failure.message))
        }
        Some(Outcome::Failure(failure))
            if failure.certainty() == Certainty::NotSent && failure.code == PROPOSAL_INVALID =>
        {
            Err(ProposeError::Invalid(failure.message))
        }
        Some(Outcome::Failure(failure))
            if failure.certainty() == Certainty::NotSent && failure.code == DISK_FULL =>
        {
            Err(ProposeError::DiskFull)
        }
        Some(Outcome::Failure(failure)) if failure.certainty() == Certainty::NotSent => {
            let leader = failure.leader.map(|hint| NodeId(hint.node_id)).filter(|node| node.0 != 0);
            Err(ProposeError::NotSent { leader })
        }
        Some(Outcome::Failure(failure)) => unknown(failure.message),
        None => unknown("the leader's node sent an empty answer".to_owned()),
    }
}

/// The server side: passes proposals to this node's replicas in order of arrival and streams each result as it is
/// decided.
pub(crate) fn serve_link(
    requests: Streaming<raft::LinkRequest>,
    shards: Arc<Shards>,
    from: NodeId,
) -> impl Stream<Item = Result<raft::LinkResponse, Status>> + Send + 'static {
    let state =
        Serving { requests, shards, from, pending: FuturesUnordered::new(), open: true, has_warned: false };
    futures::stream::unfold(state, |mut state| async move {
        let response = state.next().await?;
        Some((response, state))
    })
}

struct Serving {
    requests: Streaming<raft::LinkRequest>,
    shards: Arc<Shards>,
    /// The peer.
    from: NodeId,
    pending: FuturesUnordered<Pending>,
    open: bool,
    /// A refused proposal has been logged.
    has_warned: bool,
}

/// Why a proposal of a peer is refused. Nothing of it was appended.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// A newer version's command.
    #[error("{0}")]
    NotYet(String),
    /// A command above the feature level that this node has applied. The peer that passed it on knows the higher level, so
    /// this node is about to apply it; the other commands of the proposal must not be refused for that.
    #[error("feature level {needs} is not applied here, only {applied}")]
    LevelUnknown { needs: u32, applied: u32 },
    /// This node has not applied the session's opening yet, or there is no such session.
    #[error("session {0} is not known here")]
    SessionUnknown(SessionId),
    /// No honest peer proposes this.
    #[error("no honest peer proposes this: {0}")]
    Invalid(String),
}

impl From<Refused> for chat::Failure {
    fn from(refused: Refused) -> Self {
        let why = refused.to_string();
        let failure = match refused {
            Refused::NotYet(why) => Failure::not_sent(NOT_YET, why, NOT_YET_RETRY),
            Refused::LevelUnknown { .. } => Failure::not_sent("level_not_applied", why, Duration::ZERO),
            Refused::SessionUnknown(_) => Failure::not_sent("session_not_applied", why, Duration::ZERO),
            Refused::Invalid(_) => Failure::not_sent(PROPOSAL_INVALID, why, Duration::ZERO),
        };
        Self::from(&failure)
    }
}

type Pending = std::pin::Pin<Box<dyn Future<Output = raft::ProposalResult> + Send>>;

impl Serving {
    async fn next(&mut self) -> Option<Result<raft::LinkResponse, Status>> {
        loop {
            let room = self.pending.len() < FORWARD_QUEUE_MAX;
            tokio::select! {
                biased;
                Some(result) = self.pending.next(), if !self.pending.is_empty() => {
                    return Some(Ok(self.collect(result)));
                }
                message = self.requests.message(), if self.open && room => match message {
                    Ok(Some(request)) => self.accept(request).await,
                    Ok(None) => self.open = false,
                    Err(status) => return Some(Err(status)),
                },
                else => return None,
            }
        }
    }

    /// Puts all results that are available already into one response.
    fn collect(&mut self, first: raft::ProposalResult) -> raft::LinkResponse {
        let mut results = vec![first];
        while results.len() < RESULTS_MAX {
            match futures::FutureExt::now_or_never(self.pending.next()) {
                Some(Some(result)) => results.push(result),
                _ => break,
            }
        }
        raft::LinkResponse { results }
    }

    async fn accept(&mut self, request: raft::LinkRequest) {
        for proposal in request.proposals {
            let shard = ShardId(proposal.shard);
            let id = proposal.id;
            let Some(replica) = self.shards.replica(shard).cloned() else {
                let refused = failure(id, ProposeError::NotSent { leader: None }, None);
                self.pending.push(Box::pin(std::future::ready(refused)));
                continue;
            };
            // Appended commands cannot be taken back, and an entry that replicas do not understand would stop all of
            // them.
            let commands = match acceptable(
                &self.shards,
                self.from,
                &replica,
                proposal.commands,
                proposal.min_level,
            )
            .await
            {
                Ok(commands) => commands,
                Err(why) => {
                    // A peer that repeats the proposal must not fill the log.
                    if !matches!(why, Refused::SessionUnknown(_))
                        && !std::mem::replace(&mut self.has_warned, true)
                    {
                        tracing::warn!(peer = self.from.0, shard = shard.0, %why, "proposal from peer refused");
                    }
                    let refused = raft::ProposalResult { id, outcome: Some(Outcome::Failure(why.into())) };
                    self.pending.push(Box::pin(std::future::ready(refused)));
                    continue;
                }
            };
            // Submitting in order, before the next proposal is read, keeps each sender's order.
            let answer = replica.propose(commands).await;
            let shards = Arc::clone(&self.shards);
            self.pending.push(Box::pin(async move {
                match answer.await {
                    Ok(replies) => {
                        let replies = replies.into_iter().map(reply::to_proto).collect();
                        raft::ProposalResult {
                            id,
                            outcome: Some(Outcome::Replies(raft::Replies { replies })),
                        }
                    }
                    Err(error) => failure(id, error, shards.get(shard).and_then(|shard| shard.hint())),
                }
            }));
        }
    }
}

/// The commands, if this node understands all of them, the cluster's feature level allows them, and the peer may
/// propose them. This node may lag behind the peer: then it refuses too much, and the peer tries again.
async fn acceptable(
    shards: &Shards,
    from: NodeId,
    replica: &Replica,
    commands: Vec<Bytes>,
    min_level: u32,
) -> Result<Vec<Encoded>, Refused> {
    let understands = replica.state.feature_level();
    let applied = shards.topology.feature_level();
    let mut accepted = Vec::with_capacity(commands.len());
    for bytes in commands {
        let (encoded, command) = Encoded::from_peer(bytes, min_level, understands).map_err(|error| {
            if error.is_newer() {
                Refused::NotYet(error.to_string())
            } else {
                Refused::Invalid(error.to_string())
            }
        })?;
        // The level is raised by a command of the next level, in the meta shard.
        if encoded.level() > applied && !replica.shard.is_meta() {
            return Err(Refused::LevelUnknown { needs: encoded.level(), applied });
        }
        authorized(shards, from, &command).await?;
        accepted.push(encoded);
    }
    Ok(accepted)
}

/// A node registers only itself, and passes on only requests of sessions that exist, under their user's name and with the
/// powers of their account. Commands about accounts are believed, as is all else that nodes say: a node that lies is not among
/// the things that a cluster withstands (docs/guarantees.md).
async fn authorized(shards: &Shards, from: NodeId, command: &Command) -> Result<(), Refused> {
    match command {
        Command::RegisterNode(record) if record.node != from => {
            Err(Refused::Invalid(format!("node {} registers node {}", from, record.node)))
        }
        Command::Act { origin, action, .. } => {
            let Some(meta) = shards.meta().replica() else { return Ok(()) };
            match meta.state.session(origin.session).await {
                Ok(Some(session))
                    if session.user == origin.author && session.user_name == origin.author_name => {}
                Ok(Some(_)) => {
                    let why = format!("session {} is not one of {}", origin.session, origin.author_name);
                    return Err(Refused::Invalid(why));
                }
                Ok(None) | Err(_) => return Err(Refused::SessionUnknown(origin.session)),
            }
            // Of the two nodes, either may not have heard yet that the account has changed.
            let author = meta.state.user_named(&origin.author_name).await.ok().flatten();
            if author.is_none_or(|user| powers_of(user.role, user.kind) != origin.powers) {
                return Err(Refused::SessionUnknown(origin.session));
            }
            // The name is the client's, the id is the sender's word. A user whom this node does not know is new.
            if let Some(target) = action.target()
                && let Ok(Some(user)) = meta.state.user_named(&target.name).await
                && user.user != target.user
                && target.user != UserId(0)
            {
                return Err(Refused::Invalid(format!("user {} is not {}", target.user, target.name)));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn failure(id: u64, error: ProposeError, leader: Option<chat::LeaderHint>) -> raft::ProposalResult {
    let failure = match error {
        ProposeError::NotSent { .. } => {
            Failure::not_sent("not_leader", "this node does not lead the shard", Duration::ZERO)
        }
        ProposeError::NotUnderstood(why) => Failure::not_sent(NOT_YET, why, NOT_YET_RETRY),
        ProposeError::Invalid(why) => Failure::not_sent(PROPOSAL_INVALID, why, Duration::ZERO),
        error @ ProposeError::DiskFull => Failure::not_sent(DISK_FULL, error.to_string(), DISK_FULL_RETRY),
        ProposeError::Unknown(why) => Failure::unknown("undecided", why),
    };
    let failure = chat::Failure::from(&failure.with_leader(leader));
    raft::ProposalResult { id, outcome: Some(Outcome::Failure(failure)) }
}

/// Whether no process listens at the address any more. Only a clear refusal counts: silence may be a slow network. A
/// killed process closes its sockets one after the other, so the listening socket may outlive the link's by a little.
async fn refuses_connections(net: &Net, address: &str) -> bool {
    for _ in 0..PROBES {
        match tokio::time::timeout(PROBE_TIMEOUT, net.connect(address)).await {
            Ok(Err(error)) => return error.kind() == std::io::ErrorKind::ConnectionRefused,
            Err(_) => return false,
            Ok(Ok(_)) => tokio::time::sleep(PROBE_PAUSE).await,
        }
    }
    false
}
