//! Replicas of other nodes that have applied something else than this node's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use conclave_core::{NodeId, ShardId};
use conclave_store::AppliedDigest;

/// The replicas that are known to differ, by shard and node, with the entries at which the totals of both began. Bounded by
/// the replicas of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Diverged(Mutex<BTreeMap<(ShardId, NodeId), [u64; 2]>>);

impl Diverged {
    fn known(&self) -> MutexGuard<'_, BTreeMap<(ShardId, NodeId), [u64; 2]>> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares a replica of this node with one of another node. Returns whether they are newly found to differ.
    ///
    /// Replicas that differed stay known until their totals agree, or one of them was replaced by a snapshot: that they
    /// agree in the window says nothing about the ones before.
    pub(crate) fn compare(
        &self,
        shard: ShardId,
        node: NodeId,
        ours: &AppliedDigest,
        theirs: &AppliedDigest,
    ) -> bool {
        let Some(agree) = ours.agrees(theirs) else { return false };
        let began = [ours.total.since, theirs.total.since];
        let mut known = self.known();
        if !agree {
            return known.insert((shard, node), began).is_none();
        }
        let is_over = |before: &[u64; 2]| ours.has_same_total(theirs) || *before != began;
        if known.get(&(shard, node)).is_some_and(is_over) {
            known.remove(&(shard, node));
        }
        false
    }

    /// The nodes whose replicas of this shard differ from this node's.
    pub(crate) fn of(&self, shard: ShardId) -> Vec<u64> {
        let known = self.known();
        known.keys().filter(|(of, _)| *of == shard).map(|(_, node)| node.0).collect()
    }

    /// The number of replicas that differ.
    pub(crate) fn count(&self) -> usize {
        self.known().len()
    }
}

#[cfg(test)]
mod tests {
    use conclave_store::DigestSum;

    use super::*;

    fn digest(entries: u64, total: (u64, u64), window: (u64, u64)) -> AppliedDigest {
        let sum = |(since, sum)| DigestSum { since, sum };
        AppliedDigest { version: 1, entries, total: sum(total), window: sum(window) }
    }

    #[test]
    fn replicas_that_differed_stay_known_until_their_totals_agree_or_one_is_replaced() {
        let diverged = Diverged::default();
        let (shard, node) = (ShardId(1), NodeId(2));
        let compare = |ours: AppliedDigest, theirs| diverged.compare(shard, node, &ours, &theirs);
        // Upgraded at different moments, so that only their windows are comparable.
        assert!(compare(digest(9, (3, 5), (0, 5)), digest(9, (4, 6), (0, 6))));
        assert!(!compare(digest(9, (3, 5), (0, 5)), digest(9, (4, 6), (0, 6))), "it is known");
        assert!(!compare(digest(5_000, (3, 8), (4_096, 1)), digest(5_000, (4, 9), (4_096, 1))));
        assert_eq!((diverged.of(shard), diverged.count()), (vec![2], 1), "the next window agrees");
        assert!(!compare(digest(5_001, (3, 9), (4_096, 2)), digest(5_001, (3, 9), (4_096, 2))));
        assert_eq!(diverged.count(), 0, "it was replaced by a snapshot");
    }
}
