//! Rooms to shards by a fixed hash; shards to nodes by a consistent-hash ring.
//!
//! The result is a [`Layout`]: a versioned value that the meta shard holds. Computing one is a pure
//! function; carrying it out is somebody else's work.

use crate::id::{NodeId, RoomId, ShardId};

/// Which nodes hold which shard. Index 0 of `shards` is the meta shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Rises by one with every change.
    pub version: u64,
    /// For each shard its replicas, best first: the first one is the preferred leader.
    pub shards: Vec<Vec<NodeId>>,
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
