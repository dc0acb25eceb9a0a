//! Whether the node's disk has room for more than what it must write.
//!
//! A node that writes until its disk is full stops, and may not start again. So it keeps a reserve free: below it, the node
//! leads no shard that another node can lead, and as a leader takes no writes of clients. It goes on reading, voting and
//! appending what other leaders send, for as long as the disk takes it.

use std::sync::Arc;

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

/// Whether the disk counts as full with this many bytes free. A file system whose size is not known (0) tells nothing, and
/// the last answer holds.
pub(crate) fn is_full(was_full: bool, free: u64, size: u64, configured: Option<u64>) -> bool {
    if size == 0 {
        return was_full && configured != Some(0);
    }
    let reserve = reserve(configured, size);
    let limit = if was_full { reserve.saturating_add(reserve / MARGIN_SHARE) } else { reserve };
    free < limit
}

/// What the node knows of its disk. All copies share it.
#[derive(Clone, Debug)]
pub(crate) struct DiskSpace {
    full: Arc<watch::Sender<bool>>,
    configured: Option<u64>,
}

impl DiskSpace {
    /// A disk with room, until a sample says otherwise.
    pub(crate) fn new(configured: Option<u64>) -> Self {
        Self { full: Arc::new(watch::Sender::new(false)), configured }
    }

    /// Whether the disk has less room than its reserve.
    pub(crate) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// Notifies of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.full.subscribe()
    }

    /// Takes a sample of the file system: free bytes, and its size.
    pub(crate) fn sample(&self, free: u64, size: u64) {
        let full = is_full(self.is_full(), free, size, self.configured);
        let changed = self.full.send_if_modified(|known| std::mem::replace(known, full) != full);
        if changed && full {
            let reserve = reserve(self.configured, size);
            tracing::warn!(
                free_bytes = free,
                reserve_bytes = reserve,
                "disk reserve reached, refusing writes: free some space (--disk-reserve sets the reserve)"
            );
        } else if changed {
            tracing::info!(free_bytes = free, "disk has room again");
        }
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
        let full = |was, free| is_full(was, free * MIB, GIB, Some(100 * MIB));
        assert!(!full(false, 100) && full(false, 99));
        assert!(full(true, 100) && full(true, 124) && !full(true, 125));
    }

    #[test]
    fn no_reserve_and_an_unknown_size() {
        assert!(!is_full(false, 0, GIB, Some(0)) && !is_full(true, 0, GIB, Some(0)));
        assert!(is_full(true, 0, 0, None) && !is_full(false, 0, 0, None));
        assert!(!is_full(true, 0, 0, Some(0)));
        // More than the disk has: a configuration that refuses every write, as it says.
        assert!(is_full(false, GIB, GIB, Some(u64::MAX)) && is_full(true, GIB, GIB, Some(u64::MAX)));
    }

    proptest! {
        #[test]
        fn more_room_never_makes_a_disk_full(
            was in any::<bool>(), size in 1_u64..1 << 50, free in 0_u64..1 << 50, more in 0_u64..1 << 50,
            configured in proptest::option::of(0_u64..1 << 40),
        ) {
            if !is_full(was, free, size, configured) {
                prop_assert!(!is_full(was, free + more, size, configured));
                // What is not full while it was full is not full at all.
                prop_assert!(!is_full(false, free, size, configured));
            }
            // A default reserve leaves room on an empty disk.
            prop_assert!(configured.is_some() || !is_full(was, size, size, None));
        }
    }
}
