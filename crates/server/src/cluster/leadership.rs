//! Who should lead: a dead leader is replaced at once, a preferred leader gets its shards back, and a node that drains or
//! whose disk has no room transfers its shards away.
//!
//! Nothing here touches votes, terms or logs: an election only starts earlier than its timeout would start it, or at a
//! leader's request. A false alarm costs one needless election. Because leases can be cut short here, reads never rely
//! on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::{NodeId, ShardId};
use conclave_store::TypeConfig;
use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::peer_statuses::PeerStatuses;
use crate::local::NodeInfo;
use crate::router::Router;
use crate::shard::{Replica, Shards};

/// Each surviving replica waits this much longer than the one ranked before it, before it starts an election.
const RANK_DELAY: Duration = Duration::from_millis(40);
/// How often leaderships are checked.
const BALANCE_INTERVAL: Duration = Duration::from_secs(1);
/// Before a shard goes back to its preferred leader, that node must have been alive, and the current leader must have
/// led, for this long.
const SETTLED: Duration = Duration::from_secs(3);
/// Maximum number of missing entries with which a follower can take over without a pause.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// How long a drained shard's leader waits for a transfer to succeed before it requests the next one.
const TRANSFER_RETRY: Duration = Duration::from_millis(500);

/// Starts elections in the shards of dead leaders, until the node stops.
pub(crate) async fn replace_dead_leaders(
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
            shards.replicas().filter(|replica| replica.leader().leader == Some(dead)).map(|replica| {
                let rank = rank(&shards, replica, dead);
                async move {
                    replaced(replica, dead, RANK_DELAY * rank).await;
                    // A candidate of lower rank that lost, because it lacks an entry, has raised the term; the shard
                    // still has no leader.
                    let nobody = replica.leader().leader.is_none_or(|leader| leader == dead);
                    if nobody {
                        campaign(replica).await;
                    }
                }
            });
        futures::future::join_all(campaigns).await;
    }
}

/// Waits until another node leads, or until `at_most` has passed.
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

/// This node's rank among a shard's surviving replicas; rank 0 starts an election first.
fn rank(shards: &Shards, replica: &Replica, dead: NodeId) -> u32 {
    let replicas = shards.topology.replicas(replica.shard);
    let survivors = replicas.iter().filter(|node| **node != dead);
    let place = survivors.take_while(|node| **node != shards.me()).count();
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Starts an election now, as if the dead leader had asked this replica to take over.
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
    tracing::info!(shard = replica.shard.0, "leader process exited, starting election");
    let request = TransferLeaderRequest::new(vote, replica.raft.node_id().to_owned(), None);
    replica.early_elections.leader_died(vote.leader_id().term);
    if let Err(error) = replica.raft.handle_transfer_leader(request).await {
        tracing::warn!(shard = replica.shard.0, %error, "failed to start election");
    }
}

/// Why a node gives its leaderships away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// It stops, or an operator asked for it.
    Draining,
    /// Its disk has no room.
    DiskFull,
}

/// Transfers leaderships away from this node.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    router: Router,
    node: Arc<NodeInfo>,
    peer_statuses: Arc<PeerStatuses>,
}

impl Leadership {
    pub(crate) fn new(router: Router, node: Arc<NodeInfo>, peer_statuses: Arc<PeerStatuses>) -> Self {
        Self { router, node, peer_statuses }
    }

    /// Transfers shards to their preferred leaders, one at a time, until the node stops. A draining node transfers
    /// away every shard that it comes to lead.
    pub(crate) async fn restore_preferred_leaders(self) {
        let Self { router: Router { shards, peers, .. }, node, peer_statuses } = &self;
        let mut alive_since: HashMap<NodeId, Instant> = HashMap::new();
        let mut led_since: HashMap<ShardId, (u64, Instant)> = HashMap::new();
        let mut disk = node.disk.subscribe();
        let mut ticks = tokio::time::interval(BALANCE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // At once: until another node leads, the shards take no writes.
                Ok(()) = disk.changed() => {}
                () = node.stop.cancelled() => return,
            }
            if node.is_draining() {
                // Not while the drain itself is still transferring.
                if node.duty.get().is_drained() {
                    self.transfer_all(Away::Draining, Instant::now() + BALANCE_INTERVAL).await;
                }
                continue;
            }
            if node.disk.is_full() {
                self.transfer_all(Away::DiskFull, Instant::now() + BALANCE_INTERVAL).await;
                continue;
            }
            for peer in peers.iter() {
                let wanted = !peer_statuses.is_draining(peer.id) && !peer_statuses.is_disk_full(peer.id);
                if peer.is_alive() && wanted {
                    alive_since.entry(peer.id).or_insert_with(Instant::now);
                } else {
                    alive_since.remove(&peer.id);
                }
            }
            // On a busy machine leaders change by themselves; immediate transfers would add to that.
            led_since.retain(|shard, (term, _)| {
                shards.get(*shard).is_some_and(|shard| shard.leads() && shard.leader().term == *term)
            });
            for replica in shards.replicas().filter(|replica| replica.leads()) {
                led_since.entry(replica.shard).or_insert_with(|| (replica.leader().term, Instant::now()));
            }
            let steady =
                |shard: ShardId| led_since.get(&shard).is_some_and(|(_, at)| at.elapsed() >= SETTLED);
            let settled =
                |node: NodeId| alive_since.get(&node).is_some_and(|since| since.elapsed() >= SETTLED);
            let moved = shards.replicas().filter(|replica| replica.leads()).find_map(|replica| {
                let preferred = *shards.topology.replicas(replica.shard).first()?;
                let wanted = preferred != shards.me()
                    && settled(preferred)
                    && steady(replica.shard)
                    && caught_up(&replica.raft.metrics().borrow_watched(), preferred);
                wanted.then_some((replica, preferred))
            });
            if let Some((replica, to)) = moved {
                tracing::info!(
                    shard = replica.shard.0,
                    to = to.0,
                    "transferring leadership to the preferred leader"
                );
                if let Err(error) = replica.raft.trigger().transfer_leader(to.0).await {
                    tracing::warn!(shard = replica.shard.0, %error, "leadership transfer failed");
                }
            }
        }
    }

    /// Transfers all leaderships away until the deadline. Returns whether none is left.
    pub(crate) async fn transfer_all(&self, why: Away, deadline: Instant) -> bool {
        let drains = self.router.shards.replicas().map(|replica| async {
            while replica.leads() && Instant::now() < deadline {
                let known = replica.leader();
                let Some(to) = self.successor(replica, why) else {
                    return false;
                };
                tracing::info!(shard = replica.shard.0, to = to.0, ?why, "transferring leadership away");
                if replica.raft.trigger().transfer_leader(to.0).await.is_err() {
                    return false;
                }
                replica.leader_change(known, TRANSFER_RETRY).await;
            }
            !replica.leads()
        });
        futures::future::join_all(drains).await.into_iter().all(|gone| gone)
    }

    /// The live replica with the most of the log; among equals, the more preferred one. Draining nodes are left out, and
    /// nodes whose disk has no room unless this node stops and there is no other one. A node whose disk is full stays
    /// the leader of a shard while all others lag: they would refuse the leadership, and until the term ends openraft
    /// takes no more proposals and sends no heartbeats, so that nobody would ever catch up.
    fn successor(&self, replica: &Replica, why: Away) -> Option<NodeId> {
        let Self { router: Router { shards, peers, .. }, peer_statuses, .. } = self;
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        let living = |node: &NodeId| {
            peers.get(*node).is_some_and(|peer| peer.is_alive()) && !peer_statuses.is_draining(*node)
        };
        let living: Vec<NodeId> =
            shards.topology.replicas(replica.shard).into_iter().filter(living).collect();
        let can_lead = |node: &NodeId| {
            !peer_statuses.is_disk_full(*node) && (why == Away::Draining || caught_up(&metrics, *node))
        };
        let room = living.iter().filter(|node| can_lead(node));
        let best = room.rev().max_by_key(|node| matched(&metrics, **node));
        let any = || living.iter().rev().max_by_key(|node| matched(&metrics, **node));
        best.or_else(|| any().filter(|_| why == Away::Draining)).copied()
    }
}

fn caught_up(metrics: &RaftMetrics<TypeConfig>, node: NodeId) -> bool {
    matched(metrics, node)
        .is_some_and(|matched| matched + CAUGHT_UP_ENTRIES >= metrics.last_log_index.unwrap_or(0))
}

fn matched(metrics: &RaftMetrics<TypeConfig>, node: NodeId) -> Option<u64> {
    metrics.replication.as_ref()?.get(&node.0)?.as_ref().map(|log_id| log_id.index)
}
