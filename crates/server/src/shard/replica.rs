//! One shard's replica on this node: proposals, reads, and its view of the leader.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_core::planted::{Bug, planted};
use conclave_core::{NodeId, ShardId};
use conclave_proto::command::Encoded;
use conclave_store::{Raft, ShardState, TypeConfig};
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tokio::sync::{mpsc, oneshot};

use crate::disk_space::DiskSpace;
use crate::shard::confirmations::Confirmations;
use crate::shard::elections::EarlyElections;
use crate::shard::heartbeats::Heartbeats;
use crate::shard::proposer::{Proposal, ProposeError, ProposeResult};

/// A leader without quorum acks for this long is reported as no leader. Far above the longest election timeout.
const QUORUM_FRESH: Duration = Duration::from_secs(3);
/// How long a leader waits for a quorum to confirm that it still leads. Above the interval of heartbeats, so that a lost
/// one is sent again; the caller asks again.
const CONFIRMATION_MAX: Duration = Duration::from_secs(1);

/// One replica.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) shard: ShardId,
    pub(crate) raft: Raft,
    pub(crate) state: Arc<ShardState>,
    pub(crate) proposals: mpsc::Sender<Proposal>,
    pub(crate) early_elections: EarlyElections,
    pub(crate) confirmations: Arc<Confirmations>,
    pub(crate) disk: DiskSpace,
    /// What the leaders said of their quorum.
    pub(crate) quorum_reports: QuorumReports,
    pub(crate) links: Arc<dyn Links>,
    /// When this replica heard of its leader.
    pub(crate) heartbeats: Heartbeats,
}

/// The connections to the other nodes.
pub(crate) trait Links: Debug + Send + Sync {
    /// Whether the connection to a node is up. False for a node that is not known.
    fn is_up(&self, node: NodeId) -> bool;
}

/// What the leaders of a shard said of their quorum. Two reports in a row without one count: a leader that was elected a moment
/// ago has not heard of its quorum yet.
#[derive(Debug, Default)]
pub(crate) struct QuorumReports {
    /// The last term whose leader said once that it has none; 0 if there is no such term.
    in_doubt: AtomicU64,
    /// The last term whose leader said it again; 0 if there is no such term.
    without: AtomicU64,
}

impl QuorumReports {
    /// Takes a report of the leader of this term. For one caller at a time.
    pub(crate) fn take(&self, term: u64, has_quorum: bool) {
        let in_doubt = self.in_doubt.load(Ordering::Relaxed);
        if has_quorum {
            for known in [&self.in_doubt, &self.without] {
                if known.load(Ordering::Relaxed) == term {
                    known.store(0, Ordering::Relaxed);
                }
            }
        } else if in_doubt == term {
            self.without.fetch_max(term, Ordering::Relaxed);
        } else if in_doubt < term {
            self.in_doubt.store(term, Ordering::Relaxed);
        }
    }

    /// Whether the leader of this term has no quorum, as it said last.
    fn say_none(&self, term: u64) -> bool {
        self.without.load(Ordering::Relaxed) == term
    }
}

/// This replica's view of the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaderView {
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    /// The node that this replica voted for in the term.
    pub(crate) voted_for: NodeId,
}

/// Why a linearizable read is not possible now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Another node leads, or none.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// No answer in time.
    #[error("the shard's leader did not answer in time")]
    Timeout,
}

impl Replica {
    /// Hands commands to the proposer, in the order of the calls. The returned future resolves to their result. A leader
    /// takes only the commands by which nodes keep the cluster in order if its disk has no room, or if fewer than a
    /// majority of the shard's nodes have room.
    pub(crate) async fn propose(
        &self,
        commands: Vec<Encoded>,
    ) -> impl Future<Output = ProposeResult> + Send + use<> {
        let (answer, outcome) = oneshot::channel();
        let no_room = !self.has_room() && self.leads() && commands.iter().any(Encoded::is_of_client);
        let handed = match no_room {
            true => Err(ProposeError::DiskFull),
            false => {
                let handed = self.proposals.send(Proposal { commands, answer }).await;
                handed.map_err(|_| ProposeError::NotSent { leader: None })
            }
        };
        async move {
            handed?;
            outcome.await.unwrap_or_else(|_| Err(ProposeError::Unknown("the node stops".to_owned())))
        }
    }

    fn has_room(&self) -> bool {
        if self.disk.all_have_room() {
            return true;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let others = metrics.membership_config.membership().voter_ids().filter(|id| *id != metrics.id);
        !self.disk.is_full() && self.disk.majority_has_room(others.map(NodeId))
    }

    /// This replica's view of the leader.
    pub(crate) fn leader(&self) -> LeaderView {
        view(&self.raft.server_metrics().borrow_watched())
    }

    /// Whether this replica leads.
    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// The leader with a quorum: this node if it leads and has quorum acks, or the node that this one follows, if the link to
    /// it is up and it did not say that it has no quorum. A leader without a quorum leads nobody. The link matters because a
    /// follower that is alone stays in the term of the leader that it lost: nobody answers its pre-votes.
    pub(crate) fn leader_with_quorum(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        self.leader_with_quorum_in(&metrics.borrow_watched())
    }

    /// As [`Replica::leader_with_quorum`], for a caller that has the replica's metrics: to borrow them a second time at the
    /// same moment can block for ever.
    pub(crate) fn leader_with_quorum_in(&self, metrics: &RaftMetrics<TypeConfig>) -> Option<NodeId> {
        let leader = NodeId(metrics.current_leader?);
        let has_quorum = match metrics.state {
            ServerState::Leader => has_quorum(metrics),
            _ => self.links.is_up(leader) && !self.quorum_reports.say_none(metrics.current_term),
        };
        has_quorum.then_some(leader)
    }

    /// Whether this replica leads, and has not lost its quorum. A majority has elected a new leader a moment ago, so it counts
    /// although it has no acks yet.
    pub(crate) fn leads_as_far_as_known(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.state == ServerState::Leader && (metrics.last_quorum_acked.is_none() || has_quorum(&metrics))
    }

    /// Waits until the leader differs from `known`, or until `at_most` has passed.
    pub(crate) async fn leader_change(&self, known: LeaderView, at_most: Duration) {
        let mut metrics = self.raft.server_metrics();
        let wait = async {
            while view(&metrics.borrow_watched()) == known {
                if metrics.changed().await.is_err() {
                    // The replica has ended, so its leader does not change any more. Returning would make the caller
                    // ask again at once, in a busy loop, until the node has stopped.
                    std::future::pending::<()>().await;
                }
            }
        };
        // A timeout is as good as a change: the caller checks again.
        let _ = tokio::time::timeout(at_most, wait).await;
    }

    /// The index that a linearizable read must have applied, if this replica leads: the leader's committed index, once
    /// a quorum has confirmed after the call that it still leads (Raft dissertation, section 6.4). See [`Confirmations`]
    /// for why openraft's confirmation is not enough.
    pub(crate) async fn read_index_as_leader(&self) -> Result<u64, ReadError> {
        if planted(Bug::StaleRead) && self.leads() {
            return Ok(*self.state.applied().borrow());
        }
        let round = self.confirmations.begin();
        // This sends the heartbeats, too. The index belongs to the term in which it is the leader's.
        let read = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
        let (log_id, _) = read.map_err(|_| ReadError::NotLeader)?;
        let term = log_id.committed_leader_id().term;
        let voters = self.voters();
        tokio::select! {
            () = self.confirmations.confirmed(*self.raft.node_id(), term, round, &voters) => Ok(log_id.index()),
            () = self.leads_no_more(term) => Err(ReadError::NotLeader),
            () = tokio::time::sleep(CONFIRMATION_MAX) => Err(ReadError::Timeout),
        }
    }

    /// The sets of nodes of each of which a majority decides: two while the membership changes.
    fn voters(&self) -> Vec<BTreeSet<u64>> {
        let metrics = self.raft.metrics();
        metrics.borrow_watched().membership_config.membership().get_joint_config().clone()
    }

    /// Waits until this replica does not lead in the term any more.
    async fn leads_no_more(&self, term: u64) {
        let mut metrics = self.raft.server_metrics();
        let leads = |view: LeaderView| view.term == term && view.leader == Some(NodeId(*self.raft.node_id()));
        while leads(view(&metrics.borrow_watched())) && metrics.changed().await.is_ok() {}
    }

    /// Waits until this replica has applied the index.
    pub(crate) async fn applied(&self, index: u64, at_most: Duration) -> Result<(), ReadError> {
        let mut applied = self.state.applied();
        let reached = tokio::time::timeout(at_most, applied.wait_for(|applied| *applied >= index)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ReadError::Timeout),
        }
    }
}

/// Whether a quorum has acked this leader recently.
fn has_quorum(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    alone || metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < QUORUM_FRESH)
}

fn view(metrics: &RaftServerMetrics<TypeConfig>) -> LeaderView {
    let vote = metrics.vote.leader_id();
    LeaderView {
        leader: metrics.current_leader.map(NodeId),
        term: vote.term,
        voted_for: NodeId(vote.voted_for),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_says_twice_that_it_has_no_quorum_leads_nobody_until_it_says_otherwise() {
        let reports = QuorumReports::default();
        reports.take(4, false);
        assert!(!reports.say_none(4), "it may have been elected a moment ago");
        reports.take(4, false);
        assert!(reports.say_none(4) && !reports.say_none(5));
        // Another node leads in a higher term, while the old leader goes on to report.
        reports.take(5, false);
        reports.take(4, false);
        reports.take(5, true);
        assert!(!reports.say_none(5));
        reports.take(5, false);
        reports.take(5, false);
        assert!(reports.say_none(5));
        reports.take(5, true);
        assert!(!reports.say_none(5));
    }
}
