//! Draining a node: before it stops, or when an operator asks for it.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_core::limits::DRAIN_DEADLINE;
use conclave_proto::admin::{DrainRequest, DrainResponse};
use conclave_proto::chat::{GoAway, NodeStatus};
use conclave_proto::status::Failure;
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use crate::cluster::leadership::{Away, Leadership};
use crate::cluster::peer_statuses::PeerStatuses;
use crate::cluster::placement::GO_AWAY_IN_MS;
use crate::limits::{DRAIN_BATCH, DRAIN_PAUSE};
use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::status::peer_status;

/// Deadline for handing over all leaderships.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3);
/// Deadline for another node to drain.
const PEER_DEADLINE: Duration =
    TRANSFER_DEADLINE.saturating_add(DRAIN_DEADLINE).saturating_add(Duration::from_secs(2));

/// Drains this node, and asks other nodes to drain.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    router: Router,
    leadership: Leadership,
    node: Arc<NodeInfo>,
    peer_statuses: Arc<PeerStatuses>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

impl Drain {
    pub(crate) fn new(
        router: Router,
        leadership: Leadership,
        node: Arc<NodeInfo>,
        peer_statuses: Arc<PeerStatuses>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Self {
        Self { router, leadership, node, peer_statuses, metrics, tasks }
    }

    /// Drains this node: it is no longer ready, its clients are asked to move, its leaderships are transferred. A
    /// drained node stays drained until it is restarted. Idempotent.
    pub(crate) async fn run(&self) -> DrainResponse {
        let Self { router, leadership, node, metrics, .. } = self;
        tracing::info!("drain started");
        metrics.draining.set(1);
        node.sessions.close();
        node.draining.cancel();
        node.own.news.notify_one();
        let deadline = Instant::now() + TRANSFER_DEADLINE;
        let hand_over = async {
            if !leadership.transfer_all(Away::Draining, deadline).await {
                tracing::warn!("not all leaderships were transferred; the other replicas elect new leaders");
            }
            node.leaving.cancel();
        };
        let disconnect_clients = async {
            self.disconnect_clients().await;
            if tokio::time::timeout(DRAIN_DEADLINE, node.sessions.emptied()).await.is_err() {
                tracing::info!(
                    clients = node.sessions.count(),
                    "drain deadline reached with clients still connected"
                );
            }
        };
        tokio::join!(hand_over, disconnect_clients);
        let leads = router.shards.iter().filter(|shard| shard.leads()).count();
        DrainResponse {
            still_leads: u32::try_from(leads).unwrap_or(u32::MAX),
            clients: node.sessions.count(),
        }
    }

    /// Asks all clients to move at once, because the node ends now.
    pub(crate) fn close(&self) {
        let Self { node, .. } = self;
        node.sessions.close();
        node.draining.cancel();
        node.sessions.ask_more_to_move(u32::MAX, || self.drain_notice());
        node.leaving.cancel();
    }

    /// The notice to clients of a node that is stopping.
    fn drain_notice(&self) -> GoAway {
        GoAway {
            in_ms: GO_AWAY_IN_MS,
            addresses: self.peer_statuses.redirect_targets(&self.router.peers),
            reason: "the node is being stopped".to_owned(),
            stay_away: true,
        }
    }

    /// Asks all clients to move, in batches, so that they do not all reach the other nodes in the same moment.
    async fn disconnect_clients(&self) {
        loop {
            let asked = self.node.sessions.ask_more_to_move(DRAIN_BATCH, || self.drain_notice());
            self.metrics.clients.asked_to_move.with_label_values(&["drain"]).inc_by(asked.into());
            if asked < DRAIN_BATCH {
                return;
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// Drains this node. The drain continues even if the caller disconnects.
    ///
    /// # Errors
    /// If no other node is ready, unless forced. If the node stops before the drain is finished.
    pub(crate) async fn run_here(&self, force: bool) -> Result<DrainResponse, Status> {
        // To repeat a drain changes nothing.
        if !force && !self.node.is_draining() && !self.another_is_ready().await {
            return Err(last_ready_node(&self.node.member.name).into());
        }
        let drain = self.clone();
        let drained = self.tasks.spawn(async move { drain.run().await }).await;
        drained.map_err(|error| Status::internal(format!("draining failed: {error}")))
    }

    /// Whether another node says now that it is ready. Reports that were received earlier do not count: drains that
    /// follow each other closely must not each find a node ready that the one before has drained.
    async fn another_is_ready(&self) -> bool {
        let statuses = join_all(self.router.peers.iter().map(|peer| peer_status(peer))).await;
        statuses.iter().any(is_ready)
    }

    /// Drains the node with this name or id, local or remote.
    ///
    /// # Errors
    /// If there is no such node, the node does not answer, or is the last one that is ready.
    pub(crate) async fn run_at(&self, request: DrainRequest) -> Result<DrainResponse, Status> {
        let DrainRequest { node: wanted, force } = request;
        let members = self.router.shards.topology.members();
        let named = members.iter().find(|(_, member)| member.name == wanted);
        let found = named.or_else(|| members.get_key_value(&NodeId(wanted.parse().ok()?)));
        let Some((id, member)) = found else {
            let names: Vec<_> = members.values().map(|member| member.name.as_str()).collect();
            let why = format!("there is no node {wanted:?}; there are {}", names.join(", "));
            return Err(Status::not_found(why));
        };
        if *id == self.node.id {
            return self.run_here(force).await;
        }
        let peer = self.router.peers.get(*id).filter(|peer| peer.is_alive());
        let peer = peer.ok_or_else(|| Status::unavailable(format!("{} cannot be reached", member.name)))?;
        let mut client = peer.client();
        let call = client.drain(DrainRequest { node: member.name.clone(), force });
        let late = |_| Status::deadline_exceeded(format!("{} does not answer", member.name));
        Ok(tokio::time::timeout(PEER_DEADLINE, call).await.map_err(late)??.into_inner())
    }
}

/// Whether the node takes clients, as it reports itself.
fn is_ready(status: &NodeStatus) -> bool {
    // A status without a record is from an older version.
    status.reachable && !status.draining && status.record.as_ref().is_none_or(|record| record.ready)
}

fn last_ready_node(name: &str) -> Failure {
    Failure::Denied {
        code: "last_ready_node",
        status: Code::FailedPrecondition,
        message: format!(
            "no other node is ready, so to drain {name} would end the service; restart the others first, or force it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::cluster::NodeRecord;

    use super::*;

    #[test]
    fn a_node_is_ready_only_by_its_own_word_of_now() {
        let record = NodeRecord { ready: true, ..NodeRecord::default() };
        let ready = NodeStatus { reachable: true, record: Some(record), ..NodeStatus::default() };
        assert!(is_ready(&ready));
        assert!(!is_ready(&NodeStatus { draining: true, ..ready.clone() }));
        assert!(!is_ready(&NodeStatus { reachable: false, ..ready.clone() }));
        assert!(!is_ready(&NodeStatus { record: Some(NodeRecord::default()), ..ready }));
    }
}
