//! Rooms to shards by a fixed hash; shards to nodes by a consistent-hash ring.
//!
//! The result is a [`Layout`]: a versioned value that the meta shard holds. Computing a layout
//! ([`layout`]) and the steps between two layouts ([`layout_steps()`]) are pure functions; other crates carry
//! the steps out.
//!
//! Invariant: the same nodes give the same ring on every machine and in every version. Hashes, seeds
//! and the order of ties are therefore part of the format.

mod moves;
mod plan;

use crate::id::{NodeId, RoomId, ShardId};
use crate::limits::VIRTUAL_NODES;

pub use moves::{LayoutStep, layout_steps};
pub use plan::layout;

/// The nodes that hold each shard. Index 0 of `shards` is the meta shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Rises by one with every change.
    pub version: u64,
    /// The replicas of each shard, best first: the first one is the preferred leader.
    pub shards: Vec<Vec<NodeId>>,
}

impl Layout {
    /// The shard's replicas, best first; none for a shard that does not exist.
    #[must_use]
    pub fn replicas(&self, shard: ShardId) -> &[NodeId] {
        let at = usize::try_from(shard.0).unwrap_or(usize::MAX);
        self.shards.get(at).map_or(&[], Vec::as_slice)
    }

    /// The node that should lead the shard when it can.
    #[must_use]
    pub fn preferred_leader(&self, shard: ShardId) -> Option<NodeId> {
        self.replicas(shard).first().copied()
    }
}

/// The shard that a room belongs to, for ever. `shards` counts the data shards and is fixed at bootstrap.
///
/// # Panics
/// If `shards` is 0.
#[must_use]
pub fn shard_of(room: RoomId, shards: u32) -> ShardId {
    assert!(shards > 0, "a cluster has at least one data shard");
    let hash = xxhash_rust::xxh3::xxh3_64(&room.0.to_le_bytes());
    // The remainder of a division by a u32 fits a u32.
    ShardId(1 + u32::try_from(hash % u64::from(shards)).unwrap_or(0))
}

/// A node as the ring sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingNode {
    /// The node's id.
    pub node: NodeId,
    /// The failure domain of the node (a rack, a building). `None`: a domain of its own.
    pub zone: Option<String>,
}

impl From<NodeId> for RingNode {
    fn from(node: NodeId) -> Self {
        Self { node, zone: None }
    }
}

/// The consistent-hash ring: every node stands at [`VIRTUAL_NODES`] places that depend only on its
/// id. So a node that joins or leaves changes nothing between the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Ascending by place; ties by id.
    points: Vec<(u64, NodeId)>,
    nodes: usize,
}

impl Ring {
    /// The ring of these nodes. The order of the nodes does not matter.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut ids: Vec<NodeId> = nodes.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut points: Vec<(u64, NodeId)> = ids
            .iter()
            .flat_map(|&node| (0..VIRTUAL_NODES).map(move |virtual_node| (place(node, virtual_node), node)))
            .collect();
        points.sort_unstable();
        Self { points, nodes: ids.len() }
    }

    /// The node that a key belongs to: the first one at or after the key's place.
    #[must_use]
    pub fn owner(&self, key: u64) -> Option<NodeId> {
        self.from(key).next()
    }

    /// All nodes in the order in which the ring meets them, beginning at the key's place.
    #[must_use]
    pub fn walk(&self, key: u64) -> Vec<NodeId> {
        let mut met = Vec::with_capacity(self.nodes);
        for node in self.from(key) {
            if !met.contains(&node) {
                met.push(node);
                if met.len() == self.nodes {
                    break;
                }
            }
        }
        met
    }

    fn from(&self, key: u64) -> impl Iterator<Item = NodeId> {
        let start = self.points.partition_point(|(at, _)| *at < key);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, node)| *node)
    }
}

/// The place of a shard on the ring.
#[must_use]
pub fn place_of(shard: ShardId) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&shard.0.to_le_bytes(), SHARD_SEED)
}

const SHARD_SEED: u64 = 1;
/// Chosen among the first few numbers because with this seed the bare ring of the nodes 1 to n (ids
/// are given out in this order) is balanced to 1.25 for every n that a cluster may have. A test checks it.
const NODE_SEED: u64 = 46;

fn place(node: NodeId, virtual_node: u32) -> u64 {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&node.0.to_le_bytes());
    key[8..].copy_from_slice(&virtual_node.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(&key, NODE_SEED)
}
