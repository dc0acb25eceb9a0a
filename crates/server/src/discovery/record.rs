//! Keeps true what this node says of itself to those who help others to find it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::{NODE_IPS_MAX, REGISTER_INTERVAL};
use conclave_proto::cluster::{MemberRole, NodeRecord, ShardLead};
use openraft::ServerState;
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

/// Changes that come this soon after each other make one new record: an election changes several things at once.
const COALESCE: Duration = Duration::from_millis(10);
/// How often the addresses of the host are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// And how soon again while there are none.
const LOOKUP_RETRY: Duration = Duration::from_secs(2);
/// How long a look-up is waited for.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(20);

/// Keeps the record true until the node stops.
pub(crate) async fn keep(
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
    for replica in shards.iter() {
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
        own.say(now(&node, &shards, &health, ips.borrow_and_update().clone()), clock.now_ms());
    }
}

/// What the node is now.
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

/// Of the meta shard, and the shards that this node leads and votes in.
fn roles(shards: &Shards) -> (MemberRole, Vec<ShardLead>, Vec<u32>) {
    let (mut leads, mut votes_in) = (Vec::new(), Vec::new());
    for replica in shards.iter() {
        let metrics = replica.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            leads.push(ShardLead { shard: replica.shard.0, term: metrics.vote.leader_id().term });
        }
        if metrics.membership_config.membership().voter_ids().any(|voter| voter == metrics.id) {
            votes_in.push(replica.shard.0);
        }
    }
    let role = if votes_in.first() == Some(&0) { MemberRole::Voter } else { MemberRole::Learner };
    (role, leads, votes_in)
}

/// Tells whenever the replica's role changes, until the node stops.
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

/// Finds the addresses of the host that clients are told to connect to, again and again: it may get others.
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
            // What was found before still counts.
            Err(error) => tracing::debug!(address, %error, "the host's addresses are not known"),
        }
        let pause = if found.borrow().is_empty() { LOOKUP_RETRY } else { LOOKUP_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Sorted, each once, not too many, and none that means "any address".
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
