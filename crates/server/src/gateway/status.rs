//! What a node tells of itself, and of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_proto::chat::{GetServerStatusResponse, NodeStatus, Role, ShardStatus};
use conclave_proto::cluster::NodeRecord;
use conclave_proto::raft::NodeStatusRequest;
use conclave_store::{Store, TypeConfig};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, RaftMetrics, ServerState};

use crate::gateway::service::Gateway;
use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::shard::{Replica, Shards};

/// How long a peer gets to answer for itself.
const PEER_TIMEOUT: Duration = Duration::from_millis(300);
/// A leader whom no quorum has answered for so long leads nobody. Far above the longest election timeout.
const QUORUM_FRESH: Duration = Duration::from_secs(3);

/// This node's own status.
pub(crate) fn local_status(node: &NodeInfo, shards: &Shards, store: &Store, metrics: &Metrics) -> NodeStatus {
    let usage = store.usage();
    let load = *node.load.borrow();
    let (clients, clients_max) = (node.sessions.count(), node.sessions.max());
    NodeStatus {
        node_id: node.id.0,
        name: node.member.name.clone(),
        address: node.member.client.clone(),
        version: conclave_core::version::VERSION.to_owned(),
        reachable: true,
        draining: node.is_draining(),
        uptime_ms: u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        clients,
        clients_max,
        load_permille: load.score(clients, clients_max),
        cpu_permille: load.cpu_permille,
        queued: load.queued,
        send_p99_us: load.send_p99_us,
        sync_p99_us: metrics.sync_p99_us(),
        log_bytes: usage.log_file_bytes,
        state_bytes: usage.state_file_bytes,
        shards: shards.iter().map(|replica| shard_status(replica)).collect(),
        record: Some(NodeRecord::clone(&node.own.get())),
    }
}

fn shard_status(replica: &Replica) -> ShardStatus {
    let metrics = replica.raft.metrics();
    let metrics = metrics.borrow_watched();
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    };
    // A leader that no quorum answers any more leads nobody.
    let leader = metrics.current_leader.filter(|_| role != Role::Leader || has_quorum(&metrics));
    ShardStatus {
        shard: replica.shard.0,
        role: role.into(),
        term: metrics.current_term,
        leader_id: leader.unwrap_or(0),
        last_log_index: metrics.last_log_index.unwrap_or(0),
        committed_index: metrics.local_committed.map_or(0, |id| id.index),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        snapshot_index: metrics.snapshot.map_or(0, |id| id.index),
        purged_index: metrics.purged.map_or(0, |id| id.index),
        voters: metrics.membership_config.membership().voter_ids().collect(),
    }
}

/// Whether the replica follows a leader, or is one whom a quorum answers.
pub(crate) fn hears_from_leader(replica: &Replica) -> bool {
    let metrics = replica.raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.current_leader.is_some() && (metrics.state != ServerState::Leader || has_quorum(&metrics))
}

/// Whether a quorum has answered this leader lately.
fn has_quorum(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    alone || metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < QUORUM_FRESH)
}

/// The status of all nodes, each by its own word, and what follows from it.
pub(crate) async fn cluster_status(gateway: &Gateway, local_only: bool) -> GetServerStatusResponse {
    let Gateway { router, store, metrics, node, .. } = gateway;
    let mut nodes = vec![local_status(node, &router.shards, store, metrics)];
    if local_only {
        nodes.extend(
            router.peers.iter().map(|peer| NodeStatus { reachable: peer.is_alive(), ..unknown(peer) }),
        );
    } else {
        nodes.extend(futures::future::join_all(router.peers.iter().map(|peer| peer_status(peer))).await);
    }
    nodes.sort_by_key(|node| node.node_id);
    let layout = router.shards.meta().state.layout().unwrap_or_else(|| router.shards.layout.clone());
    let (can_lose, problems) = judge(&nodes);
    GetServerStatusResponse {
        cluster_id: format!("{:032x}", node.cluster),
        cluster_name: node.cluster_name.clone(),
        can_lose,
        healthy: problems.is_empty(),
        problems,
        shards: router.shards.data_shards,
        replicas: layout
            .shards
            .first()
            .map_or(0, |replicas| u32::try_from(replicas.len()).unwrap_or(u32::MAX)),
        layout_version: layout.version,
        nodes,
    }
}

/// What the peer says of itself, or what is known without it.
pub(crate) async fn peer_status(peer: &Peer) -> NodeStatus {
    let mut client = peer.client();
    match tokio::time::timeout(PEER_TIMEOUT, client.node_status(NodeStatusRequest {})).await {
        Ok(Ok(status)) => status.into_inner(),
        Ok(Err(_)) | Err(_) => unknown(peer),
    }
}

/// What is known of a node that does not answer.
fn unknown(peer: &Peer) -> NodeStatus {
    NodeStatus {
        node_id: peer.id.0,
        name: peer.member.name.clone(),
        address: peer.member.client.clone(),
        ..NodeStatus::default()
    }
}

/// How many more nodes may fail, and what is wrong in plain words.
fn judge(nodes: &[NodeStatus]) -> (i32, Vec<String>) {
    let mut problems = Vec::new();
    for node in nodes {
        if !node.reachable {
            problems.push(format!("{} does not answer", node.name));
        } else if node.draining {
            problems.push(format!("{} is draining", node.name));
        }
    }
    let mut voters: BTreeMap<u32, &[u64]> = BTreeMap::new();
    let mut led: BTreeMap<u32, bool> = BTreeMap::new();
    for shard in nodes.iter().flat_map(|node| &node.shards) {
        let known = voters.entry(shard.shard).or_insert(&shard.voters);
        if shard.voters.len() > known.len() {
            *known = &shard.voters;
        }
        // By the word of a leader whom a quorum answers, or of somebody who follows one.
        *led.entry(shard.shard).or_default() |= shard.leader_id != 0;
    }
    for (shard, _) in led.iter().filter(|(_, led)| !**led) {
        problems.push(format!("shard {shard} has no leader: nothing can be sent to its rooms"));
    }
    let reachable = |id: &&u64| nodes.iter().any(|node| node.node_id == **id && node.reachable);
    let spare = voters.values().map(|voters| {
        let majority = voters.len() / 2 + 1;
        let alive = voters.iter().filter(reachable).count();
        i32::try_from(alive).unwrap_or(i32::MAX) - i32::try_from(majority).unwrap_or(i32::MAX)
    });
    (spare.min().unwrap_or(-1).max(-1), problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, reachable: bool, leads: bool) -> NodeStatus {
        let role = if leads { Role::Leader } else { Role::Follower };
        let shard = ShardStatus {
            shard: 1,
            role: role.into(),
            leader_id: u64::from(leads),
            voters: vec![1, 2, 3],
            ..ShardStatus::default()
        };
        let shards = if reachable { vec![shard] } else { Vec::new() };
        NodeStatus { node_id: id, name: format!("node{id}"), reachable, shards, ..NodeStatus::default() }
    }

    #[test]
    fn what_may_still_fail() {
        let all = [node(1, true, true), node(2, true, false), node(3, true, false)];
        assert_eq!(judge(&all), (1, vec![]));
        let two = [node(1, true, true), node(2, false, false), node(3, true, false)];
        assert_eq!(judge(&two), (0, vec!["node2 does not answer".to_owned()]));
        let one = [node(1, true, false), node(2, false, false), node(3, false, false)];
        let (can_lose, problems) = judge(&one);
        assert_eq!(can_lose, -1);
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
