//! The status of this node, and the statuses that peers report.

use std::time::Duration;

use conclave_proto::chat::{self, NodeStatus, Role, ShardStatus};
use conclave_proto::cluster::NodeRecord;
use conclave_proto::raft::NodeStatusRequest;
use conclave_store::{AppliedDigest, DigestSum, Store};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::Instant;

use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::shard::{Replica, Shards};

/// Deadline for a peer to report its status to another node. A caller of the API may have more time.
pub(crate) const PEER_TIMEOUT: Duration = Duration::from_millis(300);

/// This node's own status.
pub(crate) fn local_status(node: &NodeInfo, shards: &Shards, store: &Store, metrics: &Metrics) -> NodeStatus {
    let usage = store.usage();
    let load = *node.load.borrow();
    let (clients, clients_max) = (node.sessions.count(), node.sessions.max());
    let now = Instant::now();
    let gaps = shards.replicas().map(|replica| replica.heartbeats.longest_gap(now));
    let heartbeat_gap = gaps.max().unwrap_or_default();
    let (disk_free_bytes, disk_size_bytes) = node.disk.free_and_size();
    NodeStatus {
        node_id: node.id.0,
        name: node.member.name.clone(),
        address: node.member.client.clone(),
        version: conclave_core::version::VERSION.to_owned(),
        reachable: true,
        draining: node.duty.drains_or_intends_to(),
        disk_full: node.disk.is_full(),
        disk_free_bytes,
        disk_size_bytes,
        heartbeat_gap_ms: u32::try_from(heartbeat_gap.as_millis()).unwrap_or(u32::MAX),
        clock_ms: node.clock.now_ms(),
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
        shards: shards.replicas().map(|replica| shard_status(node, replica)).collect(),
        record: Some(NodeRecord::clone(&node.own.get())),
    }
}

fn shard_status(node: &NodeInfo, replica: &Replica) -> ShardStatus {
    let digest = replica.state.digest();
    let metrics = replica.raft.metrics();
    let metrics = metrics.borrow_watched();
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    };
    ShardStatus {
        shard: replica.shard.0,
        role: role.into(),
        term: metrics.current_term,
        leader_id: replica.leader_with_quorum_in(&metrics).map_or(0, |leader| leader.0),
        last_log_index: metrics.last_log_index.unwrap_or(0),
        committed_index: metrics.local_committed.map_or(0, |id| id.index),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        snapshot_index: metrics.snapshot.map_or(0, |id| id.index),
        purged_index: metrics.purged.map_or(0, |id| id.index),
        voters: metrics.membership_config.membership().voter_ids().collect(),
        digest: Some(chat::AppliedDigest {
            entries: digest.entries,
            total_since: digest.total.since,
            total: digest.total.sum,
            window_since: digest.window.since,
            window: digest.window.sum,
            version: digest.version,
        }),
        diverged: node.diverged.of(replica.shard),
    }
}

/// A digest that another node reports.
pub(crate) fn digest_from_proto(digest: &chat::AppliedDigest) -> AppliedDigest {
    AppliedDigest {
        version: digest.version,
        entries: digest.entries,
        total: DigestSum { since: digest.total_since, sum: digest.total },
        window: DigestSum { since: digest.window_since, sum: digest.window },
    }
}

/// The status that the peer reports, or [`unknown`] if it does not answer in time.
pub(crate) async fn peer_status(peer: &Peer, patience: Duration) -> NodeStatus {
    let mut client = peer.client();
    match tokio::time::timeout(patience, client.node_status(NodeStatusRequest {})).await {
        Ok(Ok(status)) => status.into_inner(),
        Ok(Err(_)) | Err(_) => unknown(peer),
    }
}

/// The status of a node that does not answer.
pub(crate) fn unknown(peer: &Peer) -> NodeStatus {
    let member = peer.member();
    NodeStatus { node_id: peer.id.0, name: member.name, address: member.client, ..NodeStatus::default() }
}
