//! The cluster's status as a JSON object.

use conclave_proto::chat::{GetServerStatusResponse, NodeStatus, Role, ShardStatus};
use serde::Serialize;

use super::{applied_and_lag, leaderless, newest};

/// The status as a JSON object. Its keys never change their meaning.
#[derive(Debug, Serialize)]
pub(crate) struct Json<'a> {
    cluster: &'a str,
    cluster_id: &'a str,
    healthy: bool,
    can_lose: i32,
    problems: &'a [String],
    shards: u32,
    replicas: u32,
    layout_version: u64,
    feature_level: u32,
    leaderless: Vec<u32>,
    nodes: Vec<JsonNode<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonNode<'a> {
    name: &'a str,
    node_id: u64,
    address: &'a str,
    version: &'a str,
    reachable: bool,
    draining: bool,
    uptime_ms: u64,
    clients: u32,
    sync_p99_us: u32,
    log_bytes: u64,
    state_bytes: u64,
    /// `null` if not known.
    disk_free_bytes: Option<u64>,
    /// `null` if not known.
    disk_size_bytes: Option<u64>,
    disk_full: bool,
    applied: u64,
    lag: u64,
    clients_max: u32,
    load_permille: u32,
    cpu_permille: u32,
    queued: u32,
    send_p99_us: u32,
    heartbeat_gap_ms: u32,
    shards: Vec<JsonShard>,
}

#[derive(Debug, Serialize)]
struct JsonShard {
    shard: u32,
    role: &'static str,
    term: u64,
    leader_id: u64,
    last_log: u64,
    committed: u64,
    applied: u64,
    lag: u64,
    snapshot: u64,
    purged: u64,
    voters: Vec<u64>,
}

/// The status as a JSON object.
pub(crate) fn json(status: &GetServerStatusResponse) -> Json<'_> {
    Json {
        cluster: &status.cluster_name,
        cluster_id: &status.cluster_id,
        healthy: status.healthy,
        can_lose: status.can_lose,
        problems: &status.problems,
        shards: status.shards,
        replicas: status.replicas,
        layout_version: status.layout_version,
        feature_level: status.feature_level,
        leaderless: leaderless(status),
        nodes: status.nodes.iter().map(|node| json_node(status, node)).collect(),
    }
}

impl Json<'_> {
    /// The log entries that replicas still have to apply, summed over all replicas.
    pub(crate) fn lag(&self) -> u64 {
        self.nodes.iter().map(|node| node.lag).sum()
    }
}

fn json_node<'a>(status: &GetServerStatusResponse, node: &'a NodeStatus) -> JsonNode<'a> {
    let (applied, lag) = applied_and_lag(status, node);
    let shard = |state: &ShardStatus| JsonShard {
        shard: state.shard,
        role: role_word(state.role()),
        term: state.term,
        leader_id: state.leader_id,
        last_log: state.last_log_index,
        committed: state.committed_index,
        applied: state.applied_index,
        lag: newest(status, state.shard).saturating_sub(state.applied_index),
        snapshot: state.snapshot_index,
        purged: state.purged_index,
        voters: state.voters.clone(),
    };
    JsonNode {
        name: &node.name,
        node_id: node.node_id,
        address: &node.address,
        version: &node.version,
        reachable: node.reachable,
        draining: node.draining,
        uptime_ms: node.uptime_ms,
        clients: node.clients,
        sync_p99_us: node.sync_p99_us,
        log_bytes: node.log_bytes,
        state_bytes: node.state_bytes,
        disk_free_bytes: (node.disk_size_bytes > 0).then_some(node.disk_free_bytes),
        disk_size_bytes: (node.disk_size_bytes > 0).then_some(node.disk_size_bytes),
        disk_full: node.disk_full,
        applied,
        lag,
        clients_max: node.clients_max,
        load_permille: node.load_permille,
        cpu_permille: node.cpu_permille,
        queued: node.queued,
        send_p99_us: node.send_p99_us,
        heartbeat_gap_ms: node.heartbeat_gap_ms,
        shards: node.shards.iter().map(shard).collect(),
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Unspecified => "unknown",
    }
}
