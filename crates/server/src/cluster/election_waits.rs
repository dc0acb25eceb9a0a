//! Lets replicas stand for election only after they have waited for their leader as long as this machine makes necessary.
//!
//! openraft's election timeouts are fixed when a group starts, but its elections can be switched on and off. So its timeouts
//! are the shortest ones, those of a machine with time to spare, and elections are off until the wait of
//! [`heartbeats::wait`] is over. Where a leader's process died nobody waits for it, see [`leadership`](super::leadership).

use std::sync::Arc;

use conclave_core::NodeId;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::limits::ELECTION_WAIT_CHECKED_EVERY;
use crate::shard::heartbeats::{self, LongestOfMinute};
use crate::shard::{Replica, Shards};

/// Switches the elections of this node's replicas on and off, until the node stops.
pub(crate) async fn run(shards: Arc<Shards>, stop: CancellationToken) {
    let started = Instant::now();
    let mut stalls = LongestOfMinute::default();
    let mut ticks = tokio::time::interval(ELECTION_WAIT_CHECKED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = started;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        // A process that got no processor time has not read what its leaders sent meanwhile.
        let now = Instant::now();
        stalls.record(now.saturating_duration_since(last).saturating_sub(ELECTION_WAIT_CHECKED_EVERY), now);
        last = now;
        let stall = stalls.longest(now);
        for replica in shards.replicas() {
            let view = replica.leader();
            if view.leader.is_none() && view.voted_for == shards.me() {
                replica.heartbeats.voted(view.term, now);
            }
            let irregular = replica.heartbeats.longest_gap(now).max(stall);
            let wait = heartbeats::wait(irregular, rank(&shards, replica));
            replica.raft.runtime_config().elect(replica.heartbeats.silent_for(started, now) >= wait);
        }
    }
}

/// This node's rank among the replicas that follow the leader.
fn rank(shards: &Shards, replica: &Replica) -> u32 {
    let leader = replica.leader().leader;
    let followers = |node: &&NodeId| Some(**node) != leader;
    let replicas = shards.topology.replicas(replica.shard);
    let before = replicas.iter().filter(followers).take_while(|node| **node != shards.me()).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}
