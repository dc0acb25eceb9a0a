//! The interface while the rest is being written.
#![allow(
    missing_docs,
    unused_variables,
    missing_debug_implementations,
    clippy::todo,
    clippy::needless_pass_by_value,
    clippy::unused_async,
    reason = "temporary"
)]

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use conclave_core::command::NodeRecord;
use conclave_core::meta::{DirectoryEntry, MetaHead, SessionRecord, UserRecord};
use conclave_core::ring::Layout;
use conclave_core::room::{RoomHead, RoomInfo};
use conclave_core::{DirectoryId, NodeId, RoomId, Seq, SessionId, ShardId, UserId};
use conclave_proto::raft::SnapshotChunk;
use futures::Stream;
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::types::*;
use crate::{Disk, Identity, Observer, OpenError, ReadError, RealDisk, StoreError};

#[derive(Clone, Debug)]
pub struct Options {
    pub log_tail_bytes: u64,
    pub disk: Arc<dyn Disk>,
}
impl Default for Options {
    fn default() -> Self {
        Self { log_tail_bytes: conclave_core::limits::LOG_TAIL_BYTES_DEFAULT, disk: Arc::new(RealDisk) }
    }
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the rows that the log still needs.
    pub log_bytes: u64,
    pub log_file_bytes: u64,
    pub state_file_bytes: u64,
    /// Bytes applied but not yet written to the state file.
    pub unwritten_bytes: u64,
    /// Jobs waiting for the log writer.
    pub log_queue: usize,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    pub shard: ShardId,
    /// Take a snapshot, then purge up to this index (inclusive).
    pub upto: u64,
}
#[derive(Clone)]
pub struct Store;
impl Store {
    pub fn open(
        dir: &Path,
        expect: &Identity,
        shards: u32,
        options: Options,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, OpenError> {
        todo!()
    }
    pub fn shard(&self, shard: ShardId) -> (LogStore, StateMachine) {
        todo!()
    }
    pub fn state(&self, shard: ShardId) -> Arc<ShardState> {
        todo!()
    }
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        todo!()
    }
    pub fn usage(&self) -> Usage {
        todo!()
    }
    pub fn compaction(&self) -> Vec<Compaction> {
        todo!()
    }
    pub fn peer_directory(&self, node: NodeId) -> Option<DirectoryId> {
        todo!()
    }
    pub async fn remember_peer(
        &self,
        node: NodeId,
        directory: DirectoryId,
    ) -> Result<Result<(), DirectoryId>, StoreError> {
        todo!()
    }
    /// Blocking.
    pub fn close(&self) {
        todo!()
    }
    /// Blocking.
    pub fn prefixes(&self, shard: ShardId) -> Result<Vec<(RoomId, Seq)>, StoreError> {
        todo!()
    }
    /// Blocking.
    pub fn receive_snapshot(
        &self,
        shard: ShardId,
        meta: SnapshotMeta,
        left_out: Vec<(RoomId, Seq)>,
    ) -> Result<SnapshotReceiver, StoreError> {
        todo!()
    }
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub records: Bytes,
    /// Of the first record; 0 if there is none.
    pub first: Seq,
    /// Of the last record; `after` if there is none.
    pub last: Seq,
    pub head: Seq,
}
pub struct ShardState;
impl ShardState {
    pub fn read(
        &self,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Page, ReadError> {
        todo!()
    }
    pub fn room(&self, room: RoomId) -> Result<Option<(RoomHead, RoomInfo)>, ReadError> {
        todo!()
    }
    pub fn member(&self, room: RoomId, user: UserId) -> Result<bool, ReadError> {
        todo!()
    }
    pub fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, ReadError> {
        todo!()
    }
    pub fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, ReadError> {
        todo!()
    }
    pub fn user_named(&self, name: &str) -> Result<Option<UserRecord>, ReadError> {
        todo!()
    }
    pub fn nodes(&self) -> Vec<NodeRecord> {
        todo!()
    }
    pub fn layout(&self) -> Option<Layout> {
        todo!()
    }
    pub fn meta(&self) -> MetaHead {
        todo!()
    }
    pub fn directory_page(&self, after: &str, limit: usize) -> Result<Vec<DirectoryEntry>, ReadError> {
        todo!()
    }
    pub fn applied(&self) -> watch::Receiver<u64> {
        todo!()
    }
}
#[derive(Debug)]
pub enum SnapshotData {
    Local(LocalSnapshot),
    Received(ReceivedSnapshot),
}
#[derive(Debug)]
pub struct LocalSnapshot;
impl LocalSnapshot {
    /// Blocking; bounded memory. The first chunk's header is filled in by the server.
    pub fn chunks(
        self,
        left_out: Vec<(RoomId, Seq)>,
    ) -> impl Iterator<Item = Result<SnapshotChunk, StoreError>> + Send {
        std::iter::empty()
    }
}
#[derive(Debug)]
pub struct ReceivedSnapshot;
#[derive(Debug)]
pub struct SnapshotReceiver;
impl SnapshotReceiver {
    pub fn chunk(&mut self, chunk: &SnapshotChunk) -> Result<(), StoreError> {
        todo!()
    }
    pub fn finish(self) -> Result<SnapshotData, StoreError> {
        todo!()
    }
}
#[derive(Clone, Debug)]
pub struct LogStore;
#[derive(Clone, Debug)]
pub struct LogReader;
impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        todo!()
    }
    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        todo!()
    }
}
impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;
    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        todo!()
    }
    async fn get_log_reader(&mut self) -> LogReader {
        todo!()
    }
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        todo!()
    }
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        todo!()
    }
    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        todo!()
    }
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        todo!()
    }
}
#[derive(Clone)]
pub struct StateMachine;
#[derive(Debug)]
pub struct SnapshotBuilder;
impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;
    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        todo!()
    }
}
impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;
    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        todo!()
    }
    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        todo!()
    }
    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        todo!()
    }
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        todo!()
    }
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        todo!()
    }
}
