//! The log's only writer.
//!
//! [`Writer::process`] is a plain function of a batch of jobs; [`Writer::run`] is the thread around it. A
//! batch is one transaction with one sync, and its jobs are answered after the sync.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::BytesMut;
use conclave_core::limits::{LOG_CACHE_BYTES_MAX, LOG_COMMIT_BYTES_MAX, LOG_QUEUE_MAX};
use conclave_core::planted::{Bug, planted};
use openraft::storage::IOFlushed;
use prost::Message as _;
use redb::Durability;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{EntryLocation, HARD, Log, PURGED, ROWS, frame, hard_key};
use crate::convert::log_id_to_proto;
use crate::disk::{DataFile, Disk};
use crate::error::StoreError;
use crate::observer::Observer;
use crate::types::{Entry, LogId, TypeConfig};
use crate::work::SharedWriter;
use crate::{checksum, lock};

/// The queue of jobs.
pub(crate) type Sender = mpsc::Sender<Job>;

/// A job of the log writer.
pub(crate) enum Job {
    /// Write entries that are in the group's memory already.
    Append { group: u32, entries: Vec<Entry>, bytes: usize, stamp: u32, done: IOFlushed<TypeConfig> },
    /// Answer when all earlier jobs are written.
    Barrier { done: oneshot::Sender<Result<(), StoreError>> },
    /// Record that the entries from this index on are truncated.
    Truncate { group: u32, from: u64, stamp: u32 },
    /// A group has purged entries: delete the rows that no group needs any more.
    Purge,
    /// Wake up and check whether the log is to be closed.
    Stop,
}

/// Writes the log.
pub(crate) struct Writer {
    log: Arc<Log>,
    observer: Arc<dyn Observer>,
    next_row: u64,
    stream: BytesMut,
}

/// The writer and its queue, if the writer is a task: a caller that would wait for the writer does its work instead.
pub(crate) struct TaskWriter {
    writer: Writer,
    queue: mpsc::Receiver<Job>,
    jobs: Vec<Job>,
}

impl TaskWriter {
    pub(crate) fn new(writer: Writer, queue: mpsc::Receiver<Job>) -> Self {
        Self { writer, queue, jobs: Vec::new() }
    }

    /// Runs until it is stopped or all senders are dropped.
    pub(crate) async fn run(this: SharedWriter<Self>, disk: Arc<dyn Disk>) {
        while std::future::poll_fn(|context| lock(&this).poll_jobs(context)).await {
            tokio::time::sleep(disk.sync_takes()).await;
            lock(&this).process_queued();
        }
    }

    /// Takes the queued jobs; false if the queue is closed.
    fn poll_jobs(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        if self.writer.log.stop.load(Ordering::Acquire) {
            self.queue.close();
        }
        if !self.jobs.is_empty() {
            return Poll::Ready(true);
        }
        self.queue.poll_recv_many(context, &mut self.jobs, LOG_QUEUE_MAX).map(|count| count > 0)
    }

    /// Processes the queued jobs at once.
    pub(crate) fn process_queued(&mut self) {
        while let Ok(job) = self.queue.try_recv() {
            self.jobs.push(job);
        }
        let mut jobs = std::mem::take(&mut self.jobs).into_iter().peekable();
        while jobs.peek().is_some() {
            self.writer.process(&mut jobs);
        }
    }
}

/// Entries of a batch whose places the group gets once they are on disk.
struct Placed {
    group: u32,
    first: u64,
    stamp: u32,
    places: std::ops::Range<usize>,
}

/// The writes of a batch.
#[derive(Default)]
struct WriteBatch {
    placed: Vec<Placed>,
    places: Vec<(u32, u32)>,
    truncations: Vec<(u32, u32)>,
    committed: Vec<(u32, LogId)>,
    purges: Vec<(u32, LogId)>,
    entries: usize,
    bytes: usize,
    must_sync: bool,
}

/// The callers that wait for a batch.
#[derive(Default)]
struct Waiting {
    appends: Vec<IOFlushed<TypeConfig>>,
    barriers: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

impl Waiting {
    fn answer(self, result: &Result<(), StoreError>) {
        for done in self.appends {
            done.io_completed(result.clone().map_err(Into::into));
        }
        for done in self.barriers {
            // The caller may have stopped waiting.
            let _ = done.send(result.clone());
        }
    }
}

impl Writer {
    pub(crate) fn new(log: Arc<Log>, observer: Arc<dyn Observer>) -> Self {
        let next_row = lock(&log.rows).next;
        Self { log, observer, next_row, stream: BytesMut::new() }
    }

    /// Runs until it is stopped or all senders are dropped. Every queued job is answered.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        loop {
            if self.log.stop.load(Ordering::Acquire) {
                queue.close();
            }
            if queue.blocking_recv_many(&mut jobs, LOG_QUEUE_MAX) == 0 {
                return;
            }
            let mut jobs = jobs.drain(..).peekable();
            while jobs.peek().is_some() {
                self.process(&mut jobs);
            }
        }
    }

    /// Takes jobs up to the size of one group commit, writes them, and answers them.
    pub(crate) fn process(&mut self, jobs: &mut impl Iterator<Item = Job>) {
        let mut batch = WriteBatch::default();
        let mut waiting = Waiting::default();
        self.stream.clear();
        for job in jobs {
            match job {
                Job::Append { group, entries, bytes, stamp, done } => {
                    self.take(&mut batch, group, &entries, bytes, stamp);
                    waiting.appends.push(done);
                }
                Job::Barrier { done } => waiting.barriers.push(done),
                Job::Truncate { group, from, stamp } => {
                    frame::put_truncate(&mut self.stream, group, from);
                    batch.truncations.push((group, stamp));
                }
                Job::Purge | Job::Stop => {}
            }
            if self.stream.len() >= LOG_COMMIT_BYTES_MAX {
                break;
            }
        }
        self.log.queued_bytes.fetch_sub(batch.bytes, Ordering::AcqRel);
        self.log.taken.notify_waiters();
        if planted(Bug::AckBeforeSync) {
            std::mem::take(&mut waiting).answer(&Ok(()));
        }
        let result = self.log.failure.check().and_then(|()| self.write(&mut batch));
        let result = result.map_err(|error| self.log.failure.set(error));
        match &result {
            Ok(()) => self.publish(&batch),
            Err(_) => self.log.wake(),
        }
        waiting.answer(&result);
    }

    fn take(&mut self, batch: &mut WriteBatch, group: u32, entries: &[Entry], bytes: usize, stamp: u32) {
        let start = batch.places.len();
        frame::put_append(&mut self.stream, group, entries, &mut batch.places);
        if let Some(first) = entries.first() {
            let places = start..batch.places.len();
            batch.placed.push(Placed { group, first: first.log_id.index, stamp, places });
        }
        batch.entries += entries.len();
        batch.bytes += bytes;
        batch.must_sync = true;
    }

    /// Writes the batch and the groups' pending rows in one transaction.
    fn write(&mut self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let oldest = self.collect(batch);
        let idle = self.stream.is_empty() && batch.purges.is_empty();
        let useless = {
            let rows = lock(&self.log.rows);
            rows.commits.front().is_some_and(|(first, _)| *first < oldest)
        };
        if idle && !useless {
            return Ok(());
        }
        let begun = Instant::now();
        let rows =
            self.commit(batch, useless.then_some(oldest)).map_err(|e| StoreError::redb(DataFile::LOG, *e))?;
        {
            let mut known = lock(&self.log.rows);
            if rows > 0 {
                let bytes = self.stream.len() as u64;
                known.commits.push_back((self.next_row, bytes));
                known.bytes += bytes;
            }
            while known.commits.front().is_some_and(|(first, _)| *first < oldest) {
                if let Some((_, bytes)) = known.commits.pop_front() {
                    known.bytes -= bytes;
                }
            }
        }
        if batch.must_sync {
            self.observer.log_synced(begun.elapsed(), self.stream.len(), batch.entries);
        }
        Ok(())
    }

    /// Adds the groups' pending rows, and returns the oldest row that is still needed.
    fn collect(&mut self, batch: &mut WriteBatch) -> u64 {
        let mut oldest = self.next_row;
        let mut truncated = None;
        for (n, cell) in (0..).zip(&self.log.cells) {
            let group = lock(&cell.group);
            let held_back = match group.purged.filter(|_| group.purge_pending) {
                // A purge is written only after the state that it relies on is synced. (A purge beyond
                // the log's end belongs to an installed snapshot, which is synced.)
                Some(purged) => {
                    let covered = self.log.durable.covers(n, purged.index) || group.end() <= purged.index + 1;
                    if covered {
                        batch.purges.push((n, purged));
                    }
                    !covered
                }
                None => false,
            };
            // Only entries that are in the file already: other nodes may commit an entry before this
            // node has written it.
            let news =
                group.committed.filter(|id| group.committed_pending && batch.must_sync && group.holds(id));
            if let Some(committed) = news {
                frame::put_committed(&mut self.stream, n, &committed);
                batch.committed.push((n, committed));
            }
            let needed = if held_back { Some(0) } else { group.oldest_row() };
            oldest = oldest.min(needed.unwrap_or(u64::MAX));
            truncated = truncated.max(group.truncated);
        }
        if truncated.is_some_and(|row| oldest <= row) {
            return 0;
        }
        if truncated.is_some() {
            for cell in &self.log.cells {
                let mut group = lock(&cell.group);
                group.truncated = group.truncated.filter(|row| *row >= oldest);
            }
        }
        oldest
    }

    fn commit(&self, batch: &WriteBatch, delete_before: Option<u64>) -> Result<usize, Box<redb::Error>> {
        self.try_commit(batch, delete_before).map_err(Box::new)
    }

    fn try_commit(&self, batch: &WriteBatch, delete_before: Option<u64>) -> Result<usize, redb::Error> {
        let mut write = self.log.db.begin_write()?;
        write.set_durability(if batch.must_sync { Durability::Immediate } else { Durability::None })?;
        let mut count = 0;
        {
            let mut table = write.open_table(ROWS)?;
            for (number, row) in frame::rows(&self.stream, self.next_row) {
                table.insert(number, row.as_slice())?;
                count += 1;
            }
            if let Some(first) = delete_before {
                table.retain_in(..first, |_, _| false)?;
            }
        }
        if !batch.purges.is_empty() {
            let mut table = write.open_table(HARD)?;
            for (group, purged) in &batch.purges {
                let row = checksum::add(&hard_key(*group, PURGED), &log_id_to_proto(purged).encode_to_vec());
                table.insert((*group, PURGED), row.as_slice())?;
            }
        }
        write.commit()?;
        Ok(count)
    }

    /// Gives the groups the places of the entries that are on disk now.
    fn publish(&mut self, batch: &WriteBatch) {
        let first_row = self.next_row;
        for placed in &batch.placed {
            let places = batch.places[placed.places.clone()].iter();
            let places =
                places.map(|(offset, len)| EntryLocation { row: first_row, offset: *offset, len: *len });
            let cell = &self.log.cells[placed.group as usize];
            let mut group = lock(&cell.group);
            group.written(placed.first, placed.stamp, places);
            group.evict(LOG_CACHE_BYTES_MAX);
            drop(group);
            cell.written.notify_all();
        }
        for (group, stamp) in &batch.truncations {
            let mut group = self.log.group(*group);
            // Unless another truncation is queued.
            if group.stamp() == *stamp {
                group.truncated = Some(first_row);
            }
        }
        self.next_row += self.stream.len().div_ceil(frame::ROW_PAYLOAD) as u64;
        for (n, committed) in &batch.committed {
            let mut group = self.log.group(*n);
            group.committed_pending = group.committed != Some(*committed);
        }
        for (group, purged) in &batch.purges {
            let mut group = self.log.group(*group);
            group.purge_pending = group.purged != Some(*purged);
        }
    }
}
