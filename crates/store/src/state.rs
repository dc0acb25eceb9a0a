//! Applied state: rooms, sessions and history of one shard.
//!
//! Memory is authoritative: commands are applied to it, answered and published from it. One thread writes
//! the changes in the background (see [`writer`]), a whole number of entries at a time, together with
//! their position in the log. Rows that are not in memory are in the file.

mod apply;
pub(crate) mod block;
mod cache;
pub(crate) mod db;
pub(crate) mod digest;
pub(crate) mod flush;
pub(crate) mod key;
pub(crate) mod machine;
mod messages;
mod people;
#[cfg(debug_assertions)]
mod predict;
mod read;
pub(crate) mod row;
mod tail;
#[cfg(test)]
mod tests;
mod view;
pub(crate) mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use conclave_core::access::Member;
use conclave_core::limits::{CACHED_ROWS_MAX, TAIL_CACHE_BYTES_MAX};
use conclave_core::message::MessageState;
use conclave_core::record::{DirectoryEntry, MetaHead, NodeRecord};
use conclave_core::ring::Layout;
use conclave_core::{NodeId, RoomId, Seq, SessionId, ShardId, UserId};
use conclave_proto::FormatError;
use tokio::sync::{Notify, Semaphore, broadcast, watch};

use crate::disk::DataFile;
use crate::error::StoreError;
use crate::failure::Failure;
use crate::lock;
use crate::types::{LogId, StoredMembership};
use crate::work::Work;
use cache::Cache;
use db::{ReadView, StateDb};
use digest::Digests;
use key::Key;
use row::{Row, Small};
use tail::{ApplyBatch, Chunk, Tails};
use writer::StateWriterQueue;

pub use digest::{AppliedDigest, DigestSum};
pub use messages::FoldedMessage;
pub use read::{EventPage, MembersPage};

/// The parts that all shards share.
#[derive(Debug)]
pub(crate) struct StoreContext {
    pub(crate) db: StateDb,
    pub(crate) failure: Arc<Failure>,
    pub(crate) writer_queue: StateWriterQueue,
    /// Bytes that are applied, but not yet written.
    pub(crate) unwritten: AtomicUsize,
    /// Notified when `unwritten` has fallen.
    pub(crate) written: Notify,
    /// Where blocking work runs.
    pub(crate) work: Work,
    /// A permit for each page of history that may be read from the file at a time.
    pub(crate) history_reads: Arc<Semaphore>,
    /// The highest feature level that the node understands.
    pub(crate) feature_level: u32,
}

/// The members and the layout of the cluster, as the meta shard has them. Empty in the state of other shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterTable {
    /// Every registered node.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The layout in force; `None` before the first.
    pub layout: Option<Layout>,
    /// The cluster's feature level; 0 before the first was set.
    pub feature_level: u32,
}

/// How much news of ended sessions may wait for a reader. A reader that has missed some looks at all of its sessions.
const ENDED_SESSIONS_WAITING_MAX: usize = 4_096;

/// News of sessions that have ended, from the meta shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedSessions {
    /// This session was closed.
    One(SessionId),
    /// Any session may have ended: those of a user, or a snapshot was installed.
    Any,
}

/// The ended sessions of the entries that are being applied.
#[derive(Debug, Default)]
struct SessionNews {
    closed: Vec<SessionId>,
    any: bool,
}

/// One shard's applied state on this node.
#[derive(Debug)]
pub struct ShardState {
    shard: ShardId,
    shared: Arc<StoreContext>,
    inner: Mutex<Inner>,
    applied: watch::Sender<u64>,
    cluster: watch::Sender<Arc<ClusterTable>>,
    ended_sessions: broadcast::Sender<EndedSessions>,
    /// Raised when a snapshot's installation begins and when it ends: at an odd number the file is
    /// between two states.
    installs: AtomicU64,
    /// Raised when somebody may see less of a room than before; see [`ShardState::sight`].
    sight: AtomicU64,
    #[cfg(debug_assertions)]
    predictions: Mutex<predict::Predictions>,
}

/// The part of a shard's state that is in memory.
#[derive(Debug)]
struct Inner {
    applied: Option<LogId>,
    membership: StoredMembership,
    digests: Digests,
    /// `applied` or `membership` has changed since the writer took it.
    moved: bool,
    /// The current epoch; see [`cache`]. The writer ends an epoch when it takes the epoch's changes.
    epoch: u64,
    /// Everything of epochs up to this one is written.
    written: u64,
    rows: Cache<Key, Row>,
    /// While a batch is applied: keys of rows that are neither in memory nor in the file.
    absent: BTreeSet<Key>,
    meta: MetaHead,
    nodes: BTreeMap<NodeId, NodeRecord>,
    layout: Option<Layout>,
    /// `nodes`, `layout` or the feature level has changed since the last [`ClusterTable`] was published.
    cluster_changed: bool,
    session_news: SessionNews,
    /// Sessions whose stored replies are to be removed from the file.
    ended: Vec<SessionId>,
    /// The keys of `meta`, `nodes` and `layout` that have changed.
    small: BTreeSet<Key>,
    /// Rooms of the room directory that are not written yet, with their epoch.
    fresh: BTreeMap<String, (DirectoryEntry, u64)>,
    /// Members of rooms that are not written yet, with their epoch.
    fresh_members: BTreeMap<(RoomId, UserId), (Option<Member>, u64)>,
    /// What rooms know of messages that is not written yet, with its epoch.
    fresh_messages: BTreeMap<(RoomId, Seq), (MessageState, u64)>,
    /// Events whose content is erased, but not yet in the file: the event that deleted each, and the epoch.
    erasures: BTreeMap<(RoomId, Seq), (Seq, u64)>,
    /// Estimated bytes of blocks that the batch being applied makes the writer rewrite.
    erased_bytes: usize,
    /// Somebody may see less than before the batch.
    sees_less: bool,
    tails: Tails,
    batch: ApplyBatch,
    unwritten: Vec<(RoomId, Chunk)>,
    /// Bytes that count against the limit of unwritten bytes.
    unwritten_bytes: usize,
}

impl ShardState {
    /// The shard as it is in the file.
    pub(crate) fn load(shard: ShardId, shared: Arc<StoreContext>) -> Result<Self, StoreError> {
        let inner = Inner::load(shard, &shared.db.read()?, shared.feature_level)?;
        let index = inner.applied.map_or(0, |id| id.index);
        Ok(Self {
            shard,
            shared,
            cluster: watch::Sender::new(Arc::new(inner.cluster())),
            ended_sessions: broadcast::Sender::new(ENDED_SESSIONS_WAITING_MAX),
            inner: Mutex::new(inner),
            applied: watch::Sender::new(index),
            installs: AtomicU64::new(0),
            sight: AtomicU64::new(0),
            #[cfg(debug_assertions)]
            predictions: Mutex::default(),
        })
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn shared(&self) -> &Arc<StoreContext> {
        &self.shared
    }

    /// The highest feature level that this node understands.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.shared.feature_level
    }

    /// Where blocking work runs, such as [`ShardState::read`].
    #[must_use]
    pub fn work(&self) -> Work {
        self.shared.work
    }

    /// The digest of what this replica has applied.
    #[must_use]
    pub fn digest(&self) -> AppliedDigest {
        lock(&self.inner).digests.now()
    }

    /// The digest as it was after this many entries; `None` unless it is one of the last.
    #[must_use]
    pub fn digest_after(&self, entries: u64) -> Option<AppliedDigest> {
        lock(&self.inner).digests.at(entries)
    }

    /// The applied position in the log, and the membership at that position.
    pub(crate) fn position(&self) -> (Option<LogId>, StoredMembership) {
        let inner = lock(&self.inner);
        (inner.applied, inner.membership.clone())
    }

    /// The index of the last applied entry; 0 before the first.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Makes the shard unreadable until [`ShardState::installed`], and drops its memory.
    pub(crate) fn begin_install(&self) {
        self.installs.fetch_add(1, Ordering::AcqRel);
        let mut inner = lock(&self.inner);
        inner.moved = false;
        inner.rows = Cache::new();
        inner.small.clear();
        inner.ended.clear();
        inner.fresh.clear();
        inner.fresh_members.clear();
        inner.fresh_messages.clear();
        inner.erasures.clear();
        inner.tails.clear();
        inner.unwritten.clear();
        let bytes = std::mem::take(&mut inner.unwritten_bytes);
        drop(inner);
        self.shared.release(bytes);
    }

    /// Reloads the shard's state. Called once the snapshot is in the state file.
    pub(crate) fn installed(&self) -> Result<(), StoreError> {
        let fresh = Inner::load(self.shard, &self.shared.db.read()?, self.shared.feature_level)?;
        let index = fresh.applied.map_or(0, |id| id.index);
        let mut inner = lock(&self.inner);
        // Epochs are never reused: the writer may still hold an earlier one.
        let (epoch, written) = (inner.epoch + 1, inner.written);
        *inner = Inner { epoch, written, ..fresh };
        self.sight.fetch_add(1, Ordering::AcqRel);
        let cluster = inner.cluster();
        drop(inner);
        self.cluster.send_replace(Arc::new(cluster));
        self.installs.fetch_add(1, Ordering::AcqRel);
        self.publish_session_news(SessionNews { any: true, ..SessionNews::default() });
        self.applied.send_replace(index);
        Ok(())
    }

    /// Tells of the ended sessions. Nobody need listen.
    fn publish_session_news(&self, news: SessionNews) {
        let one = news.closed.into_iter().map(EndedSessions::One);
        for ended in one.chain(news.any.then_some(EndedSessions::Any)) {
            let _ = self.ended_sessions.send(ended);
        }
    }

    /// News of the sessions that end from now on. Only the meta shard has any.
    #[must_use]
    pub fn ended_sessions(&self) -> broadcast::Receiver<EndedSessions> {
        self.ended_sessions.subscribe()
    }
}

impl StoreContext {
    /// Records that `bytes` are written or dropped.
    pub(crate) fn release(&self, bytes: usize) {
        self.unwritten.fetch_sub(bytes, Ordering::AcqRel);
        self.written.notify_waiters();
    }
}

impl Inner {
    fn load(shard: ShardId, read: &ReadView, understands: u32) -> Result<Self, StoreError> {
        let (applied, membership, digest) = match read.applied(shard)? {
            Some((applied, membership, digest)) => (Some(applied), membership, digest),
            None => (None, StoredMembership::default(), AppliedDigest::starting(0)),
        };
        let mut inner = Self {
            applied,
            membership,
            digests: Digests::new(digest),
            moved: false,
            epoch: 1,
            written: 0,
            rows: Cache::new(),
            absent: BTreeSet::new(),
            meta: MetaHead::default(),
            nodes: BTreeMap::new(),
            layout: None,
            cluster_changed: false,
            session_news: SessionNews::default(),
            ended: Vec::new(),
            small: BTreeSet::new(),
            fresh: BTreeMap::new(),
            fresh_members: BTreeMap::new(),
            fresh_messages: BTreeMap::new(),
            erasures: BTreeMap::new(),
            erased_bytes: 0,
            sees_less: false,
            tails: Tails::default(),
            batch: ApplyBatch::default(),
            unwritten: Vec::new(),
            unwritten_bytes: 0,
        };
        for kind in [key::kind::META, key::kind::NODE, key::kind::LAYOUT] {
            let prefix = key::with_kind(shard, kind);
            for row in read.range(&prefix..&key::end_of(&prefix))? {
                let (key, value) = row?;
                match row::decode_small(&key[key::SHARD..], &value)? {
                    Some(Small::Meta(meta)) => inner.meta = meta,
                    Some(Small::Node(node)) => drop(inner.nodes.insert(node.node, node)),
                    Some(Small::Layout(layout)) => inner.layout = Some(layout),
                    None => {}
                }
            }
        }
        if inner.meta.feature_level > understands {
            let needs = inner.meta.feature_level;
            let error = FormatError::NewerLevel { needs, understands };
            return Err(StoreError::format(DataFile::STATE, "the cluster's state", &error));
        }
        Ok(inner)
    }

    fn cluster(&self) -> ClusterTable {
        ClusterTable {
            nodes: self.nodes.clone(),
            layout: self.layout.clone(),
            feature_level: self.meta.feature_level,
        }
    }

    /// Evicts rows and events from the caches. The work of one call is bounded.
    fn evict(&mut self) {
        self.rows.evict(CACHED_ROWS_MAX, self.written);
        self.tails.evict(TAIL_CACHE_BYTES_MAX, self.written);
    }
}
