//! The state file's only writer.
//!
//! The writer sleeps until a shard changes, collects changes for a moment, and writes the changes of all
//! shards in one transaction that is not synced. After a number of bytes or a time, the transaction is a
//! checkpoint, which is synced. A checkpoint never contains an entry that this node's own log has not
//! synced: after a crash, the state must not be ahead of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak, mpsc};
use std::time::Duration;

use conclave_core::ShardId;
use conclave_core::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, STATE_FLUSH_INTERVAL};
use redb::ReadableDatabase as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::db::{ReadView, STATE, begin, broken, put_local};
use super::flush::{self, Erasure, FlushBatch};
use super::{ShardState, StoreContext};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::lock;
use crate::log::{Durable, Log, TaskWriter};
use crate::observer::Observer;
use crate::types::LogId;
use crate::work::{self, Wake};

/// Takes the answer to a request. Dropped unanswered if the writer is gone.
pub(crate) type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// A request to the writer, besides its regular flushes.
pub(crate) enum Request {
    /// Write everything, sync it, and return a view of exactly that state.
    Checkpoint(Done<ReadView>),
    /// Write these rows.
    Write(WriteRequest, Done<()>),
}

/// Rows to write in one transaction.
#[derive(Debug, Default)]
pub(crate) struct WriteRequest {
    /// Rows of the state; `None` removes.
    pub(crate) rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Events whose content is erased after the rows are written.
    pub(crate) erasures: Option<(ShardId, Vec<Erasure>)>,
    /// Rows of this node alone.
    pub(crate) local: Vec<(String, Option<Vec<u8>>)>,
    /// Sync before answering.
    pub(crate) sync: bool,
    /// The shard and the position that it has after these rows.
    pub(crate) applied: Option<(u32, LogId)>,
}

/// Wakes the writer.
#[derive(Default)]
pub(crate) struct StateWriterQueue {
    /// `pending.changed` is set already: most changes need not take the lock.
    has_changes: AtomicBool,
    pending: Mutex<PendingWork>,
    wake: Wake,
    /// The writer, where it is a task.
    task: OnceLock<Weak<Mutex<StateWriter>>>,
}

#[derive(Default)]
struct PendingWork {
    changed: Option<Instant>,
    urgent: bool,
    stop: bool,
    /// The writer has ended, and takes no more requests.
    closed: bool,
    requests: Vec<Request>,
}

impl std::fmt::Debug for StateWriterQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateWriterQueue")
            .field("requests", &lock(&self.pending).requests.len())
            .finish_non_exhaustive()
    }
}

impl StateWriterQueue {
    /// Reports a change; `urgent` if there are enough unwritten bytes to write at once.
    pub(crate) fn changed(&self, urgent: bool) {
        if !self.has_changes.swap(true, Ordering::AcqRel) || urgent {
            let mut pending = lock(&self.pending);
            let news = pending.changed.is_none() || (urgent && !pending.urgent);
            pending.changed.get_or_insert_with(Instant::now);
            pending.urgent |= urgent;
            drop(pending);
            if news {
                self.wake.notify();
            }
        }
    }

    /// Sends a request. The answer is an error if the writer has ended.
    pub(crate) fn send_request(&self, request: Request) {
        let mut pending = lock(&self.pending);
        // Dropping a request wakes its caller with an error.
        if !pending.closed {
            pending.requests.push(request);
            drop(pending);
            self.wake.notify();
        }
    }

    /// Requests a checkpoint and waits for it.
    pub(crate) async fn checkpoint(&self) -> Result<ReadView, StoreError> {
        let (done, answer) = oneshot::channel();
        // The caller may have stopped waiting when the answer comes.
        self.send_request(Request::Checkpoint(Box::new(|result| drop(done.send(result)))));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Requests the write of rows and waits for it.
    pub(crate) async fn write(&self, write: WriteRequest) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.send_request(Request::Write(write, Box::new(|result| drop(done.send(result)))));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Requests the write of rows and blocks until they are written.
    pub(crate) fn write_blocking(&self, write: WriteRequest) -> Result<(), StoreError> {
        if let Some(task) = self.task.get() {
            let writer = task.upgrade().ok_or_else(gone)?;
            return lock(&writer).write_alone(write);
        }
        let (done, answer) = mpsc::sync_channel(1);
        self.send_request(Request::Write(write, Box::new(move |result| drop(done.send(result)))));
        answer.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Makes the writer write all changes, and end.
    pub(crate) fn stop(&self) {
        lock(&self.pending).stop = true;
        self.wake.notify();
    }

    /// Waits for requests or changes, until `deadline` at most.
    fn wait(&self, deadline: Option<Instant>) -> (Vec<Request>, bool) {
        let mut pending = lock(&self.pending);
        loop {
            pending = match pending.left(deadline) {
                None => self.wake.wait(pending),
                Some(Duration::ZERO) => return self.take(pending),
                Some(left) => self.wake.wait_timeout(pending, left),
            };
        }
    }

    /// Like [`StateWriterQueue::wait`], in a task.
    async fn waited(&self, deadline: Option<Instant>) -> (Vec<Request>, bool) {
        loop {
            let left = lock(&self.pending).left(deadline);
            match left {
                None => self.wake.notified().await,
                Some(Duration::ZERO) => return self.take(lock(&self.pending)),
                // After a notification as well as after the timeout, the loop checks for work.
                Some(left) => drop(tokio::time::timeout(left, self.wake.notified()).await),
            }
        }
    }

    fn take(&self, mut pending: MutexGuard<'_, PendingWork>) -> (Vec<Request>, bool) {
        pending.changed = None;
        pending.urgent = false;
        self.has_changes.store(false, Ordering::Release);
        (std::mem::take(&mut pending.requests), pending.stop)
    }

    fn close(&self) {
        let mut pending = lock(&self.pending);
        pending.closed = true;
        pending.requests.clear();
    }
}

impl PendingWork {
    /// The time until the writer has to work; `None` means for ever.
    fn left(&self, deadline: Option<Instant>) -> Option<Duration> {
        if !self.requests.is_empty() || self.urgent || self.stop {
            return Some(Duration::ZERO);
        }
        let flush = self.changed.map(|since| since + STATE_FLUSH_INTERVAL);
        let until = flush.into_iter().chain(deadline).min()?;
        Some(until.saturating_duration_since(Instant::now()))
    }
}

fn gone() -> StoreError {
    StoreError::Closed("the state writer has stopped".to_owned())
}

/// Writes the state file.
pub(crate) struct StateWriter {
    shared: Arc<StoreContext>,
    shards: Vec<Arc<ShardState>>,
    log: Arc<Log>,
    durable: Arc<Durable>,
    observer: Arc<dyn Observer>,
    /// The position of each shard in the file.
    applied: Vec<Option<LogId>>,
    unsynced_bytes: u64,
    unsynced_since: Option<Instant>,
    /// The log's writer, if both writers are tasks.
    log_task: Option<work::SharedWriter<TaskWriter>>,
}

impl StateWriter {
    pub(crate) fn new(
        shared: Arc<StoreContext>,
        shards: Vec<Arc<ShardState>>,
        log: Arc<Log>,
        durable: Arc<Durable>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let applied = shards.iter().map(|shard| shard.position().0).collect();
        Self {
            shared,
            shards,
            log,
            durable,
            observer,
            applied,
            unsynced_bytes: 0,
            unsynced_since: None,
            log_task: None,
        }
    }

    /// Runs until it is stopped, or until the store has failed.
    pub(crate) fn run(mut self) {
        loop {
            let (requests, stop) =
                self.shared.writer_queue.wait(self.unsynced_since.map(|since| since + CHECKPOINT_INTERVAL));
            let result = self.process(requests, stop);
            if stop || result.is_err() {
                self.shared.writer_queue.close();
                self.shared.written.notify_waiters();
                return;
            }
        }
    }

    /// The writer as a task, whose work other tasks can do.
    pub(crate) fn into_task(mut self, log: work::SharedWriter<TaskWriter>) -> work::SharedWriter<Self> {
        let shared = Arc::clone(&self.shared);
        self.log_task = Some(log);
        let task = Arc::new(Mutex::new(self));
        // Set once: a store has one writer.
        let _ = shared.writer_queue.task.set(Arc::downgrade(&task));
        task
    }

    /// Runs as a task until it is stopped, or until the store has failed.
    pub(crate) async fn run_as_task(this: work::SharedWriter<Self>, disk: Arc<dyn Disk>) {
        let shared = Arc::clone(&lock(&this).shared);
        loop {
            let deadline = lock(&this).unsynced_since.map(|since| since + CHECKPOINT_INTERVAL);
            let (requests, stop) = shared.writer_queue.waited(deadline).await;
            tokio::time::sleep(disk.sync_takes()).await;
            // A group with an entry in memory that is not queued yet is about to queue it.
            while !lock(&this).push_log() {
                tokio::task::yield_now().await;
            }
            if lock(&this).process(requests, stop).is_err() || stop {
                shared.writer_queue.close();
                shared.written.notify_waiters();
                return;
            }
        }
    }

    /// Writes all changes, as the last step of a task.
    pub(crate) fn finish(&mut self) {
        if self.push_log() {
            // The store has recorded an error already, and all callers get it.
            let _ = self.process(Vec::new(), true);
        }
        self.shared.writer_queue.close();
    }

    /// Does the log writer's work, if both are tasks. Returns whether the log has then synced everything applied.
    fn push_log(&self) -> bool {
        let Some(log) = &self.log_task else { return true };
        lock(log).process_queued();
        let unwritten = |shard: &Arc<ShardState>| {
            shard.position().0.is_some_and(|last| self.log.is_unwritten(shard.shard().0, last.index))
        };
        self.shared.failure.check().is_err() || !self.shards.iter().any(unwritten)
    }

    /// Writes these rows and no others, because the caller cannot wait for the log.
    fn write_alone(&mut self, write: WriteRequest) -> Result<(), StoreError> {
        self.shared.failure.check()?;
        let sync = write.sync;
        let written = self.write_taken(&[(write, Box::new(drop))], Vec::new(), sync);
        written.map_err(|error| self.shared.failure.set(error))
    }

    /// Writes the changes and the requested rows, and answers the requests.
    pub(crate) fn process(&mut self, requests: Vec<Request>, stop: bool) -> Result<(), StoreError> {
        let mut readers = Vec::new();
        let mut writes = Vec::new();
        for request in requests {
            match request {
                Request::Checkpoint(done) => readers.push(done),
                Request::Write(write, done) => writes.push((write, done)),
            }
        }
        let wanted = stop || !readers.is_empty() || writes.iter().any(|(write, _)| write.sync);
        let result = self.shared.failure.check().and_then(|()| self.write(&writes, wanted));
        let result = result.map_err(|error| self.shared.failure.set(error));
        for (_, done) in writes {
            done(result.clone());
        }
        for done in readers {
            // This is the only writer, so the view is exactly the checkpoint.
            let reading =
                result.clone().and_then(|()| ReadView::new(&self.shared.db.db.begin_read().map_err(broken)?));
            done(reading);
        }
        result
    }

    fn write(&mut self, writes: &[(WriteRequest, Done<()>)], wanted: bool) -> Result<(), StoreError> {
        let taken: Vec<_> =
            self.shards.iter().filter_map(|shard| Some((shard.clone(), shard.take()?))).collect();
        if taken.is_empty() && writes.is_empty() && self.unsynced_since.is_none() {
            return Ok(());
        }
        for (shard, taken) in &taken {
            if let Some(applied) = taken.applied {
                self.log.wait_written(shard.shard().0, applied.index)?;
            }
        }
        self.write_taken(writes, taken, wanted)
    }

    fn write_taken(
        &mut self,
        writes: &[(WriteRequest, Done<()>)],
        mut taken: Vec<(Arc<ShardState>, FlushBatch)>,
        wanted: bool,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        let fresh: u64 = taken.iter().map(|(_, taken)| taken.bytes as u64).sum();
        let late = self.unsynced_since.is_some_and(|since| since.elapsed() >= CHECKPOINT_INTERVAL);
        let checkpoint = wanted || late || self.unsynced_bytes + fresh >= CHECKPOINT_BYTES;
        let bytes = self.commit(writes, &mut taken, checkpoint)?;

        for (shard, taken) in &taken {
            self.applied[shard.shard().0 as usize] = taken.applied;
            shard.mark_flushed(taken);
        }
        for (shard, applied) in writes.iter().filter_map(|(write, _)| write.applied) {
            self.applied[shard as usize] = Some(applied);
        }
        if checkpoint {
            self.unsynced_bytes = 0;
            self.unsynced_since = None;
            for (shard, applied) in (0..).zip(&self.applied) {
                self.durable.set(shard, applied.as_ref());
            }
        } else {
            self.unsynced_bytes += bytes as u64;
            self.unsynced_since.get_or_insert(begun);
        }
        self.observer.state_written(begun.elapsed(), bytes, checkpoint);
        Ok(())
    }

    fn commit(
        &self,
        writes: &[(WriteRequest, Done<()>)],
        taken: &mut [(Arc<ShardState>, FlushBatch)],
        checkpoint: bool,
    ) -> Result<usize, StoreError> {
        let write = begin(&self.shared.db.db, checkpoint).map_err(broken)?;
        let mut bytes = 0;
        for (_, taken) in taken {
            bytes += taken.write(&write)?;
        }
        for (request, _) in writes {
            let mut table = write.open_table(STATE).map_err(broken)?;
            for (key, value) in &request.rows {
                bytes += flush::put(&mut table, key, value.as_deref())?;
            }
            if let Some((shard, erasures)) = &request.erasures {
                bytes += flush::erase(&mut table, *shard, erasures)?;
            }
            for (name, value) in &request.local {
                put_local(&write, name, value.as_deref())?;
            }
        }
        write.commit().map_err(broken)?;
        Ok(bytes)
    }
}
