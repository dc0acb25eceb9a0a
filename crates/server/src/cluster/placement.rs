//! Placement of clients: the meta shard's leader checks how the clients are spread over the nodes, and asks nodes to
//! move some of their clients. [`conclave_core::placement`] plans the moves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_core::NodeId;
use conclave_core::placement::{ClientMove, NodeLoad, Planner};
use conclave_proto::admin::{self, RebalanceRequest};
use conclave_proto::chat::{GoAway, NodeStatus};
use conclave_proto::raft::MoveClientsRequest;
use conclave_proto::status::Failure;
use tonic::Status;

use crate::cluster::peer_statuses::{PeerStatuses, load_of};
use crate::limits::{MOVE_TARGETS_MAX, PLACEMENT_INTERVAL, STREAMS_RETRY};
use crate::local::NodeInfo;
use crate::local::load::{Load, is_busy};
use crate::local_sessions::StreamRefusal;
use crate::metrics::Metrics;
use crate::router::Router;

/// How long a client may take to move after it was asked, in milliseconds. Part of the request to move.
pub(crate) const GO_AWAY_IN_MS: u32 = 2_000;
/// Deadline for another node's answer.
const PEER_DEADLINE: Duration = Duration::from_millis(500);

/// Places the clients of this node and, while it leads the meta shard, of all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    router: Router,
    node: Arc<NodeInfo>,
    peer_statuses: Arc<PeerStatuses>,
    metrics: Arc<Metrics>,
    planner: Arc<Mutex<Planner>>,
}

impl Placement {
    pub(crate) fn new(
        router: Router,
        node: Arc<NodeInfo>,
        peer_statuses: Arc<PeerStatuses>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { router, node, peer_statuses, metrics, planner: Arc::default() }
    }

    /// The answer to a client whose stream is refused because of `why`: another node may take it, unless the session has
    /// too many streams itself.
    pub(crate) fn refused(&self, why: StreamRefusal) -> Failure {
        if why == StreamRefusal::Session {
            self.metrics.clients.streams_refused.with_label_values(&[why.code()]).inc();
            return Failure::not_sent(why.code(), why.to_string(), STREAMS_RETRY);
        }
        self.metrics.clients.streams_refused.with_label_values(&[why.code()]).inc();
        let addresses = self.peer_statuses.redirect_targets(&self.router.peers);
        let message = match addresses.first() {
            Some(best) => format!("{why}; go to {best}"),
            None => format!("{why}, and it can reach no other node; try again"),
        };
        Failure::Elsewhere { code: why.code(), message, addresses }
    }

    /// Asks `sessions` of this node's clients to move to the targets, in equal parts. Returns how many were asked.
    ///
    /// # Errors
    /// If there are no targets, or more than [`MOVE_TARGETS_MAX`].
    pub(crate) fn move_clients(
        &self,
        sessions: u32,
        targets: &[String],
        reason: &str,
    ) -> Result<u32, Status> {
        if targets.is_empty() || targets.len() > MOVE_TARGETS_MAX {
            let why = format!("clients move to 1 to {MOVE_TARGETS_MAX} targets, not {}", targets.len());
            return Err(Status::invalid_argument(why));
        }
        let mut next = targets.iter().cycle();
        let asked = self.node.sessions.ask_to_move(sessions, || GoAway {
            in_ms: GO_AWAY_IN_MS,
            addresses: next.next().cloned().into_iter().collect(),
            reason: reason.to_owned(),
            stay_away: false,
        });
        self.metrics.clients.asked_to_move.with_label_values(&["rebalance"]).inc_by(asked.into());
        tracing::info!(asked, of = sessions, reason, "clients asked to move to other nodes");
        Ok(asked)
    }

    /// Rebalances the clients now, at the meta shard's leader, local or remote.
    ///
    /// # Errors
    /// If the meta shard has no leader, or if the leader does not answer.
    pub(crate) async fn rebalance(&self) -> Result<admin::RebalanceResponse, Status> {
        let leader = self.router.shards.meta().leader().leader;
        if leader == Some(self.node.id) {
            return self.rebalance_as_leader();
        }
        let peer = leader.and_then(|leader| self.router.peers.get(leader)).filter(|peer| peer.is_alive());
        let peer = peer.ok_or_else(|| Status::unavailable("the meta shard has no leader now; try again"))?;
        let mut client = peer.client();
        let call = client.rebalance(RebalanceRequest {});
        let late = |_| Status::deadline_exceeded(format!("{} does not answer", peer.name));
        Ok(tokio::time::timeout(PEER_DEADLINE, call).await.map_err(late)??.into_inner())
    }

    /// Plans a rebalancing of the clients now; the following rounds carry it out.
    ///
    /// # Errors
    /// If this node does not lead the meta shard.
    pub(crate) fn rebalance_as_leader(&self) -> Result<admin::RebalanceResponse, Status> {
        if !self.router.shards.meta().leads() {
            return Err(Status::unavailable("this node does not lead the meta shard any more; try again"));
        }
        let moves = self.planner().rebalance(&self.loads());
        let name = |id: NodeId| self.name(id);
        let moves = moves.iter().map(|planned| admin::Move {
            from: name(planned.from),
            to: planned.to.iter().map(|(to, _)| name(*to)).collect(),
            sessions: planned.count(),
        });
        Ok(admin::RebalanceResponse { moves: moves.collect() })
    }

    /// Keeps the clients balanced while this node leads the meta shard, until the node stops.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(PLACEMENT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.node.stop.cancelled() => return,
            }
            let now = self.node.started.elapsed();
            if !self.router.shards.meta().leads() {
                self.planner().watch(now, &self.loads());
                continue;
            }
            let moves = self.planner().round(now, &self.loads());
            futures::future::join_all(moves.iter().map(|planned| self.request_moves(planned))).await;
        }
    }

    /// Asks a node to move clients.
    async fn request_moves(&self, planned: &ClientMove) {
        const REASON: &str = "the clients are rebalanced over the nodes";
        let targets = self.targets(&planned.to);
        let result = if planned.from == self.node.id {
            self.move_clients(planned.count(), &targets, REASON).map(drop)
        } else {
            let Some(peer) = self.router.peers.get(planned.from) else { return };
            let mut client = peer.client();
            let request =
                MoveClientsRequest { sessions: planned.count(), targets, reason: REASON.to_owned() };
            match tokio::time::timeout(PEER_DEADLINE, client.move_clients(request)).await {
                Ok(answer) => answer.map(drop),
                Err(_) => Err(Status::deadline_exceeded("no answer")),
            }
        };
        if let Err(status) = result {
            // The next round plans again, from the state at that time.
            tracing::debug!(from = self.name(planned.from), %status, "node did not move clients");
        }
    }

    /// Addresses of the targets, each repeated in proportion to its share.
    fn targets(&self, to: &[(NodeId, u32)]) -> Vec<String> {
        let topology = &self.router.shards.topology;
        spread(to).into_iter().filter_map(|id| Some(topology.member(id)?.client)).collect()
    }

    /// The loads of all nodes, as this node knows them.
    fn loads(&self) -> Vec<NodeLoad> {
        let statuses = self.peer_statuses.statuses();
        let own = NodeLoad {
            id: self.node.id,
            clients: self.node.sessions.count(),
            max: self.node.sessions.max(),
            alive: true,
            ready: self.node.own.get().ready,
            draining: self.node.is_draining(),
            busy: false,
        };
        let others = self.router.peers.iter().map(|peer| {
            let status = statuses.get(&peer.id);
            (load_of(peer.id, peer.is_alive(), status), status.map_or(0, work_of))
        });
        let mut nodes: Vec<_> = others.chain([(own, self.node.load.borrow().work())]).collect();
        let least = nodes.iter().filter(|(node, _)| node.alive && node.ready).map(|(_, work)| *work).min();
        for (node, work) in &mut nodes {
            node.busy = is_busy(*work, least.unwrap_or(0));
        }
        nodes.into_iter().map(|(node, _)| node).collect()
    }

    fn name(&self, id: NodeId) -> String {
        self.router.shards.topology.member(id).map_or_else(|| id.to_string(), |member| member.name)
    }

    fn planner(&self) -> MutexGuard<'_, Planner> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work_of(status: &NodeStatus) -> u32 {
    let NodeStatus { cpu_permille, queued, send_p99_us, .. } = *status;
    Load { cpu_permille, queued, send_p99_us }.work()
}

/// Each target repeated in proportion to its share, interleaved. At most [`MOVE_TARGETS_MAX`] in all; larger numbers
/// are scaled down.
fn spread(to: &[(NodeId, u32)]) -> Vec<NodeId> {
    let all: u64 = to.iter().map(|(_, count)| u64::from(*count)).sum();
    let max = (MOVE_TARGETS_MAX - to.len().min(MOVE_TARGETS_MAX / 2)) as u64;
    let scaled = |count: u32| if all <= max { count.into() } else { u64::from(count) * max / all + 1 };
    let mut left: Vec<_> = to.iter().map(|(id, count)| (*id, scaled(*count))).collect();
    let mut targets = Vec::new();
    while targets.len() < MOVE_TARGETS_MAX && left.iter().any(|(_, left)| *left > 0) {
        for (id, left) in left.iter_mut().filter(|(_, left)| *left > 0) {
            *left -= 1;
            targets.push(*id);
        }
    }
    targets.truncate(MOVE_TARGETS_MAX);
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_repeated_in_proportion_to_their_share() {
        let ids = |to: &[(u64, u32)]| {
            let to: Vec<_> = to.iter().map(|(id, count)| (NodeId(*id), *count)).collect();
            spread(&to).into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(ids(&[(1, 3), (2, 1)]), [1, 2, 1, 1]);
        assert!(ids(&[]).is_empty());
        let large = ids(&[(1, 30_000), (2, 10_000), (3, 1)]);
        assert!(large.len() <= MOVE_TARGETS_MAX);
        let share = |id| large.iter().filter(|one| **one == id).count();
        assert!(share(1).abs_diff(3 * share(2)) < 4, "{} and {}", share(1), share(2));
        assert_eq!(share(3), 1);
    }
}
