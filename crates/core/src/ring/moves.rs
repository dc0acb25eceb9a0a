//! The difference between two layouts, as a list of small steps.

use crate::id::{NodeId, ShardId};
use crate::ring::Layout;

/// One step from one layout to another. Steps of different shards do not depend on each other; the
/// steps of one shard are carried out in order, each after the previous one has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutStep {
    /// The shard gains a replica where it had fewer.
    Add {
        /// The shard.
        shard: ShardId,
        /// The node of the new replica.
        to: NodeId,
    },
    /// A replica changes its node: the new replica catches up before the old one is removed.
    Replace {
        /// The shard.
        shard: ShardId,
        /// The node of the old replica.
        from: NodeId,
        /// The node of the new replica.
        to: NodeId,
    },
    /// The shard loses a replica.
    Remove {
        /// The shard.
        shard: ShardId,
        /// The node of the removed replica.
        from: NodeId,
    },
    /// Another node is the preferred leader from now on.
    Lead {
        /// The shard.
        shard: ShardId,
        /// The new preferred leader.
        node: NodeId,
    },
}

/// The steps that turn one layout into the other: for each shard, by number, first replacements,
/// then additions, then removals, then the leader. Between the steps a shard never has fewer replicas
/// than in the smaller of the two layouts.
#[must_use]
pub fn layout_steps(from: &Layout, to: &Layout) -> Vec<LayoutStep> {
    let mut moves = Vec::new();
    for number in 0..from.shards.len().max(to.shards.len()) {
        let shard = ShardId(u32::try_from(number).unwrap_or(u32::MAX));
        let (old, new) = (from.replicas(shard), to.replicas(shard));
        let mut gone = old.iter().copied().filter(|node| !new.contains(node));
        for node in new.iter().copied().filter(|node| !old.contains(node)) {
            moves.push(match gone.next() {
                Some(from) => LayoutStep::Replace { shard, from, to: node },
                None => LayoutStep::Add { shard, to: node },
            });
        }
        moves.extend(gone.map(|from| LayoutStep::Remove { shard, from }));
        if let Some(node) = to.preferred_leader(shard)
            && from.preferred_leader(shard) != Some(node)
        {
            moves.push(LayoutStep::Lead { shard, node });
        }
    }
    moves
}
