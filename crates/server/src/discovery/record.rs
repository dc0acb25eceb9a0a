//! Updates this node's record, from which name servers and clients learn how to find it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::{NODE_IPS_MAX, REGISTER_INTERVAL};
use conclave_proto::cluster::{MemberRole, NodeRecord, ShardLead};
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::cluster::health::Health;
use crate::discovery::lookup::Lookup;
use crate::local::NodeInfo;
use crate::local::load::weight;
use crate::shard::{Replica, Shards};

/// Changes within this time make one new record: an election changes several values at once.
const COALESCE: Duration = Duration::from_millis(10);
/// How often the host's addresses are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// Pause before the next lookup while no address is known.
const LOOKUP_RETRY: Duration = Duration::from_secs(2);
/// Deadline of one lookup.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(20);

/// Updates the record until the node stops.
pub(crate) async fn run(
    node: Arc<NodeInfo>,
    shards: Arc<Shards>,
    health: Arc<Health>,
    clock: Clock,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let own = &node.own;
    let (found, mut ips) = watch::channel(Vec::new());
    tasks.spawn(find_ips(node.member.client.clone(), found, Arc::clone(&own.news), stop.clone()));
    for replica in shards.replicas() {
        tasks.spawn(watch_role(Arc::clone(replica), Arc::clone(&own.news), stop.clone()));
    }
    let mut ticks = tokio::time::interval(REGISTER_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = own.news.notified() => tokio::time::sleep(COALESCE).await,
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        own.publish(now(&node, &shards, &health, ips.borrow_and_update().clone()), clock.now_ms());
    }
}

/// The node's record as of now.
fn now(node: &NodeInfo, shards: &Shards, health: &Health, ips: Vec<String>) -> NodeRecord {
    let before = node.own.get();
    let load = *node.load.borrow();
    let score = load.score(node.sessions.count(), node.sessions.max());
    let (role, leads, votes_in) = roles(shards);
    NodeRecord {
        ips,
        ready: health.is_ready(),
        draining: node.is_draining(),
        full: node.sessions.is_full(),
        role: role.into(),
        weight: weight(before.weight, score),
        leads,
        votes_in,
        ..NodeRecord::clone(&before)
    }
}

/// This node's role in the meta shard, the shards that it leads, and the shards in which it is a voter.
fn roles(shards: &Shards) -> (MemberRole, Vec<ShardLead>, Vec<u32>) {
    let (mut leads, mut votes_in) = (Vec::new(), Vec::new());
    for replica in shards.replicas() {
        let leads_here = replica.leads_as_far_as_known();
        let metrics = replica.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        // A leader without a quorum leads nobody.
        if leads_here {
            leads.push(ShardLead { shard: replica.shard.0, term: metrics.vote.leader_id().term });
        }
        if metrics.membership_config.membership().voter_ids().any(|voter| voter == metrics.id) {
            votes_in.push(replica.shard.0);
        }
    }
    let role = if votes_in.first() == Some(&0) { MemberRole::Voter } else { MemberRole::Learner };
    (role, leads, votes_in)
}

/// Notifies of each change of the replica's role, until the node stops.
async fn watch_role(replica: Arc<Replica>, news: Arc<Notify>, stop: CancellationToken) {
    let mut metrics = replica.raft.server_metrics();
    loop {
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        news.notify_one();
    }
}

/// Looks up the host that clients are told to connect to, periodically: its addresses may change.
async fn find_ips(
    address: String,
    found: watch::Sender<Vec<String>>,
    news: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut lookup = Lookup::new(&address);
    loop {
        let looked = tokio::select! {
            looked = lookup.addresses(LOOKUP_DEADLINE) => looked,
            () = stop.cancelled() => return,
        };
        match looked {
            Ok(addresses) => {
                let ips = presentable(addresses.into_iter().map(|address| address.ip()));
                if found.send_if_modified(|known| std::mem::replace(known, ips.clone()) != ips) {
                    news.notify_one();
                }
            }
            // The addresses found before stay valid.
            Err(error) => tracing::debug!(address, %error, "failed to look up the host's addresses"),
        }
        let pause = if found.borrow().is_empty() { LOOKUP_RETRY } else { LOOKUP_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The addresses sorted, without duplicates and without unspecified addresses, up to the maximum.
fn presentable(ips: impl Iterator<Item = IpAddr>) -> Vec<String> {
    let mut ips: Vec<_> = ips.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified()).collect();
    ips.sort();
    ips.dedup();
    ips.truncate(NODE_IPS_MAX);
    ips.iter().map(IpAddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sorted_and_few() {
        let ips = ["10.0.0.2", "::", "10.0.0.1", "10.0.0.2", "0.0.0.0", "fe80::1", "::ffff:10.0.0.3"];
        let ips = presentable(ips.into_iter().map(|ip| ip.parse().unwrap()));
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fe80::1"]);
        assert_eq!(presentable((0..99).map(|n| [10, 0, 0, n].into())).len(), NODE_IPS_MAX);
    }
}
