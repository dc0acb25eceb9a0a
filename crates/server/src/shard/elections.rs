//! A replica's view of its shard's elections: who became leader, how long the shard had none, and which elections this
//! node started and why. This module only observes; `cluster/leadership.rs` decides who should lead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_core::NodeId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::metrics::{Metrics, label};
use crate::shard::replica::{LeaderView, Replica};

/// The last terms in which this replica was told to start an election before its timeout.
#[derive(Debug, Default)]
pub(crate) struct EarlyElections {
    leader_died: AtomicU64,
    transfer: AtomicU64,
}

impl EarlyElections {
    /// The leader of `term` died: this replica starts an election for the next term.
    pub(crate) fn leader_died(&self, term: u64) {
        self.leader_died.store(term + 1, Ordering::Relaxed);
    }

    /// The leader of `term` asked this replica to take over: it starts an election for the next term.
    pub(crate) fn transfer(&self, term: u64) {
        self.transfer.store(term + 1, Ordering::Relaxed);
    }

    /// Why this replica started an election for `term`: one of [`CAUSES`].
    fn why(&self, term: u64) -> &'static str {
        if term == self.leader_died.load(Ordering::Relaxed) {
            "leader_died"
        } else if term == self.transfer.load(Ordering::Relaxed) {
            TRANSFER
        } else {
            "timeout"
        }
    }
}

/// Why a node starts an election.
pub(crate) const CAUSES: [&str; 3] = ["leader_died", TRANSFER, "timeout"];
/// The leader handed over.
const TRANSFER: &str = "transfer";

/// What changed between two observations of the leadership.
#[derive(Debug, Default, PartialEq, Eq)]
struct LeadershipChange {
    /// The new leader, or the same one in a later term.
    leader: Option<NodeId>,
    /// How long this replica knew no leader, if it had lost one.
    leaderless_for: Option<Duration>,
    /// Whether this replica started an election since the last observation.
    started_election: bool,
}

/// Tracks one replica's view between observations.
#[derive(Debug)]
struct LeaderWatch {
    me: NodeId,
    known: LeaderView,
    lost: Option<Instant>,
}

impl LeaderWatch {
    fn observe(&mut self, view: LeaderView, now: Instant) -> LeadershipChange {
        let before = std::mem::replace(&mut self.known, view);
        if view == before {
            return LeadershipChange::default();
        }
        if view.leader.is_none() && before.leader.is_some() {
            self.lost = Some(now);
        }
        let lost = if view.leader.is_some() { self.lost.take() } else { None };
        LeadershipChange {
            leader: view.leader,
            leaderless_for: lost.map(|lost| now.saturating_duration_since(lost)),
            started_election: view.voted_for == self.me && view.term > before.term,
        }
    }
}

/// Counts and times the elections that a replica observes, until the node stops.
pub(crate) async fn watch(
    replica: Arc<Replica>,
    metrics: Arc<Metrics>,
    clock: Clock,
    stop: CancellationToken,
) {
    let shard = label(replica.shard);
    let changes = metrics.raft_leader_changes.with_label_values(&[&shard]);
    let duration = metrics.raft_election_duration.with_label_values(&[&shard]);
    let elections = CAUSES.map(|cause| metrics.raft_elections.with_label_values(&[&shard, cause]));
    let mut watch = LeaderWatch { me: NodeId(*replica.raft.node_id()), known: replica.leader(), lost: None };
    while !stop.is_cancelled() {
        tokio::select! {
            () = replica.leader_change(watch.known, Duration::from_secs(3600)) => {}
            () = stop.cancelled() => return,
        }
        let view = replica.leader();
        if view == watch.known {
            continue;
        }
        let seen = watch.observe(view, Instant::now());
        if seen.started_election {
            let why = replica.early_elections.why(view.term);
            for (cause, elections) in CAUSES.iter().zip(&elections) {
                elections.inc_by(u64::from(*cause == why));
            }
        }
        if let Some(leader) = seen.leader {
            changes.inc();
            tracing::info!(shard = replica.shard.0, leader = leader.0, term = view.term, "leader changed");
        }
        if let Some(leaderless_for) = seen.leaderless_for {
            duration.observe(leaderless_for.as_secs_f64());
            // The winner tells; where a leader handed over, nobody was lost.
            if seen.leader == Some(watch.me) && replica.early_elections.why(view.term) != TRANSFER {
                metrics.node.failed_over(&shard, leaderless_for, clock.now_ms());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn view(leader: Option<NodeId>, term: u64, voted_for: NodeId) -> LeaderView {
        LeaderView { leader, term, voted_for }
    }

    #[test]
    fn the_time_without_a_leader_ends_with_the_next_one() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut watch = LeaderWatch { me: ME, known: view(Some(OTHER), 4, OTHER), lost: None };

        let standing = watch.observe(view(None, 5, ME), at(0));
        assert_eq!(standing, LeadershipChange { leader: None, leaderless_for: None, started_election: true });
        let again = watch.observe(view(None, 6, ME), at(30));
        assert_eq!(again, LeadershipChange { leader: None, leaderless_for: None, started_election: true });
        let won = watch.observe(view(Some(ME), 6, ME), at(50));
        let leaderless_for = Some(Duration::from_millis(50));
        assert_eq!(won, LeadershipChange { leader: Some(ME), leaderless_for, started_election: false });
        assert_eq!(watch.observe(view(Some(ME), 6, ME), at(60)), LeadershipChange::default());
    }

    #[test]
    fn a_change_of_leader_is_counted_even_if_no_time_without_a_leader_was_seen() {
        let mut watch = LeaderWatch { me: ME, known: view(Some(OTHER), 4, OTHER), lost: None };
        // One leader directly after another: this replica never saw a time without one.
        let seen = watch.observe(view(Some(OTHER), 5, OTHER), Instant::now());
        assert_eq!(
            seen,
            LeadershipChange { leader: Some(OTHER), leaderless_for: None, started_election: false }
        );
        let seen = watch.observe(view(Some(ME), 6, ME), Instant::now());
        assert_eq!(seen, LeadershipChange { leader: Some(ME), leaderless_for: None, started_election: true });
    }

    #[test]
    fn before_the_first_leader_no_time_without_one_is_measured() {
        let mut watch = LeaderWatch { me: ME, known: view(None, 0, ME), lost: None };
        let seen = watch.observe(view(Some(OTHER), 1, OTHER), Instant::now());
        assert_eq!(
            seen,
            LeadershipChange { leader: Some(OTHER), leaderless_for: None, started_election: false }
        );
    }

    #[test]
    fn an_election_has_the_cause_that_was_told_for_its_term() {
        let early_elections = EarlyElections::default();
        early_elections.leader_died(4);
        early_elections.transfer(7);
        assert_eq!([early_elections.why(5), early_elections.why(8), early_elections.why(6)], CAUSES);
    }
}
