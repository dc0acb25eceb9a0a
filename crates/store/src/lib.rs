//! Everything that conclave keeps on disk, for all Raft groups of a node.
//!
//! Three files with opposite needs. `log.redb` is small and every commit of it is synced: entries of
//! all groups, one row for each group commit, written by one thread. `state.redb` is large and
//! written behind by another thread, without syncs but for a checkpoint now and then: rooms, sessions
//! and history, and the position in the log that they stand for. After a crash the state is that of
//! the last checkpoint, and the log holds everything after it. `votes` is tiny: every group's vote,
//! synced by a thread of its own, so that an election never waits for the log of other groups. So:
//!
//! * nothing is acknowledged before the log's sync;
//! * the log is never cut beyond the last checkpoint, and no snapshot is reported beyond it;
//! * no checkpoint holds what the log has not synced;
//! * a group's vote is written when everything before it is that its group has appended.
//!
//! An error of any file is final: everybody waiting gets it, [`Store::failed`] shows it, and the
//! node must stop.

pub mod convert;
mod disk;
mod error;
mod failure;
mod faulty;
mod identity;
mod log;
mod observer;
mod seal;
#[cfg(feature = "simulated-disk")]
pub mod simulated;
mod snapshot;
mod state;
mod store;
mod types;
mod votes;
mod work;

pub use disk::{DataFile, Disk, RealDisk};
pub use error::{OpenError, ReadError, StoreError};
pub use faulty::{DiskFaults, FaultyDisk};
pub use identity::Identity;
pub use log::{LogReader, LogStore};
pub use observer::Observer;
pub use snapshot::{LocalSnapshot, ReceivedSnapshot, SnapshotData, SnapshotReceiver};
pub use state::machine::{SnapshotBuilder, StateMachine};
pub use state::{Page, ShardState};
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
