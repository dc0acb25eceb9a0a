//! The status of the cluster, as its nodes report it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conclave_proto::chat::{GetServerStatusResponse, NodeStatus};
use conclave_proto::status::{DISK_FULL, DIVERGED};
use conclave_store::Store;
use tonic::metadata::MetadataMap;

use crate::api::gateway::Gateway;
use crate::local::NodeInfo;
use crate::metrics::Metrics;
use crate::router::Router;
use crate::status::{PEER_TIMEOUT, local_status, peer_status, unknown};

/// How many patiences there are: calls share a question only with calls of the same one.
pub(crate) const PATIENCES: usize = 4;
/// Part of the caller's time that the other nodes get for their answers: the caller asks another node as well if there is none.
const PATIENCE_PART: u32 = 8;
/// The header of gRPC with the time that the caller waits.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// How long the other nodes have for their answers, as an index: [`PEER_TIMEOUT`], doubled with each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience(usize);

impl Patience {
    /// An eighth of the time that the caller waits, [`PEER_TIMEOUT`] if the caller says nothing.
    pub(crate) fn of(headers: &MetadataMap) -> Self {
        let said = headers.get(GRPC_TIMEOUT).and_then(|value| timeout(value.to_str().ok()?));
        let part = said.unwrap_or_default() / PATIENCE_PART;
        let fits = (0..PATIENCES).rev().find(|index| Self(*index).time() <= part);
        Self(fits.unwrap_or(0))
    }

    fn time(self) -> Duration {
        PEER_TIMEOUT * (1 << self.0)
    }
}

/// The value of the header `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = digits.parse::<u64>().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The status of all nodes, each as the node itself reports it, and what follows from it. Calls at the same time share one
/// question to each other node.
pub(crate) async fn cluster_status(
    gateway: &Gateway,
    local_only: bool,
    patience: Patience,
) -> GetServerStatusResponse {
    // Without the gateway itself, which owns the calls that wait.
    let Gateway { router, store, metrics, node, .. } = gateway.clone();
    let time = (!local_only).then(|| patience.time());
    let collected = move || async move { collect(&router, &store, &metrics, &node, time).await };
    match gateway.statuses.get(patience.0) {
        Some(shared) if !local_only => shared.run(collected).await,
        _ => collected().await,
    }
}

/// The other nodes are asked for at most `patience`; with `None` they are not asked.
async fn collect(
    router: &Router,
    store: &Store,
    metrics: &Metrics,
    node: &NodeInfo,
    patience: Option<Duration>,
) -> GetServerStatusResponse {
    let mut nodes = vec![local_status(node, &router.shards, store, metrics)];
    match patience {
        None => nodes.extend(
            router.peers.iter().map(|peer| NodeStatus { reachable: peer.is_alive(), ..unknown(peer) }),
        ),
        Some(patience) => {
            let asked = router.peers.iter().map(|peer| peer_status(peer, patience));
            nodes.extend(futures::future::join_all(asked).await);
        }
    }
    nodes.sort_by_key(|node| node.node_id);
    let topology = &router.shards.topology;
    let layout = topology.layout();
    let (can_lose, problems) = judge(&nodes);
    GetServerStatusResponse {
        cluster_id: format!("{:032x}", node.cluster),
        cluster_name: node.cluster_name.clone(),
        can_lose,
        healthy: problems.is_empty(),
        problems,
        shards: topology.data_shards(),
        replicas: layout
            .shards
            .first()
            .map_or(0, |replicas| u32::try_from(replicas.len()).unwrap_or(u32::MAX)),
        layout_version: layout.version,
        feature_level: topology.feature_level(),
        nodes,
    }
}

/// How many more nodes may fail while every shard keeps a majority, and a description of each problem.
fn judge(nodes: &[NodeStatus]) -> (i32, Vec<String>) {
    let mut problems = Vec::new();
    for node in nodes {
        if !node.reachable {
            problems.push(format!("{} does not answer", node.name));
        } else if node.draining {
            problems.push(format!("{} is draining", node.name));
        }
        if node.disk_full {
            problems
                .push(format!("the disk of {} has little room: it takes no writes ({DISK_FULL})", node.name));
        }
    }
    problems.extend(divergences(nodes));
    let mut voters: BTreeMap<u32, &[u64]> = BTreeMap::new();
    let mut led: BTreeMap<u32, bool> = BTreeMap::new();
    for shard in nodes.iter().flat_map(|node| &node.shards) {
        let known = voters.entry(shard.shard).or_insert(&shard.voters);
        if shard.voters.len() > known.len() {
            *known = &shard.voters;
        }
        // A follower may still believe in a leader that says itself that it has no quorum.
        let denies = |node: &NodeStatus| {
            let own = node.shards.iter().find(|own| own.shard == shard.shard);
            node.node_id == shard.leader_id && own.is_some_and(|own| own.leader_id != node.node_id)
        };
        let is_led = shard.leader_id != 0 && !nodes.iter().any(denies);
        *led.entry(shard.shard).or_default() |= is_led;
    }
    let leaderless: Vec<u32> = led.iter().filter(|(_, led)| !**led).map(|(shard, _)| *shard).collect();
    if leaderless.len() == led.len() && led.len() > 1 {
        problems.push("no leader in any shard: messages to all rooms wait".to_owned());
    } else {
        let problem = |shard| format!("shard {shard} has no leader: messages to its rooms wait");
        problems.extend(leaderless.into_iter().map(problem));
    }
    let reachable = |id: &&u64| nodes.iter().any(|node| node.node_id == **id && node.reachable);
    let spare = voters.values().map(|voters| {
        let majority = voters.len() / 2 + 1;
        let alive = voters.iter().filter(reachable).count();
        i32::try_from(alive).unwrap_or(i32::MAX) - i32::try_from(majority).unwrap_or(i32::MAX)
    });
    (spare.min().unwrap_or(-1).max(-1), problems)
}

/// A sentence for each pair of replicas that have applied different things.
fn divergences(nodes: &[NodeStatus]) -> BTreeSet<String> {
    let name = |id: u64| nodes.iter().find(|node| node.node_id == id).map_or("?", |node| node.name.as_str());
    let pairs = nodes.iter().flat_map(|node| {
        node.shards.iter().flat_map(move |shard| {
            shard
                .diverged
                .iter()
                .map(move |other| (shard.shard, node.node_id.min(*other), node.node_id.max(*other)))
        })
    });
    let sentence = |(shard, one, other)| {
        format!(
            "{DIVERGED}: {} and {} have applied different things in shard {shard}; their messages may differ",
            name(one),
            name(other)
        )
    };
    pairs.map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{Role, ShardStatus};

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
    fn a_caller_with_more_time_gives_the_other_nodes_more() {
        let time = |said: &str| {
            let mut headers = MetadataMap::new();
            headers.insert(GRPC_TIMEOUT, said.parse().unwrap());
            Patience::of(&headers).time()
        };
        assert_eq!(Patience::of(&MetadataMap::new()).time(), PEER_TIMEOUT);
        for (said, ms) in [
            ("100m", 300),
            ("2S", 300),
            ("4800m", 600),
            ("5000000u", 600),
            ("10S", 1_200),
            ("99999999H", 2_400),
        ] {
            assert_eq!(time(said), Duration::from_millis(ms), "{said}");
        }
        for wrong in ["S", "10", "-1S", "999999999S", "10s"] {
            assert_eq!(time(wrong), PEER_TIMEOUT, "{wrong}");
        }
    }

    #[test]
    fn replicas_that_differ_are_one_problem_for_both_of_their_nodes() {
        let mut nodes = [node(1, true, true), node(2, true, false), node(3, true, false)];
        nodes[0].shards[0].diverged = vec![3];
        nodes[2].shards[0].diverged = vec![1];
        let (can_lose, problems) = judge(&nodes);
        assert_eq!((can_lose, problems.len()), (1, 1), "{problems:?}");
        assert!(
            problems[0].starts_with("DIVERGED: node1 and node3 have applied different things in shard 1")
        );
    }

    #[test]
    fn the_tolerable_failures_are_the_live_voters_beyond_a_majority() {
        let all = [node(1, true, true), node(2, true, false), node(3, true, false)];
        assert_eq!(judge(&all), (1, vec![]));
        let two = [node(1, true, true), node(2, false, false), node(3, true, false)];
        assert_eq!(judge(&two), (0, vec!["node2 does not answer".to_owned()]));
        let mut two_of_five = [node(1, true, true), node(2, true, false)];
        two_of_five[1].shards[0].leader_id = 1;
        assert_eq!(judge(&two_of_five).1, Vec::<String>::new());
        // It leads in its term, and has lost its quorum, of which its follower has not heard yet.
        two_of_five[0].shards[0].leader_id = 0;
        let (_, problems) = judge(&two_of_five);
        assert_eq!(problems, ["shard 1 has no leader: messages to its rooms wait"]);
        let mut one = [node(1, true, false), node(2, false, false), node(3, false, false)];
        let (can_lose, problems) = judge(&one);
        assert_eq!(can_lose, -1);
        assert_eq!(problems.len(), 3, "{problems:?}");
        // One sentence, however many shards there are.
        let meta = ShardStatus { shard: 0, ..one[0].shards[0].clone() };
        one[0].shards.push(meta);
        let (_, problems) = judge(&one);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[2].starts_with("no leader in any shard"), "{problems:?}");
        one[0].shards[1].leader_id = 1;
        let (_, problems) = judge(&one);
        assert_eq!(problems[2], "shard 1 has no leader: messages to its rooms wait");
        let mut full = all;
        full[1].disk_full = true;
        let (can_lose, problems) = judge(&full);
        assert_eq!(can_lose, 1);
        assert!(problems.len() == 1 && problems[0].contains("disk of node2"), "{problems:?}");
    }
}
