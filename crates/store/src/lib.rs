//! conclave's data files, for all Raft groups of a node.
//!
//! Three files have opposite needs. `log.redb` is small, and every commit of it is synced: it holds the
//! entries of all groups, one row for each group commit, written by one thread. `state.redb` is large
//! and written in the background by another thread, with a sync only at checkpoints: it holds rooms,
//! sessions and history, and the applied position in the log. After a crash the state is that of the
//! last checkpoint, and the log holds everything after it. `votes` is tiny: it holds the hard state
//! (term and vote) of every group, synced by its own thread, so that an election never waits for the log
//! of other groups. The invariants:
//!
//! * nothing is acknowledged before the log's sync;
//! * the log is never purged beyond the last checkpoint, and no snapshot is reported beyond it;
//! * no checkpoint contains entries that the log has not synced;
//! * a group's vote is written only after all entries that the group has appended before it.
//!
//! An error of any file is final: all waiting calls get it, [`Store::failed`] reports it, and the node
//! must stop.

mod ballast;
mod boots;
mod checksum;
pub mod convert;
mod disk;
mod error;
mod failure;
mod faulty;
mod identity;
mod log;
mod observer;
mod private;
#[cfg(feature = "simulated-disk")]
pub mod simulated;
mod snapshot;
mod state;
mod store;
mod types;
mod votes;
mod work;

pub use boots::{BootId, Boots};
pub use disk::{DataFile, Disk, RealDisk};
pub use error::{OpenError, ReadError, StoreError};
pub use faulty::{DiskFaults, FaultyDisk};
pub use identity::{IDENTITY_FILE, Identity};
pub use log::{LogReader, LogStore};
pub use observer::Observer;
pub use snapshot::{LocalSnapshot, ReceivedSnapshot, SnapshotData, SnapshotReceiver};
pub use state::machine::{SnapshotBuilder, StateMachine};
pub use state::{
    AppliedDigest, ClusterTable, DigestSum, EndedSessions, EventPage, FoldedMessage, MembersPage, ShardState,
};
pub use store::{Compaction, Options, Store, Usage};
pub use types::{
    Entry, LogId, Membership, Payload, Raft, Replies, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
    Vote,
};
pub use work::Work;

/// Locks a mutex. A thread that panicked while it held one has stopped the store already.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
