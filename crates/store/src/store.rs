//! The store of one data dir: opening it, and its interface for the rest of the node.

mod files;
mod tasks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use conclave_core::level::FEATURE_LEVEL;
use conclave_core::limits::{HISTORY_READS_MAX, LOG_QUEUE_MAX, LOG_TAIL_BYTES_DEFAULT};
use conclave_core::{DataDirId, NodeId, RoomId, Seq, ShardId};
use conclave_proto::log as proto;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::ballast;
use crate::boots::{BootId, Boots};
use crate::disk::{DataFile, Disk, RealDisk};
use crate::error::{OpenError, StoreError};
use crate::failure::Failure;
use crate::identity::{DataDirLock, Identity};
use crate::lock;
use crate::log::{Durable, Log, LogStore, Sender, TaskWriter, Writer};
use crate::observer::Observer;
use crate::snapshot::{Receiving, SnapshotReceiver, finish_installing};
use crate::state::db::{HAS_LOG, peer, peer_boot};
use crate::state::machine::StateMachine;
use crate::state::writer::{StateWriter, StateWriterQueue, WriteRequest};
use crate::state::{ShardState, StoreContext};
use crate::types::SnapshotMeta;
use crate::votes::{VoteWriter, Votes};
use crate::work::Work;

use files::{open_state, open_votes};
use tasks::Tasks;

/// Names of the writers' threads.
const LOG_WRITER: &str = "log-writer";
const VOTE_WRITER: &str = "vote-writer";

/// Options for opening a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tail of the log that [`Store::compaction`] keeps for followers that lag, bytes.
    pub log_tail_bytes: u64,
    /// The disk that holds the files.
    pub disk: Arc<dyn Disk>,
    /// Where blocking work runs.
    pub work: Work,
    /// The highest feature level that the node understands. The store fails with [`StoreError::NeedsUpgrade`] at an
    /// entry above it.
    pub feature_level: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_tail_bytes: LOG_TAIL_BYTES_DEFAULT,
            disk: Arc::new(RealDisk),
            work: Work::default(),
            feature_level: FEATURE_LEVEL,
        }
    }
}

/// The resources that a store uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the rows in the log.
    pub log_bytes: u64,
    /// Size of the log's file.
    pub log_file_bytes: u64,
    /// Size of the state's file.
    pub state_file_bytes: u64,
    /// Bytes applied and not yet written to the state's file.
    pub unwritten_bytes: u64,
    /// Jobs waiting for the log writer.
    pub log_queue: usize,
}

/// A group whose log should be purged: take a snapshot, then purge up to and including `upto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// The group.
    pub shard: ShardId,
    /// The last index to purge.
    pub upto: u64,
}

/// The store of a node's data dir. Cheap to clone; closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    log_tail_bytes: u64,
    failure: Arc<Failure>,
    log: Arc<Log>,
    queue: Sender,
    votes: Arc<Votes>,
    shared: Arc<StoreContext>,
    shards: Vec<Shard>,
    observer: Arc<dyn Observer>,
    peers: Mutex<BTreeMap<NodeId, DataDirId>>,
    boots: Boots,
    peer_boots: Mutex<BTreeMap<NodeId, BootId>>,
    disk: Arc<dyn Disk>,
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    /// In a simulation, the writers as tasks instead of threads.
    tasks: Mutex<Option<Tasks>>,
    _lock: DataDirLock,
}

#[derive(Clone)]
struct Shard {
    state: Arc<ShardState>,
    receiving: Arc<Receiving>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Tasks do not finish their work when they are dropped: the end of a runtime simulates a crashed process.
        lock(&self.tasks).take();
        self.close();
    }
}

impl Inner {
    fn close(&self) {
        if let Some(tasks) = lock(&self.tasks).take() {
            tasks.finish();
        }
        // The state stops first, because its checkpoint may wait for the log.
        self.shared.writer_queue.stop();
        for (name, thread) in std::mem::take(&mut *lock(&self.threads)).into_iter().rev() {
            match name {
                LOG_WRITER => self.log.stop(&self.queue),
                VOTE_WRITER => self.votes.stop(),
                _ => {}
            }
            if thread.join().is_err() {
                self.failure.set(StoreError::Closed(format!("the {name} has panicked")));
            }
        }
        self.failure.set(StoreError::Closed("closing was requested".to_owned()));
        self.log.wake();
        self.shared.written.notify_waiters();
    }
}

impl Store {
    /// Opens a data dir that [`Identity::create`] made: takes the lock, checks that the data dir is the
    /// expected one, recovers log and state, and finishes a snapshot's installation that a crash
    /// interrupted. Blocking.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing has been changed then.
    pub fn open(
        dir: &Path,
        expect: &Identity,
        shards: u32,
        options: Options,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, OpenError> {
        if !dir.is_dir() {
            return Err(OpenError::Empty { dir: dir.to_owned() });
        }
        // Before anything is written. Whoever else has the data dir open needs no ballast any more.
        ballast::drop_if_needed(options.disk.as_ref(), dir);
        let directory_lock = DataDirLock::take(dir)?;
        let identity = Identity::read(dir)?.ok_or_else(|| OpenError::Empty { dir: dir.to_owned() })?;
        identity.check(dir, expect)?;
        Identity::restrict(dir);

        let broken = |error| OpenError::Store { dir: dir.to_owned(), error };
        let Options { log_tail_bytes, disk, work, feature_level } = options;
        let groups = shards as usize + 1;
        let durable = Arc::new(Durable::new(groups));
        let failure = Arc::new(Failure::new());
        let (db, has_log) = open_state(disk.as_ref(), dir, shards)?;
        let (log, votes_inside) = Log::open(disk.as_ref(), dir, durable.clone(), failure.clone(), !has_log)?;
        let votes = open_votes(disk.as_ref(), dir, &log, votes_inside)?;
        let log = Arc::new(log);
        let (vote_writer, votes) = VoteWriter::new(votes, failure.clone(), observer.clone());
        let peers = db.peers().map_err(broken)?.into_iter().collect();
        let peer_boots = db.peer_boots().map_err(broken)?.into_iter().collect();
        let shared = Arc::new(StoreContext {
            db,
            failure: failure.clone(),
            writer_queue: StateWriterQueue::default(),
            unwritten: AtomicUsize::new(0),
            written: Notify::new(),
            work,
            history_reads: Arc::new(Semaphore::new(HISTORY_READS_MAX)),
            feature_level,
        });
        let shard = |n| -> Result<Shard, StoreError> {
            let id = ShardId(n);
            let state = Arc::new(ShardState::load(id, shared.clone())?);
            durable.set(n, state.position().0.as_ref());
            Ok(Shard { state, receiving: Arc::new(Receiving::new(disk.clone(), dir, id)) })
        };
        let shards: Vec<Shard> = (0..=shards).map(shard).collect::<Result<_, _>>().map_err(broken)?;

        let boots = Boots::with_new(dir)?;
        let (queue, jobs) = mpsc::channel(LOG_QUEUE_MAX);
        let store = Self(Arc::new(Inner {
            dir: dir.to_owned(),
            log_tail_bytes,
            failure,
            log: log.clone(),
            queue,
            votes,
            shared: shared.clone(),
            shards,
            observer: observer.clone(),
            peers: Mutex::new(peers),
            boots,
            peer_boots: Mutex::new(peer_boots),
            disk: disk.clone(),
            threads: Mutex::new(Vec::new()),
            tasks: Mutex::new(None),
            _lock: directory_lock,
        }));
        let states = store.0.shards.iter().map(|shard| shard.state.clone()).collect();
        let log_writer = Writer::new(log.clone(), observer.clone());
        let state_writer = StateWriter::new(shared, states, log, durable, observer);
        match work {
            Work::Threads => {
                store.spawn(VOTE_WRITER, move || vote_writer.run())?;
                store.spawn(LOG_WRITER, move || log_writer.run(jobs))?;
                store.spawn("state-writer", move || state_writer.run())?;
            }
            Work::Tasks => {
                let log_writer = TaskWriter::new(log_writer, jobs);
                let tasks = Tasks::start(vote_writer, log_writer, state_writer, &disk);
                *lock(&store.0.tasks) = Some(tasks);
            }
        }
        store.finish_open(has_log).map_err(broken)?;
        Ok(store)
    }

    fn spawn(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        let thread = thread.map_err(|error| OpenError::access(&self.0.dir, error))?;
        lock(&self.0.threads).push((name, thread));
        Ok(())
    }

    fn finish_open(&self, has_log: bool) -> Result<(), StoreError> {
        if !has_log {
            let local = vec![(HAS_LOG.to_owned(), Some(vec![1]))];
            self.0.shared.writer_queue.write_blocking(WriteRequest {
                local,
                sync: true,
                ..WriteRequest::default()
            })?;
        }
        self.0.shards.iter().try_for_each(|shard| finish_installing(&shard.state, &shard.receiving))
    }

    fn at(&self, shard: ShardId) -> &Shard {
        self.0.shards.get(shard.0 as usize).expect("a shard of the number that the store was opened with")
    }

    /// Log and state machine of a group, for [`openraft::Raft::new`]. To be called once for each group.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> (LogStore, StateMachine) {
        let Shard { state, receiving } = self.at(shard).clone();
        let inner = &self.0;
        let log =
            LogStore::new(inner.log.clone(), inner.votes.clone(), shard.0, inner.queue.clone(), self.work());
        (log, StateMachine::new(state, receiving, inner.observer.clone()))
    }

    /// A shard's applied state, for reads.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn state(&self, shard: ShardId) -> Arc<ShardState> {
        self.at(shard).state.clone()
    }

    /// The shard leader's expected answer to an entry that is not committed yet, for planted bugs that answer too
    /// early.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn predict(&self, shard: ShardId, payload: &crate::Payload) -> Option<crate::Replies> {
        self.at(shard).state.predict(payload, self.0.observer.as_ref())
    }

    /// The store's first error, if any. The node must stop then.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.0.failure.subscribe()
    }

    /// The resources that the store uses.
    #[must_use]
    pub fn usage(&self) -> Usage {
        // These numbers are only displayed: a file whose size cannot be read counts as 0.
        let disk = &self.0.disk;
        let size = |file| disk.size(&self.0.dir.join(file)).unwrap_or(0);
        Usage {
            log_bytes: self.0.log.live_bytes(),
            log_file_bytes: size(DataFile::LOG),
            state_file_bytes: size(DataFile::STATE),
            unwritten_bytes: self.0.shared.unwritten.load(Ordering::Relaxed) as u64,
            log_queue: self.0.queue.max_capacity() - self.0.queue.capacity(),
        }
    }

    /// Free space for this process on the file system of the data dir, and the size of that file system, bytes; (0, 0) if
    /// the operating system does not tell. Blocking.
    #[must_use]
    pub fn space(&self) -> (u64, u64) {
        self.0.disk.space(&self.0.dir).unwrap_or((0, 0))
    }

    /// Makes the ballast that [`Store::open`] drops where the disk is full, unless it is there or the disk has little room.
    /// Blocking.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn keep_ballast(&self) -> std::io::Result<()> {
        // A simulated disk is not where the file would be.
        if self.work() == Work::Tasks { Ok(()) } else { ballast::keep(self.0.disk.as_ref(), &self.0.dir) }
    }

    /// The groups to purge so that the log file keeps only its tail: the caller takes a snapshot of each
    /// of these groups, then purges. Includes idle groups whose few entries keep old rows in the file.
    /// Empty most of the time, and cheap then.
    #[must_use]
    pub fn compaction(&self) -> Vec<Compaction> {
        let cut = |(shard, entries): (u32, std::ops::Range<u64>)| {
            let applied = self.at(ShardId(shard)).state.position().0?.index;
            // A snapshot contains only applied entries.
            let upto = applied.min(entries.end - 1);
            (upto >= entries.start).then_some(Compaction { shard: ShardId(shard), upto })
        };
        self.0.log.purge_ranges(self.0.log_tail_bytes).into_iter().filter_map(cut).collect()
    }

    /// The term of an entry of a shard's log, if the log has the entry.
    #[must_use]
    pub fn log_term(&self, shard: ShardId, index: u64) -> Option<u64> {
        self.0.log.term_at(shard.0, index)
    }

    /// The index of the last entry that a shard's log and state contain, 0 if there is none.
    #[must_use]
    pub fn last_index(&self, shard: ShardId) -> u64 {
        let logged = self.0.log.last_log_id(shard.0);
        let applied = self.at(shard).state.position().0;
        [logged, applied].into_iter().flatten().map(|log_id| log_id.index).max().unwrap_or(0)
    }

    /// Where blocking work runs.
    #[must_use]
    pub fn work(&self) -> Work {
        self.0.shared.work
    }

    /// The identity of the data dir that a node id belongs to, as first seen.
    #[must_use]
    pub fn peer_directory(&self, node: NodeId) -> Option<DataDirId> {
        lock(&self.0.peers).get(&node).copied()
    }

    /// Stores the identity of the data dir that a node id belongs to, for good. If another one is stored
    /// already, that one is returned and nothing changes.
    ///
    /// # Errors
    /// If the row cannot be written.
    pub async fn remember_peer(
        &self,
        node: NodeId,
        directory: DataDirId,
    ) -> Result<Result<(), DataDirId>, StoreError> {
        {
            let mut peers = lock(&self.0.peers);
            if let Some(known) = peers.get(&node).copied() {
                return Ok(if known == directory { Ok(()) } else { Err(known) });
            }
            peers.insert(node, directory);
        }
        let local = vec![(peer(node), Some(directory.0.to_be_bytes().to_vec()))];
        self.0
            .shared
            .writer_queue
            .write(WriteRequest { local, sync: true, ..WriteRequest::default() })
            .await?;
        Ok(Ok(()))
    }

    /// Writes the boots with the current one, which other nodes may know from then on. Until then a failed start leaves no
    /// boot behind: a node that is restarted once a second because its port is in use must not use up the boots that are
    /// kept. Blocking.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn write_boots(&self) -> Result<(), OpenError> {
        self.0.boots.write(&self.0.dir)
    }

    /// The boots of this data dir. The current one began when the store was opened.
    #[must_use]
    pub fn boots(&self) -> &Boots {
        &self.0.boots
    }

    /// The last boot of a node that this one has stored.
    #[must_use]
    pub fn peer_boot(&self, node: NodeId) -> Option<BootId> {
        lock(&self.0.peer_boots).get(&node).copied()
    }

    /// Stores the current boot of a node. When this returns, it survives a crash.
    ///
    /// # Errors
    /// If the row cannot be written.
    pub async fn remember_boot(&self, node: NodeId, boot: BootId) -> Result<(), StoreError> {
        if self.peer_boot(node) == Some(boot) {
            return Ok(());
        }
        let local = vec![(peer_boot(node), Some(boot.0.to_be_bytes().to_vec()))];
        self.0
            .shared
            .writer_queue
            .write(WriteRequest { local, sync: true, ..WriteRequest::default() })
            .await?;
        lock(&self.0.peer_boots).insert(node, boot);
        Ok(())
    }

    /// The prefixes of a shard's history that this node has, for the answer to a snapshot's offer. Blocking.
    ///
    /// # Errors
    /// If the state file cannot be read.
    pub fn prefixes(&self, shard: ShardId) -> Result<Vec<(RoomId, Seq)>, StoreError> {
        self.0.shared.db.read()?.heads(shard)
    }

    /// Begins to receive a snapshot, one at a time for each shard. Blocking.
    ///
    /// # Errors
    /// If the shard already receives a snapshot, or the staging file cannot be created.
    pub fn receive_snapshot(
        &self,
        shard: ShardId,
        meta: SnapshotMeta,
        left_out: Vec<(RoomId, Seq)>,
        digest: Option<proto::AppliedDigest>,
    ) -> Result<SnapshotReceiver, StoreError> {
        let Shard { state, receiving } = self.at(shard);
        receiving.begin(state, meta, left_out, digest)
    }

    /// Writes and syncs everything and stops the writers. Blocking. Later calls of the store return an
    /// error.
    pub fn close(&self) {
        self.0.close();
    }
}
