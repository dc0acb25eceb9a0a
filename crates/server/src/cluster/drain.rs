//! Draining a node: before it stops, or when an operator asks for it. An operator takes a drain back, too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_core::limits::DRAIN_DEADLINE;
use conclave_proto::admin::{DrainRequest, DrainResponse, UndrainRequest, UndrainResponse};
use conclave_proto::chat::{GoAway, NodeStatus};
use conclave_proto::status::Failure;
use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::{Code, Response, Status};

use crate::cluster::leadership::{Away, Leadership};
use crate::cluster::peer_statuses::PeerStatuses;
use crate::cluster::placement::GO_AWAY_IN_MS;
use crate::limits::{DRAIN_BATCH, DRAIN_PAUSE};
use crate::local::NodeInfo;
use crate::local::duty::until;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::router::Router;
use crate::status::{PEER_TIMEOUT, peer_status};

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

    /// Drains this node before it stops. The drain is not taken back.
    pub(crate) async fn run_to_stop(&self) {
        self.begin(true);
        self.run().await;
    }

    /// From here on the node is not ready and takes no new clients.
    fn begin(&self, stops: bool) {
        let Self { node, metrics, .. } = self;
        tracing::info!("drain started");
        metrics.draining.set(1);
        node.sessions.close();
        node.duty.drain(stops);
        node.own.news.notify_one();
    }

    /// Does what follows the beginning of a drain: the node's clients are asked to move, its leaderships are transferred. A
    /// drained node stays drained until it is restarted, or the drain is taken back. Idempotent.
    async fn run(&self) -> DrainResponse {
        let Self { router, leadership, node, .. } = self;
        let deadline = Instant::now() + TRANSFER_DEADLINE;
        let hand_over = async {
            if !leadership.transfer_all(Away::Draining, deadline).await {
                tracing::warn!("not all leaderships were transferred; the other replicas elect new leaders");
            }
            node.duty.handed_over();
        };
        let mut duty = node.duty.subscribe();
        let clients_left = async {
            self.disconnect_clients().await;
            if tokio::time::timeout(DRAIN_DEADLINE, node.sessions.emptied()).await.is_err() {
                tracing::info!(
                    clients = node.sessions.count(),
                    "drain deadline reached with clients still connected"
                );
            }
        };
        let disconnect_clients = async {
            tokio::select! {
                () = clients_left => {}
                // The drain was taken back: clients may stay.
                () = until(&mut duty, |duty| !duty.is_draining()) => {}
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
        node.duty.drain(true);
        node.sessions.ask_more_to_move(u32::MAX, || self.drain_notice());
        node.duty.handed_over();
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
    /// If no other node is ready, or too few are for a majority of a shard's replicas, unless forced. If the node stops
    /// before the drain is finished.
    pub(crate) async fn run_here(&self, force: bool) -> Result<DrainResponse, Status> {
        // To repeat a drain changes nothing.
        let intent = (!force && !self.node.is_draining()).then(|| self.node.duty.intend());
        if intent.is_some()
            && let Some(failure) = self.objection().await
        {
            return Err(failure.into());
        }
        self.begin(false);
        drop(intent);
        let drain = self.clone();
        let drained = self.tasks.spawn(async move { drain.run().await }).await;
        drained.map_err(|error| Status::internal(format!("draining failed: {error}")))
    }

    /// Why this node should not be drained. The other nodes are asked now: drains that follow each other closely must not each
    /// find a node ready that the one before has drained.
    async fn objection(&self) -> Option<Failure> {
        let statuses = join_all(self.router.peers.iter().map(|peer| peer_status(peer, PEER_TIMEOUT))).await;
        let layout = self.router.shards.topology.layout();
        objection(self.node.id, &self.node.member.name, &layout.shards, &statuses)
    }

    /// Takes the drain of this node back: it is ready again, takes clients, and gets its leaderships back as the preferred
    /// leader of shards.
    ///
    /// # Errors
    /// If the node is being stopped.
    pub(crate) fn undo_here(&self) -> Result<UndrainResponse, Status> {
        let Self { node, metrics, .. } = self;
        let Some(was_draining) = node.duty.serve() else {
            return Err(stopping(&node.member.name).into());
        };
        if was_draining {
            node.sessions.open();
            metrics.draining.set(0);
            node.own.news.notify_one();
            tracing::info!("drain taken back");
        }
        Ok(UndrainResponse { was_draining })
    }

    /// Drains the node with this name or id, local or remote.
    ///
    /// # Errors
    /// If there is no such node, the node does not answer, or too few others are ready.
    pub(crate) async fn run_at(&self, request: DrainRequest) -> Result<DrainResponse, Status> {
        let DrainRequest { node: wanted, force } = request;
        match self.target(&wanted)? {
            Target::Here => self.run_here(force).await,
            Target::Peer(peer, node) => {
                let mut client = peer.client();
                let call = client.drain(DrainRequest { node: node.clone(), force });
                answer(&node, call).await
            }
        }
    }

    /// Takes the drain of the node with this name or id back, local or remote.
    ///
    /// # Errors
    /// If there is no such node, the node does not answer, or is being stopped.
    pub(crate) async fn undo_at(&self, request: UndrainRequest) -> Result<UndrainResponse, Status> {
        match self.target(&request.node)? {
            Target::Here => self.undo_here(),
            Target::Peer(peer, node) => {
                let mut client = peer.client();
                let call = client.undrain(UndrainRequest { node: node.clone() });
                answer(&node, call).await
            }
        }
    }

    /// The node with this name or id.
    fn target(&self, wanted: &str) -> Result<Target<'_>, Status> {
        let members = self.router.shards.topology.members();
        let named = members.iter().find(|(_, member)| member.name == wanted);
        let found = named.or_else(|| members.get_key_value(&NodeId(wanted.parse().ok()?)));
        let Some((id, member)) = found else {
            let names: Vec<_> = members.values().map(|member| member.name.as_str()).collect();
            let why = format!("there is no node {wanted:?}; there are {}", names.join(", "));
            return Err(Failure::Denied { code: "not_found", status: Code::NotFound, message: why }.into());
        };
        if *id == self.node.id {
            return Ok(Target::Here);
        }
        let peer = self.router.peers.get(*id).filter(|peer| peer.is_alive());
        let peer = peer.ok_or_else(|| Status::unavailable(format!("{} cannot be reached", member.name)))?;
        Ok(Target::Peer(peer, member.name.clone()))
    }
}

/// The node that a call is about.
enum Target<'a> {
    Here,
    /// Another node, and its name.
    Peer(&'a Peer, String),
}

/// The answer of another node.
async fn answer<A>(node: &str, call: impl Future<Output = Result<Response<A>, Status>>) -> Result<A, Status> {
    let late = |_| Status::deadline_exceeded(format!("{node} does not answer"));
    Ok(tokio::time::timeout(PEER_DEADLINE, call).await.map_err(late)??.into_inner())
}

/// Why this node should not be drained, given the replicas of each shard and what the other nodes say of themselves: the
/// ready ones among them must be a majority of the replicas of each shard that this node has.
fn objection(me: NodeId, name: &str, shards: &[Vec<NodeId>], others: &[NodeStatus]) -> Option<Failure> {
    let ready: BTreeSet<NodeId> =
        others.iter().filter(|status| is_ready(status)).map(|status| NodeId(status.node_id)).collect();
    if ready.is_empty() {
        return Some(last_ready_node(name));
    }
    let left =
        |replicas: &[NodeId]| replicas.iter().filter(|node| **node != me && ready.contains(node)).count();
    let lost = |replicas: &&Vec<NodeId>| replicas.contains(&me) && left(replicas) <= replicas.len() / 2;
    let lost = shards.iter().find(lost)?;
    let missing = others.iter().filter(|status| lost.contains(&NodeId(status.node_id)) && !is_ready(status));
    let missing: Vec<&str> = missing.map(|status| status.name.as_str()).collect();
    Some(no_ready_majority(name, &missing, lost.len()))
}

fn no_ready_majority(name: &str, missing: &[&str], replicas: usize) -> Failure {
    let why = match missing {
        [] => String::new(),
        [one] => format!("{one} is not ready; "),
        many => format!("{} are not ready; ", many.join(", ")),
    };
    Failure::Denied {
        code: "no_ready_majority",
        status: Code::FailedPrecondition,
        message: format!(
            "{why}once {name} is stopped, too few of {replicas} servers are left for a majority, and nothing can be sent; \
             start or undrain the others first, or force it"
        ),
    }
}

fn stopping(name: &str) -> Failure {
    Failure::Denied {
        code: "node_stopping",
        status: Code::FailedPrecondition,
        message: format!("{name} is being stopped, so its drain cannot be taken back; start it again"),
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

    fn status(id: u64, is_ready: bool) -> NodeStatus {
        let record = NodeRecord { ready: true, ..NodeRecord::default() };
        let name = format!("n{id}");
        NodeStatus { node_id: id, name, reachable: is_ready, record: Some(record), ..NodeStatus::default() }
    }

    fn refusal(shards: &[&[u64]], others: &[NodeStatus]) -> Option<(&'static str, String)> {
        let shards: Vec<Vec<NodeId>> =
            shards.iter().map(|replicas| replicas.iter().copied().map(NodeId).collect()).collect();
        match objection(NodeId(1), "n1", &shards, others)? {
            Failure::Denied { code, message, .. } => Some((code, message)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_drain_must_leave_a_ready_majority_of_each_shard_of_the_node() {
        let three: &[&[u64]] = &[&[1, 2, 3]];
        assert_eq!(refusal(three, &[status(2, true), status(3, true)]), None);
        let (code, message) = refusal(three, &[status(2, false), status(3, true)]).unwrap();
        assert_eq!(code, "no_ready_majority");
        assert!(message.starts_with("n2 is not ready; once n1 is stopped"), "{message}");
        let (code, _) = refusal(three, &[status(2, false), status(3, false)]).unwrap();
        assert_eq!(code, "last_ready_node");
        assert_eq!(refusal(&[&[1]], &[]).unwrap().0, "last_ready_node");
        // Both of two replicas are a majority.
        assert_eq!(refusal(&[&[1, 2]], &[status(2, true)]).unwrap().0, "no_ready_majority");
        // Shards of other nodes do not count.
        let others = [status(2, true), status(3, true), status(4, false), status(5, false)];
        assert_eq!(refusal(&[&[1, 2, 3], &[2, 4, 5]], &others), None);
        assert_eq!(refusal(&[&[1, 2, 4], &[2, 4, 5]], &others).unwrap().0, "no_ready_majority");
    }

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
