//! The cluster view that clients get, to know which other nodes they can use, and the statuses that other nodes
//! report.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::{NodeId, ShardId};
use conclave_proto::chat::{ClusterView, NodeStatus, NodeView, Role};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::peer_statuses::{PeerStatuses, Statuses};
use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::peer::{Peer, Peers};
use crate::shard::Shards;
use crate::status::{PEER_TIMEOUT, digest_from_proto, peer_status};
use crate::topology::Topology;

/// How often the other nodes are asked for their status.
const INTERVAL: Duration = Duration::from_secs(1);

/// Updates the cluster view and the reported statuses until the node stops.
pub(crate) async fn run(
    node: Arc<NodeInfo>,
    peers: Arc<Peers>,
    peer_statuses: Arc<PeerStatuses>,
    shards: Arc<Shards>,
    metrics: Arc<Metrics>,
    views: watch::Sender<Arc<ClusterView>>,
    stop: CancellationToken,
) {
    let mut alive: Vec<_> = peers.iter().map(|peer| peer.alive.subscribe()).collect();
    let mut duty = node.duty.subscribe();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut changes: FuturesUnordered<_> = alive.iter_mut().map(watch::Receiver::changed).collect();
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
            Ok(()) = duty.changed() => {}
            Some(_) = changes.next() => {}
        }
        drop(changes);
        // Dead nodes are published before the other nodes have answered.
        publish(&views, &node, &peers, &peer_statuses.statuses(), &shards.topology);
        let living = peers.iter().filter(|peer| peer.is_alive());
        // Compared as soon as each has answered: a node that hangs must not make the digests of the others too old.
        let asked = living.map(|peer| async {
            let status = peer_status(peer, PEER_TIMEOUT).await;
            compare_digests(&shards, &node, &status);
            hear_of_quorums(&shards, &status);
            status
        });
        let reported = futures::future::join_all(asked).await;
        metrics.replicas_diverged.set(i64::try_from(node.diverged.count()).unwrap_or(i64::MAX));
        peer_statuses.update(reported.into_iter().filter(|status| status.reachable).collect());
        let statuses = peer_statuses.statuses();
        node.disk
            .set_others_full(statuses.iter().filter(|(_, status)| status.disk_full).map(|(node, _)| *node));
        publish(&views, &node, &peers, &peer_statuses.statuses(), &shards.topology);
    }
}

/// Publishes the cluster as it is known now.
fn publish(
    views: &watch::Sender<Arc<ClusterView>>,
    node: &NodeInfo,
    peers: &Peers,
    peer_statuses: &Statuses,
    topology: &Topology,
) {
    let feature_level = topology.feature_level();
    let (clients, clients_max) = (node.sessions.count(), node.sessions.max());
    let own = NodeView {
        node_id: node.id.0,
        name: node.member.name.clone(),
        address: node.member.client.clone(),
        alive: true,
        draining: node.is_draining(),
        clients,
        clients_max,
        load_permille: node.load.borrow().score(clients, clients_max),
        web_address: node.web_address.clone(),
    };
    let others = peers.iter().map(|peer| NodeView {
        web_address: topology.web_address(peer.id),
        ..view_of(peer, peer_statuses.get(&peer.id))
    });
    let mut nodes: Vec<_> = others.chain([own]).collect();
    nodes.sort_by_key(|node| node.node_id);
    views.send_if_modified(|view| {
        // A changed load alone is not published: it would wake every subscriber every second.
        let same = same_places(&view.nodes, &nodes) && view.feature_level == feature_level;
        let version = view.version + u64::from(!same);
        *view = Arc::new(ClusterView { cluster_id: view.cluster_id.clone(), version, nodes, feature_level });
        !same
    });
}

/// Takes from another node whether it has a quorum in the shards that it leads.
fn hear_of_quorums(shards: &Shards, status: &NodeStatus) {
    for led in status.shards.iter().filter(|shard| shard.role() == Role::Leader) {
        if let Some(replica) = shards.replica(ShardId(led.shard)) {
            replica.quorum_reports.take(led.term, led.leader_id == status.node_id);
        }
    }
}

/// Compares what another node has applied with what this one had applied after as many entries. Only the node that is ahead
/// still has the other's digest, so it makes the comparison.
fn compare_digests(shards: &Shards, node: &NodeInfo, status: &NodeStatus) {
    for theirs in &status.shards {
        let (Some(replica), Some(digest)) = (shards.replica(ShardId(theirs.shard)), &theirs.digest) else {
            continue;
        };
        let digest = digest_from_proto(digest);
        let Some(ours) = replica.state.digest_after(digest.entries) else { continue };
        if node.diverged.compare(replica.shard, NodeId(status.node_id), &ours, &digest) {
            tracing::error!(
                shard = replica.shard.0,
                peer = status.node_id,
                entries = digest.entries,
                "replicas diverged, see `conclave status` and docs/deploy.md"
            );
        }
    }
}

fn view_of(peer: &Peer, status: Option<&NodeStatus>) -> NodeView {
    let member = peer.member();
    let base = NodeView {
        node_id: peer.id.0,
        name: member.name,
        address: member.client,
        alive: peer.is_alive(),
        ..NodeView::default()
    };
    // The last status of a dead node is outdated.
    match status.filter(|_| base.alive) {
        Some(status) => NodeView {
            draining: status.draining,
            clients: status.clients,
            clients_max: status.clients_max,
            load_permille: status.load_permille,
            ..base
        },
        None => base,
    }
}

fn same_places(old: &[NodeView], new: &[NodeView]) -> bool {
    let place = |node: &NodeView| {
        (node.node_id, node.alive, node.draining, node.address.clone(), node.web_address.clone())
    };
    old.iter().map(place).eq(new.iter().map(place))
}
