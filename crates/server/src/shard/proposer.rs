//! Collects commands into Raft entries.
//!
//! No command waits for a timer: the proposer proposes all waiting commands at once. While the maximum number of
//! entries is in flight, new commands are collected into the next entry. So one sender has the latency of one round,
//! and thousands of senders share a few rounds.

#[cfg(debug_assertions)]
mod early;

use std::sync::Arc;

use conclave_core::{NodeId, Reply, ShardId, Stamp};
use conclave_proto::command::{Encoded, encode_batch};
use conclave_store::{Payload, Raft, TypeConfig};
use futures::stream::{FuturesUnordered, StreamExt as _};
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::limits::{ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX};
use crate::metrics::{Metrics, label};
use crate::topology::Topology;

/// The result of a batch of commands: one reply for each, or the reason why there are none.
pub(crate) type ProposeResult = Result<Vec<Reply>, ProposeError>;

/// Why a batch of commands has no replies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    /// Proven not appended to any log.
    #[error("not proposed: this node does not lead the shard")]
    NotSent {
        /// The node that may lead the shard.
        leader: Option<NodeId>,
    },
    /// Proven not appended to any log, and a retry would fail too: the leader does not understand a command.
    #[error("not proposed: {0}")]
    NotUnderstood(String),
    /// Proven not appended to any log, and final: the leader refuses what no honest node proposes.
    #[error("not proposed: {0}")]
    Invalid(String),
    /// Proven not appended to any log: the leader's disk has no room, and no other node can lead the shard.
    #[error("not proposed: the disk of the shard's leader has no room")]
    DiskFull,
    /// In doubt: may or may not be decided.
    #[error("in doubt: {0}")]
    Unknown(String),
}

/// Commands waiting to be proposed.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) commands: Vec<Encoded>,
    pub(crate) answer: oneshot::Sender<ProposeResult>,
}

/// The proposer of one shard. One runs per replica; proposals succeed only on the leader.
#[derive(Debug)]
pub(crate) struct Proposer {
    pub(crate) shard: ShardId,
    pub(crate) raft: Raft,
    pub(crate) clock: Clock,
    pub(crate) topology: Arc<Topology>,
    pub(crate) metrics: Arc<Metrics>,
    #[cfg(debug_assertions)]
    pub(crate) store: conclave_store::Store,
}

/// An entry in flight, and the callers that wait for its replies.
struct InFlight {
    waiting: Vec<(usize, oneshot::Sender<ProposeResult>)>,
    commands: usize,
    began: Instant,
    result: Result<ClientWriteResult<TypeConfig>, String>,
}

impl Proposer {
    /// Runs until the queue is closed.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Proposal>) {
        let pending = self.metrics.raft_proposals_pending.with_label_values(&[&label(self.shard)]);
        let mut in_flight = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(done) = in_flight.next(), if !in_flight.is_empty() => {
                    let done: InFlight = done;
                    if matches!(done.result, Ok(Ok(_))) {
                        self.metrics.raft_commit_duration.observe(done.began.elapsed().as_secs_f64());
                    }
                    pending.sub(i64::try_from(done.commands).unwrap_or(0));
                    answer(done);
                }
                first = queue.recv(), if in_flight.len() < ENTRIES_IN_FLIGHT_MAX => {
                    let Some(first) = first else { break };
                    let (payload, waiting, commands) = self.collect(first, &mut queue);
                    self.metrics.raft_entry_commands.observe(commands as f64);
                    pending.add(i64::try_from(commands).unwrap_or(0));
                    let began = Instant::now();
                    let (responder, result) = OneshotResponder::new_pair();
                    // Submitting waits only for the group's own queue and keeps the order of proposals.
                    #[cfg(debug_assertions)]
                    let waiting = self.answer_early(&payload, waiting, in_flight.is_empty());
                    let handed = self.raft.client_write_ff(payload, Some(responder)).await;
                    in_flight.push(async move {
                        let result = match handed {
                            Ok(()) => result.await.map_err(|_| "the node stops".to_owned()),
                            Err(error) => Err(error.to_string()),
                        };
                        InFlight { waiting, commands, began, result }
                    });
                }
            }
        }
        while let Some(done) = in_flight.next().await {
            answer(done);
        }
    }

    fn collect(
        &self,
        first: Proposal,
        queue: &mut mpsc::Receiver<Proposal>,
    ) -> (Payload, Vec<(usize, oneshot::Sender<ProposeResult>)>, usize) {
        let mut commands = Vec::new();
        let mut waiting = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(mut proposal) = next {
            bytes += proposal.commands.iter().map(Encoded::len).sum::<usize>();
            waiting.push((proposal.commands.len(), proposal.answer));
            commands.append(&mut proposal.commands);
            let full = bytes >= ENTRY_BYTES_MAX || commands.len() >= ENTRY_COMMANDS_MAX;
            next = if full { None } else { queue.try_recv().ok() };
        }
        let stamp = Stamp::at_level(self.clock.now_ms(), self.topology.feature_level());
        let batch = encode_batch(stamp, &commands);
        (Payload(batch), waiting, commands.len())
    }
}

fn answer(done: InFlight) {
    // The caller may have given up; nothing is lost by that.
    match done.result {
        Ok(Ok(response)) => {
            let mut replies = response.data.0.into_iter();
            for (count, sender) in done.waiting {
                let _ = sender.send(Ok(replies.by_ref().take(count).collect()));
            }
        }
        Ok(Err(error)) => {
            let error = match error {
                ClientWriteError::ForwardToLeader(forward) => {
                    ProposeError::NotSent { leader: forward.leader_id.map(NodeId) }
                }
                other => ProposeError::Unknown(other.to_string()),
            };
            fail(done.waiting, &error);
        }
        Err(why) => fail(done.waiting, &ProposeError::Unknown(why)),
    }
}

fn fail(waiting: Vec<(usize, oneshot::Sender<ProposeResult>)>, error: &ProposeError) {
    for (_, sender) in waiting {
        let _ = sender.send(Err(error.clone()));
    }
}
