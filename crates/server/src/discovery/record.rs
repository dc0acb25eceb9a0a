//! What this node says of itself to those who help others to find it.

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
use crate::config::Member;
use crate::discovery::lookup::Lookup;
use crate::health::Health;
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
/// A revision further ahead of this clock, in tenths of seconds, is not believed: somebody made it up.
const AHEAD_MAX: u64 = 100 * 366 * 86_400 * 10;

/// The node's own record, as it is now.
#[derive(Debug)]
pub(crate) struct Own {
    record: watch::Sender<Arc<NodeRecord>>,
    /// Something changed that the record may have to say.
    pub(crate) news: Arc<Notify>,
    clock: Clock,
}

impl Own {
    /// The record of a node that has only just begun to start.
    pub(crate) fn new(record: NodeRecord, clock: Clock) -> Self {
        // Above what this node said before it was started again, however soon that was.
        let revision = tenths(&clock) + 1;
        let record = watch::Sender::new(Arc::new(NodeRecord { revision, ..record }));
        Self { record, news: Arc::default(), clock }
    }

    pub(crate) fn get(&self) -> Arc<NodeRecord> {
        Arc::clone(&self.record.borrow())
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<NodeRecord>> {
        self.record.subscribe()
    }

    /// Says something new, if it is new.
    fn say(&self, record: NodeRecord) {
        self.record.send_if_modified(|known| {
            let record = NodeRecord { revision: known.revision, ..record };
            if record == **known {
                return false;
            }
            let revision = next_revision(tenths(&self.clock), known.revision);
            tracing::debug!(
                revision,
                ready = record.ready,
                weight = record.weight,
                "a new record of this node"
            );
            *known = Arc::new(NodeRecord { revision, ..record });
            true
        });
    }

    /// Says the same again with a revision above `known`, if it is not above it yet.
    pub(crate) fn raise(&self, known: u64) {
        let now = tenths(&self.clock);
        if known > now.saturating_add(AHEAD_MAX) {
            tracing::warn!(
                revision = known,
                "a resolver knows a record of this node from a far future; not believed"
            );
            return;
        }
        self.record.send_if_modified(|record| {
            if record.revision > known {
                return false;
            }
            *record =
                Arc::new(NodeRecord { revision: next_revision(now, known), ..NodeRecord::clone(record) });
            true
        });
    }
}

/// Tenths of seconds since 1970.
fn tenths(clock: &Clock) -> u64 {
    u64::try_from(clock.now_ms() / 100).unwrap_or(0)
}

fn next_revision(now: u64, last: u64) -> u64 {
    now.max(last.saturating_add(1))
}

/// What never changes while the node runs.
pub(crate) fn first(id: u64, member: &Member, cluster: u128) -> NodeRecord {
    NodeRecord {
        node_id: id,
        name: member.name.clone(),
        cluster_id: format!("{cluster:032x}"),
        client: member.client.clone(),
        peer: member.peer.clone(),
        http: member.http.clone(),
        version: conclave_core::version::VERSION.to_owned(),
        role: MemberRole::Learner.into(),
        weight: 100,
        ..NodeRecord::default()
    }
}

/// Keeps the record true until the node stops.
pub(crate) async fn keep(health: Arc<Health>, tasks: TaskTracker, stop: CancellationToken) {
    let own = &health.node.own;
    let (found, mut ips) = watch::channel(Vec::new());
    tasks.spawn(find_ips(health.node.member.client.clone(), found, Arc::clone(&own.news), stop.clone()));
    for replica in health.shards.iter() {
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
        own.say(now(&health, &own.get(), ips.borrow_and_update().clone()));
    }
}

/// What the node is now.
fn now(health: &Health, before: &NodeRecord, ips: Vec<String>) -> NodeRecord {
    let node = &health.node;
    let load = *node.load.borrow();
    let score = load.score(node.sessions.count(), node.sessions.max());
    let (role, leads, votes_in) = roles(&health.shards);
    NodeRecord {
        ips,
        ready: health.is_ready(),
        draining: node.is_draining(),
        full: node.sessions.is_full(),
        role: role.into(),
        weight: weight(before.weight, score),
        leads,
        votes_in,
        ..before.clone()
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

    fn own(now_ms: i64) -> Own {
        let clock = Clock::default();
        clock.set_offset_ms(now_ms - clock.now_ms());
        let member =
            Member { name: "n1".into(), peer: "h:1".into(), client: "h:2".into(), http: "h:3".into() };
        Own::new(first(7, &member, 0xab), clock)
    }

    #[test]
    fn a_change_raises_the_revision_and_nothing_else_does() {
        let own = own(1_000_000);
        let first = own.get();
        assert!((10_001..10_100).contains(&first.revision), "{first:?}");
        let mut news = own.subscribe();
        own.say(NodeRecord { revision: 99, ..NodeRecord::clone(&first) });
        assert!(!news.has_changed().unwrap());
        own.say(NodeRecord { ready: true, ..NodeRecord::clone(&first) });
        own.say(NodeRecord { ready: false, ..NodeRecord::clone(&first) });
        assert!(news.has_changed().unwrap());
        let third = news.borrow_and_update().clone();
        assert!(third.revision >= first.revision + 2, "also within one tenth of a second");
        assert_eq!(NodeRecord { revision: first.revision, ..NodeRecord::clone(&third) }, *first);
    }

    #[test]
    fn what_a_resolver_knows_is_outbid_once() {
        let own = own(1_000_000);
        let before = own.get();
        own.raise(before.revision - 1);
        assert_eq!(own.get(), before);
        own.raise(before.revision + 500);
        let raised = own.get();
        assert_eq!(raised.revision, before.revision + 501);
        own.raise(before.revision + 500);
        assert_eq!(own.get(), raised);
        own.raise(u64::MAX);
        assert_eq!(own.get(), raised, "nobody can end the numbers");
    }

    #[test]
    fn addresses_are_sorted_and_few() {
        let ips = ["10.0.0.2", "::", "10.0.0.1", "10.0.0.2", "0.0.0.0", "fe80::1", "::ffff:10.0.0.3"];
        let ips = presentable(ips.into_iter().map(|ip| ip.parse().unwrap()));
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fe80::1"]);
        assert_eq!(presentable((0..99).map(|n| [10, 0, 0, n].into())).len(), NODE_IPS_MAX);
    }
}
