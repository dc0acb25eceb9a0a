//! Whether the node's disk has room for more than what it must write.
//!
//! A node that writes until its disk is full stops, and may not start again. So it keeps a reserve free: below it, the node
//! leads no shard that another node can lead, and as a leader takes no writes of clients. It goes on reading, voting and
//! appending what other leaders send. Below half of the reserve it takes no commands and no snapshots of other leaders,
//! either: they write on without it, and it catches up once it has room.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_core::NodeId;
use tokio::sync::watch;

/// The default reserve is this share of the file system.
const DEFAULT_SHARE: u64 = 20;
/// The least default reserve, bytes.
const DEFAULT_MIN: u64 = 64 * 1024 * 1024;
/// The largest default reserve, bytes.
const DEFAULT_MAX: u64 = 1024 * 1024 * 1024;
/// A node has room again when this share of the reserve is free beyond it: a node at the limit must not change its mind
/// with each write.
const MARGIN_SHARE: u64 = 4;

/// The reserve on a file system of this size, bytes: the configured one, where 0 is none, or by default a twentieth, at least
/// 64 MiB and at most 1 GiB, but never more than a quarter.
pub(crate) fn reserve(configured: Option<u64>, size: u64) -> u64 {
    configured.unwrap_or_else(|| (size / DEFAULT_SHARE).clamp(DEFAULT_MIN, DEFAULT_MAX).min(size / 4))
}

/// How much room the disk has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    /// Less than half of the reserve.
    Critical,
    /// Less than the reserve.
    Low,
    #[default]
    Enough,
}

/// How much room the disk has with this many bytes free. A file system whose size is not known (0) tells nothing, and the
/// last answer holds.
pub(crate) fn room(was: Room, free: u64, size: u64, configured: Option<u64>) -> Room {
    if size == 0 {
        return if configured == Some(0) { Room::Enough } else { was };
    }
    let reserve = reserve(configured, size);
    let below = |limit: u64, was_below: bool| {
        free < if was_below { limit.saturating_add(limit / MARGIN_SHARE) } else { limit }
    };
    if below(reserve / 2, was == Room::Critical) {
        Room::Critical
    } else if below(reserve, was != Room::Enough) {
        Room::Low
    } else {
        Room::Enough
    }
}

/// What the node knows of its disk and of those of the other nodes. All copies share it.
#[derive(Clone, Debug)]
pub(crate) struct DiskSpace {
    room: Arc<watch::Sender<Room>>,
    /// The last sample: free bytes, and the size of the file system.
    sample: Arc<Mutex<(u64, u64)>>,
    configured: Option<u64>,
    /// The other nodes that last reported a full disk.
    others: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl DiskSpace {
    /// A disk with room, until a sample says otherwise.
    pub(crate) fn new(configured: Option<u64>) -> Self {
        Self {
            room: Arc::new(watch::Sender::new(Room::Enough)),
            sample: Arc::default(),
            configured,
            others: Arc::default(),
        }
    }

    /// How much room there is.
    pub(crate) fn room(&self) -> Room {
        *self.room.borrow()
    }

    /// Whether the disk has less room than its reserve.
    pub(crate) fn is_full(&self) -> bool {
        self.room() < Room::Enough
    }

    /// Notifies of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Room> {
        self.room.subscribe()
    }

    /// The bytes that are free, and the size of the file system, when it was last looked at; both 0 if not known.
    pub(crate) fn free_and_size(&self) -> (u64, u64) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a sample of the file system: free bytes, and its size.
    pub(crate) fn sample(&self, free: u64, size: u64) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = (free, size);
        let before = self.room();
        let now = room(before, free, size, self.configured);
        if now == before {
            return;
        }
        self.room.send_replace(now);
        let reserve_bytes = reserve(self.configured, size);
        match now {
            Room::Critical => tracing::warn!(
                free_bytes = free,
                reserve_bytes,
                "half of the disk reserve used up, taking no commands from other leaders: free some space"
            ),
            Room::Low if before == Room::Critical => {
                tracing::info!(free_bytes = free, reserve_bytes, "taking commands from other leaders again");
            }
            Room::Low => tracing::warn!(
                free_bytes = free,
                reserve_bytes,
                "disk reserve reached, refusing writes: free some space (--disk-reserve sets the reserve)"
            ),
            Room::Enough => tracing::info!(free_bytes = free, "disk has room again"),
        }
    }

    fn others(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the other nodes that have full disks.
    pub(crate) fn set_others_full(&self, full: impl Iterator<Item = NodeId>) {
        *self.others() = full.collect();
    }

    /// Whether a majority of these other nodes and this one has room. With less, writes of clients would use up the rest
    /// of the full disks, or be in doubt.
    pub(crate) fn majority_has_room(&self, others: impl IntoIterator<Item = NodeId>) -> bool {
        let full = self.others();
        let (mut nodes, mut with_room) = (1, usize::from(!self.is_full()));
        for node in others {
            nodes += 1;
            with_room += usize::from(!full.contains(&node));
        }
        with_room > nodes / 2
    }

    /// Whether every node's disk has room, as far as is known.
    pub(crate) fn all_have_room(&self) -> bool {
        !self.is_full() && self.others().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    #[test]
    fn the_default_reserve_fits_small_and_large_disks() {
        for (size, expected) in [
            (0, 0),
            (120 * MIB, 30 * MIB),
            (GIB, 64 * MIB),
            (10 * GIB, 512 * MIB),
            (20 * GIB, GIB),
            (100 * 1024 * GIB, GIB),
        ] {
            assert_eq!(reserve(None, size), expected, "{size}");
        }
        assert_eq!(reserve(Some(7), GIB), 7);
    }

    #[test]
    fn a_disk_at_its_limit_does_not_change_its_mind_with_each_write() {
        use Room::{Critical, Enough, Low};
        let room = |was, free| room(was, free * MIB, GIB, Some(100 * MIB));
        assert_eq!([room(Enough, 100), room(Enough, 99), room(Enough, 49)], [Enough, Low, Critical]);
        assert_eq!([room(Low, 100), room(Low, 124), room(Low, 125)], [Low, Low, Enough]);
        assert_eq!([room(Low, 50), room(Low, 49)], [Low, Critical]);
        assert_eq!([room(Critical, 63), room(Critical, 124), room(Critical, 125)], [Low, Low, Enough]);
        assert_eq!([room(Critical, 50), room(Critical, 62)], [Critical, Critical]);
    }

    #[test]
    fn no_reserve_and_an_unknown_size() {
        use Room::{Critical, Enough};
        assert_eq!(room(Enough, 0, GIB, Some(0)), Enough);
        assert_eq!(room(Critical, 0, GIB, Some(0)), Enough);
        assert_eq!([room(Critical, 0, 0, None), room(Enough, 0, 0, None)], [Critical, Enough]);
        assert_eq!(room(Critical, 0, 0, Some(0)), Enough);
        // More than the disk has: a configuration that refuses every write, as it says.
        assert!(room(Enough, GIB, GIB, Some(u64::MAX)) < Enough);
        assert!(room(Critical, GIB, GIB, Some(u64::MAX)) < Enough);
    }

    #[test]
    fn a_minority_of_full_disks_is_no_reason_to_refuse_writes() {
        let disk = DiskSpace::new(None);
        let others = || [2, 3].map(NodeId);
        assert!(disk.all_have_room() && disk.majority_has_room(others()));
        disk.set_others_full([NodeId(2)].into_iter());
        assert!(!disk.all_have_room() && disk.majority_has_room(others()));
        disk.set_others_full(others().into_iter());
        assert!(!disk.majority_has_room(others()));
        assert!(disk.majority_has_room([]), "a node alone");
        disk.set_others_full([].into_iter());
        disk.sample(0, GIB);
        assert_eq!(disk.free_and_size(), (0, GIB));
        assert!(disk.majority_has_room(others()) && !disk.majority_has_room([]) && !disk.all_have_room());
    }

    proptest! {
        #[test]
        fn more_space_never_means_less_room(
            was in 0..3_usize, size in 1_u64..1 << 50, free in 0_u64..1 << 50, more in 0_u64..1 << 50,
            configured in proptest::option::of(0_u64..1 << 40),
        ) {
            let was = [Room::Critical, Room::Low, Room::Enough][was];
            let now = room(was, free, size, configured);
            prop_assert!(room(was, free + more, size, configured) >= now);
            // The same sample again changes nothing.
            prop_assert_eq!(room(now, free, size, configured), now);
            // A default reserve leaves room on an empty disk.
            prop_assert!(configured.is_some() || room(was, size, size, None) == Room::Enough);
        }
    }
}
