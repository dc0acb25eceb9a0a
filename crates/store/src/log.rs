//! The log of all groups in one file, written by one thread.
//!
//! A group appends to its memory at once (so that readers see the entries) and queues the write. The
//! writer takes all queued writes, performs them as one group commit with one sync, and only then
//! answers. There is no artificial delay: the next batch collects during the sync.

mod frame;
mod group;
mod open;
mod store;
mod writer;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use redb::{Database, ReadTransaction, ReadableDatabase as _, TableDefinition};
use tokio::sync::Notify;

use crate::disk::DataFile;
use crate::error::StoreError;
use crate::failure::Failure;
use crate::lock;
use crate::types::{Entry, LogId};
use group::{EntryLocation, FoundEntry, Group};

pub use store::{LogReader, LogStore};
pub(crate) use writer::{Job, Sender, TaskWriter, Writer};

/// Rows of group commits by their number; see [`frame`].
const ROWS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("rows");
/// Rows by group and kind: the kinds are [`VOTE`], [`PURGED`] and [`FORMAT`].
const HARD: TableDefinition<'static, (u32, u8), &[u8]> = TableDefinition::new("hard");
/// Kind: the hard state. Only in a file of the format [`VOTES_INSIDE`].
const VOTE: u8 = 1;
const PURGED: u8 = 2;
/// The group number of the row with the file's format.
const FILE_ITSELF: u32 = u32::MAX;
const FORMAT: u8 = 0;
/// The format of a log file that contains the hard state. A new file begins with this format.
const VOTES_INSIDE: u32 = 1;

/// The key bytes that the checksum of a row in [`HARD`] covers besides the value.
fn hard_key(group: u32, what: u8) -> [u8; 5] {
    let [a, b, c, d] = group.to_le_bytes();
    [a, b, c, d, what]
}

/// The synced position of each group's state, as index + 1.
#[derive(Debug)]
pub(crate) struct Durable(Vec<AtomicU64>);

impl Durable {
    pub(crate) fn new(groups: usize) -> Self {
        Self((0..groups).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn set(&self, group: u32, applied: Option<&LogId>) {
        self.0[group as usize].store(applied.map_or(0, |id| id.index + 1), Ordering::Release);
    }

    fn covers(&self, group: u32, index: u64) -> bool {
        self.0[group as usize].load(Ordering::Acquire) > index
    }
}

/// One group's log, and a signal for callers that wait until it is written.
#[derive(Debug, Default)]
struct Cell {
    group: Mutex<Group>,
    written: Condvar,
}

/// The rows that the file holds: the first row of each commit and its size.
#[derive(Debug, Default)]
struct Rows {
    /// The number of the next row.
    next: u64,
    commits: VecDeque<(u64, u64)>,
    bytes: u64,
}

/// The log of all groups.
#[derive(Debug)]
pub(crate) struct Log {
    db: Database,
    cells: Vec<Cell>,
    rows: Mutex<Rows>,
    durable: Arc<Durable>,
    failure: Arc<Failure>,
    /// Bytes of entries waiting for the writer.
    queued_bytes: AtomicUsize,
    /// Notified when `queued_bytes` has fallen.
    taken: Notify,
    stop: AtomicBool,
}

impl Log {
    fn group(&self, group: u32) -> MutexGuard<'_, Group> {
        lock(&self.cells[group as usize].group)
    }

    /// The same as [`Log::read`], if all of these entries are in memory.
    fn read_cached(&self, group: u32, range: Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
        let cached = |found| match found {
            FoundEntry::Cached(entry) => Some(entry),
            FoundEntry::InFile(..) => None,
        };
        self.group(group).find(range, bytes_max).into_iter().map(cached).collect()
    }

    /// The existing entries of a range: at least one, and up to about `bytes_max` bytes. Blocks.
    fn read(&self, group: u32, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let (found, read) = {
            let log = self.group(group);
            let found = log.find(range, bytes_max);
            // The transaction begins under the lock, so that it still sees the rows that were found.
            let in_file = found.iter().any(|found| matches!(found, FoundEntry::InFile(..)));
            (found, in_file.then(|| self.db.begin_read()).transpose())
        };
        let read = read.map_err(|error| StoreError::redb(DataFile::LOG, error))?;
        let mut row = OpenRow::default();
        let entry = |found| match (found, &read) {
            (FoundEntry::Cached(entry), _) => Ok(entry),
            (FoundEntry::InFile(log_id, place), Some(read)) => row.entry(read, log_id, place),
            (FoundEntry::InFile(..), None) => Err(StoreError::Closed("no transaction".to_owned())),
        };
        found.into_iter().map(entry).collect()
    }

    /// The term of an entry, if the group's log has the entry.
    pub(crate) fn term_at(&self, group: u32, index: u64) -> Option<u64> {
        lock(&self.cells.get(group as usize)?.group).term_at(index)
    }

    /// The id of a group's last entry, or of the last one that was purged.
    pub(crate) fn last_log_id(&self, group: u32) -> Option<LogId> {
        self.group(group).last_log_id()
    }

    /// The term of each group's last entry; 0 if it has none.
    pub(crate) fn last_terms(&self) -> Vec<u64> {
        let term = |cell: &Cell| lock(&cell.group).last_log_id().map_or(0, |last| last.leader_id.term);
        self.cells.iter().map(term).collect()
    }

    /// Whether the entry is in the log, but not synced.
    pub(crate) fn is_unwritten(&self, group: u32, index: u64) -> bool {
        self.group(group).is_unwritten(index)
    }

    /// Blocks until the entry is synced, if it is in the log at all.
    pub(crate) fn wait_written(&self, group: u32, index: u64) -> Result<(), StoreError> {
        let cell = &self.cells[group as usize];
        let mut log = lock(&cell.group);
        while log.is_unwritten(index) {
            self.failure.check()?;
            log = cell.written.wait(log).unwrap_or_else(PoisonError::into_inner);
        }
        self.failure.check()
    }

    /// Wakes all callers that wait for the writer, after it has failed.
    pub(crate) fn wake(&self) {
        for cell in &self.cells {
            let _log = lock(&cell.group);
            cell.written.notify_all();
        }
        self.taken.notify_waiters();
    }

    /// Makes the writer end after it has written everything in the queue.
    pub(crate) fn stop(&self, queue: &Sender) {
        self.stop.store(true, Ordering::Release);
        // If the queue is full, the writer is awake and will see that it must stop.
        let _ = queue.try_send(Job::Stop);
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        lock(&self.rows).bytes
    }

    /// The entries of each group to purge so that the log keeps only `tail` bytes. Empty until the log
    /// has 1.5 times `tail` bytes, so that few purges remove many entries.
    pub(crate) fn purge_ranges(&self, tail: u64) -> Vec<(u32, Range<u64>)> {
        let row = {
            let rows = lock(&self.rows);
            if rows.bytes <= tail + tail / 2 {
                return Vec::new();
            }
            let mut kept = rows.bytes;
            let keep = rows.commits.iter().find(|(_, bytes)| {
                kept -= bytes;
                kept <= tail
            });
            let Some((row, _)) = keep else { return Vec::new() };
            row + 1
        };
        (0..).zip(&self.cells).filter_map(|(n, cell)| Some((n, lock(&cell.group).before_row(row)?))).collect()
    }
}

/// The commit that was read last, because consecutive entries often share one.
#[derive(Default)]
struct OpenRow {
    number: Option<u64>,
    part: Bytes,
}

impl OpenRow {
    fn entry(
        &mut self,
        read: &ReadTransaction,
        log_id: LogId,
        place: EntryLocation,
    ) -> Result<Entry, StoreError> {
        let mut bytes = BytesMut::with_capacity(place.len as usize);
        let mut offset = place.offset as usize;
        while bytes.len() < place.len as usize {
            let part = self.load(read, place.row + (offset / frame::ROW_PAYLOAD) as u64)?;
            let start = offset % frame::ROW_PAYLOAD;
            let end = part.len().min(start + place.len as usize - bytes.len());
            let piece = part.get(start..end).filter(|piece| !piece.is_empty());
            bytes.extend_from_slice(piece.ok_or_else(|| missing(&log_id))?);
            offset += end - start;
        }
        let entry = frame::decode_entry(bytes.freeze())?;
        if entry.log_id == log_id { Ok(entry) } else { Err(missing(&log_id)) }
    }

    fn load(&mut self, read: &ReadTransaction, number: u64) -> Result<&Bytes, StoreError> {
        if self.number != Some(number) {
            let table = read.open_table(ROWS).map_err(|error| StoreError::redb(DataFile::LOG, error))?;
            let row = table.get(number).map_err(|error| StoreError::redb(DataFile::LOG, error))?;
            let row = row
                .ok_or_else(|| StoreError::damaged(DataFile::LOG, format!("log row {number} is missing")))?;
            self.part = Bytes::copy_from_slice(frame::open_row(number, row.value())?.1);
            self.number = Some(number);
        }
        Ok(&self.part)
    }
}

fn missing(log_id: &LogId) -> StoreError {
    StoreError::damaged(DataFile::LOG, format!("log entry {log_id} is not where it was written"))
}
