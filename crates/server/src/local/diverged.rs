//! Replicas of other nodes that have applied something else than this node's.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use conclave_core::{NodeId, ShardId};

/// The replicas that are known to differ, by shard and node. Bounded by the replicas of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Diverged(Mutex<BTreeSet<(ShardId, NodeId)>>);

impl Diverged {
    fn known(&self) -> MutexGuard<'_, BTreeSet<(ShardId, NodeId)>> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the result of a comparison: whether the replicas agree. Returns whether they are newly found to differ. A
    /// replica that agrees again was replaced by a snapshot.
    pub(crate) fn compared(&self, shard: ShardId, node: NodeId, agree: bool) -> bool {
        let mut known = self.known();
        if agree {
            known.remove(&(shard, node));
            false
        } else {
            known.insert((shard, node))
        }
    }

    /// The nodes whose replicas of this shard differ from this node's.
    pub(crate) fn of(&self, shard: ShardId) -> Vec<u64> {
        let known = self.known();
        known.iter().filter(|(of, _)| *of == shard).map(|(_, node)| node.0).collect()
    }

    /// The number of replicas that differ.
    pub(crate) fn count(&self) -> usize {
        self.known().len()
    }
}
