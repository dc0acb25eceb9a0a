//! Who should lead: a dead leader is replaced at once, a preferred one gets its shards back, and a node
//! that drains gives its shards away.
//!
//! None of this touches votes, terms or logs: an election is only begun earlier than its timeout would,
//! or asked for by a leader. A false alarm costs one needless election. Because leases can be cut short
//! here, reads never rely on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::{NodeId, ShardId};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::heard::Heard;
use crate::local::NodeInfo;
use crate::router::Router;
use crate::shard::{Replica, Shards};

/// A survivor of the next lower rank waits this much longer before it campaigns.
const RANK_DELAY: Duration = Duration::from_millis(40);
/// How often leaderships are looked at.
const BALANCE_INTERVAL: Duration = Duration::from_secs(1);
/// A preferred leader must have been there, and whoever leads in its place must have led, this long before it gets its
/// shards back.
const SETTLED: Duration = Duration::from_secs(3);
/// A follower this few entries behind can take over without a pause.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// A drained shard's transfer is asked for again after this long.
const TRANSFER_RETRY: Duration = Duration::from_millis(500);

/// Campaigns for the shards of leaders that died, until the node stops.
pub(crate) async fn replace_the_dead(
    shards: Arc<Shards>,
    mut died: mpsc::Receiver<NodeId>,
    stop: CancellationToken,
) {
    loop {
        let dead = tokio::select! {
            dead = died.recv() => dead,
            () = stop.cancelled() => return,
        };
        let Some(dead) = dead else { return };
        let campaigns =
            shards.iter().filter(|replica| replica.leader().leader == Some(dead)).map(|replica| {
                let rank = rank(&shards, replica, dead);
                async move {
                    replaced(replica, dead, RANK_DELAY * rank).await;
                    // One of lower rank that campaigned and lost, because it lacks an entry, has changed the
                    // term, but not the fact that nobody leads.
                    let nobody = replica.leader().leader.is_none_or(|leader| leader == dead);
                    if nobody {
                        campaign(replica).await;
                    }
                }
            });
        futures::future::join_all(campaigns).await;
    }
}

/// Waits until somebody else leads, or the time is up.
async fn replaced(replica: &Replica, dead: NodeId, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    loop {
        let view = replica.leader();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || view.leader.is_some_and(|leader| leader != dead) {
            return;
        }
        replica.leader_change(view, left).await;
    }
}

/// This node's place among a shard's survivors, 0 for the one that campaigns first.
fn rank(shards: &Shards, replica: &Replica, dead: NodeId) -> u32 {
    let survivors = shards.preferred(replica.shard).iter().filter(|node| **node != dead);
    let place = survivors.take_while(|node| **node != shards.me).count();
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Begins an election now, as if the dead leader had asked this replica to take over.
async fn campaign(replica: &Replica) {
    let (vote, voter) = {
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        let me = metrics.id;
        (metrics.vote, metrics.membership_config.membership().voter_ids().any(|id| id == me))
    };
    if !voter {
        return;
    }
    tracing::info!(shard = replica.shard.0, "the leader's process is gone: campaign");
    let request = TransferLeaderRequest::new(vote, replica.raft.node_id().to_owned(), None);
    replica.told.leader_died(vote.leader_id().term);
    if let Err(error) = replica.raft.handle_transfer_leader(request).await {
        tracing::warn!(shard = replica.shard.0, %error, "no campaign");
    }
}

/// Hands over what this node leads.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    router: Router,
    node: Arc<NodeInfo>,
    heard: Arc<Heard>,
}

impl Leadership {
    pub(crate) fn new(router: Router, node: Arc<NodeInfo>, heard: Arc<Heard>) -> Self {
        Self { router, node, heard }
    }

    /// Gives shards back to the nodes that should lead them, one at a time, until the node stops. A node that drains gives away
    /// whatever comes to it.
    pub(crate) async fn prefer(self) {
        let Self { router: Router { shards, peers }, node, heard } = &self;
        let mut alive_since: HashMap<NodeId, Instant> = HashMap::new();
        let mut led_since: HashMap<ShardId, (u64, Instant)> = HashMap::new();
        let mut ticks = tokio::time::interval(BALANCE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = node.stop.cancelled() => return,
            }
            if node.is_draining() {
                // Not while the first hand-over is under way.
                if node.leaving.is_cancelled() {
                    self.give_away(Instant::now() + BALANCE_INTERVAL).await;
                }
                continue;
            }
            for peer in peers.iter() {
                if peer.is_alive() && !heard.is_draining(peer.id) {
                    alive_since.entry(peer.id).or_insert_with(Instant::now);
                } else {
                    alive_since.remove(&peer.id);
                }
            }
            // On a busy machine leaders change by themselves; giving shards back at once would only add to that.
            led_since.retain(|shard, (term, _)| {
                shards.get(*shard).is_some_and(|replica| replica.leads() && replica.leader().term == *term)
            });
            for replica in shards.iter().filter(|replica| replica.leads()) {
                led_since.entry(replica.shard).or_insert_with(|| (replica.leader().term, Instant::now()));
            }
            let steady =
                |shard: ShardId| led_since.get(&shard).is_some_and(|(_, at)| at.elapsed() >= SETTLED);
            let settled =
                |node: NodeId| alive_since.get(&node).is_some_and(|since| since.elapsed() >= SETTLED);
            let moved = shards.iter().filter(|replica| replica.leads()).find_map(|replica| {
                let preferred = *shards.preferred(replica.shard).first()?;
                let wanted = preferred != shards.me
                    && settled(preferred)
                    && steady(replica.shard)
                    && caught_up(replica, preferred);
                wanted.then_some((replica, preferred))
            });
            if let Some((replica, to)) = moved {
                tracing::info!(shard = replica.shard.0, to = to.0, "give the shard to its preferred leader");
                if let Err(error) = replica.raft.trigger().transfer_leader(to.0).await {
                    tracing::warn!(shard = replica.shard.0, %error, "leadership transfer failed");
                }
            }
        }
    }

    /// Gives every leadership away, or as many as can be until the deadline. Returns whether all are gone.
    pub(crate) async fn give_away(&self, deadline: Instant) -> bool {
        let drains = self.router.shards.iter().map(|replica| async {
            while replica.leads() && Instant::now() < deadline {
                let known = replica.leader();
                let Some(to) = self.successor(replica) else {
                    return false;
                };
                tracing::info!(shard = replica.shard.0, to = to.0, "drain: give the shard away");
                if replica.raft.trigger().transfer_leader(to.0).await.is_err() {
                    return false;
                }
                replica.leader_change(known, TRANSFER_RETRY).await;
            }
            !replica.leads()
        });
        futures::future::join_all(drains).await.into_iter().all(|gone| gone)
    }

    /// The living replica that holds most of the log; of equals, the one that should lead. None that drains too.
    fn successor(&self, replica: &Replica) -> Option<NodeId> {
        let Self { router: Router { shards, peers }, heard, .. } = self;
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        let living =
            |node: &NodeId| peers.get(*node).is_some_and(|peer| peer.is_alive()) && !heard.is_draining(*node);
        let candidates = shards.preferred(replica.shard).iter().copied().filter(living);
        candidates.rev().max_by_key(|node| matched(&metrics, *node))
    }
}

fn caught_up(replica: &Replica, node: NodeId) -> bool {
    let metrics = replica.raft.metrics();
    let metrics = metrics.borrow_watched();
    matched(&metrics, node)
        .is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= metrics.last_log_index.unwrap_or(0))
}

fn matched(metrics: &openraft::RaftMetrics<conclave_store::TypeConfig>, node: NodeId) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node.0)?.as_ref().map(|log_id| log_id.index)
}
