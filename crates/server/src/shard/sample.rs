//! Copies openraft's metrics of this node's groups into ours.

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ServerState};

use crate::metrics::{Metrics, label};
use crate::shard::Shards;

/// Copies openraft's metrics of the groups into ours.
pub(crate) fn sample(shards: &Shards, metrics: &Metrics) {
    let members = shards.topology.members();
    metrics.node.set_members(members.values().map(|member| member.name.as_str()));
    let index = |index: Option<u64>| i64::try_from(index.unwrap_or(0)).unwrap_or(i64::MAX);
    for replica in shards.replicas() {
        let shard = label(replica.shard);
        let shard = shard.as_str();
        let raft = replica.raft.metrics();
        let raft = raft.borrow_watched();
        metrics.raft_term.with_label_values(&[shard]).set(index(Some(raft.current_term)));
        for (role, state) in [
            ("leader", ServerState::Leader),
            ("follower", ServerState::Follower),
            ("candidate", ServerState::Candidate),
            ("learner", ServerState::Learner),
        ] {
            metrics.raft_role.with_label_values(&[shard, role]).set(i64::from(raft.state == state));
        }
        // The voters of a group that has not begun yet are not known.
        let voters = raft.membership_config.voter_ids().count();
        if voters > 0 {
            let voters = i64::try_from(voters).unwrap_or(i64::MAX);
            metrics.node.raft_voters.with_label_values(&[shard]).set(voters);
        }
        let leader = replica.leader_with_quorum_in(&raft);
        let leads = leader == Some(shards.me());
        metrics.raft_is_leader.with_label_values(&[shard]).set(i64::from(leads));
        metrics.raft_has_leader.with_label_values(&[shard]).set(i64::from(leader.is_some()));
        metrics.raft_last_log_index.with_label_values(&[shard]).set(index(raft.last_log_index));
        metrics
            .raft_committed_index
            .with_label_values(&[shard])
            .set(index(raft.local_committed.map(|l| l.index)));
        metrics.raft_applied_index.with_label_values(&[shard]).set(index(raft.last_applied.map(|l| l.index)));
        metrics.raft_snapshot_index.with_label_values(&[shard]).set(index(raft.snapshot.map(|l| l.index)));
        metrics.raft_purged_index.with_label_values(&[shard]).set(index(raft.purged.map(|l| l.index)));
        let age = raft.last_quorum_acked.as_ref().map_or(0.0, |at| at.elapsed().as_secs_f64());
        metrics.raft_quorum_ack_age.with_label_values(&[shard]).set(age);
        for (peer, member) in &members {
            let labels = [shard, member.name.as_str()];
            // Only a leader knows; a former leader's last value would look like a follower that hangs.
            match raft.replication.as_ref().and_then(|replication| replication.get(&peer.0)) {
                Some(log_id) if *peer != shards.me() => {
                    let matched = metrics.raft_peer_matched_index.with_label_values(&labels);
                    matched.set(index(log_id.as_ref().map(|l| l.index)));
                }
                // An error means that there is nothing to remove.
                _ => drop(metrics.raft_peer_matched_index.remove_label_values(&labels)),
            }
        }
    }
}
