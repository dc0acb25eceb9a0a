//! openraft's interface to the log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use conclave_core::limits::{LOG_QUEUE_BYTES_MAX, LOG_READ_BYTES_MAX};
use futures::Stream;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::{Job, Log, Sender, group};
use crate::error::StoreError;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use crate::votes::Votes;
use crate::work::Work;

/// Reads one group's log.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) log: Arc<Log>,
    votes: Arc<Votes>,
    pub(super) group: u32,
    /// Where entries that are only in the file are read.
    work: Work,
}

/// One group's log and hard state.
#[derive(Clone, Debug)]
pub struct LogStore {
    reader: LogReader,
    queue: Sender,
}

impl LogReader {
    /// The existing entries of a range: at least one, and up to about `bytes_max` bytes. Entries that are only in the
    /// file are read on a thread for blocking work.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        if let Some(entries) = self.log.read_cached(self.group, range.clone(), bytes_max) {
            return Ok(entries);
        }
        let (log, group) = (Arc::clone(&self.log), self.group);
        let stopped = |error| Err(StoreError::Closed(format!("reading the log was cut off: {error}")));
        let read = self.work.block(move || log.read(group, range, bytes_max)).await.unwrap_or_else(stopped);
        read.map_err(|error| self.log.failure.set(error).into())
    }
}

fn plain(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(plain(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, LOG_READ_BYTES_MAX).await
    }

    /// Reads in pieces of bounded size, since there may be many entries to apply after a restart.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let state = (self.clone(), plain(&range), Vec::new().into_iter());
        futures::stream::unfold(state, |(reader, mut range, mut piece)| async move {
            loop {
                if let Some(entry) = piece.next() {
                    return Some((Ok(entry), (reader, range, piece)));
                }
                match reader.read(range.clone(), LOG_READ_BYTES_MAX).await {
                    Ok(entries) => {
                        range.start = entries.last()?.log_id.index + 1;
                        piece = entries.into_iter();
                    }
                    Err(error) => return Some((Err(error), (reader, 0..0, piece))),
                }
            }
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.votes.get(self.group))
    }
}

impl LogStore {
    pub(crate) fn new(log: Arc<Log>, votes: Arc<Votes>, group: u32, queue: Sender, work: Work) -> Self {
        Self { reader: LogReader { log, votes, group, work }, queue }
    }

    async fn enqueue(&self, job: Job) -> Result<(), io::Error> {
        self.reader.log.failure.check()?;
        if self.queue.send(job).await.is_err() {
            let closed = StoreError::Closed("the log writer has stopped".to_owned());
            return Err(self.reader.log.failure.set(closed).into());
        }
        Ok(())
    }

    /// Waits until everything that this group has queued is written.
    async fn wait_until_written(&self) -> Result<(), io::Error> {
        if self.reader.log.group(self.reader.group).is_settled() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        self.enqueue(Job::Barrier { done }).await?;
        let closed = |_| StoreError::Closed("the log writer has stopped".to_owned());
        Ok(written.await.map_err(closed)??)
    }

    /// Waits while the queue is full, then reserves `bytes` in it.
    async fn reserve(&self, bytes: usize) -> Result<(), io::Error> {
        let log = &self.reader.log;
        loop {
            let taken = log.taken.notified();
            if log.queued_bytes.load(Ordering::Acquire) <= LOG_QUEUE_BYTES_MAX {
                log.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
                return Ok(());
            }
            log.failure.check()?;
            taken.await;
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let group = self.reader.log.group(self.reader.group);
        Ok(LogState { last_purged_log_id: group.purged, last_log_id: group.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    /// Waits for this group's own queued entries first: openraft takes a saved vote as proof that all
    /// earlier appends are on disk, too, and acknowledges them to the leader of that time. A vote never
    /// waits for the writes of other groups.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.wait_until_written().await?;
        Ok(self.reader.votes.save(self.reader.group, *vote).await?)
    }

    /// Not synced: a restarted node uses the position only to apply entries again that it had applied
    /// before. The next group commit writes it.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut group = self.reader.log.group(self.reader.group);
        if group.committed != committed {
            group.committed = committed;
            group.committed_pending = committed.is_some();
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.reader.log.group(self.reader.group).committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes = entries.iter().map(group::size).sum();
        self.reserve(bytes).await?;
        let stamp = self.reader.log.group(self.reader.group).append(&entries)?;
        self.enqueue(Job::Append { group: self.reader.group, entries, bytes, stamp, done: callback }).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        let stamp = {
            let mut group = self.reader.log.group(self.reader.group);
            if !group.truncate(from) {
                return Ok(());
            }
            group.stamp()
        };
        // The entries that replace these are queued behind this job.
        self.enqueue(Job::Truncate { group: self.reader.group, from, stamp }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.reader.log.group(self.reader.group).purge(log_id);
        self.enqueue(Job::Purge).await
    }
}
