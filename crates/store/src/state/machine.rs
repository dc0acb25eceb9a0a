//! openraft's interface to the applied state.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::time::Instant;

use super::ShardState;
use crate::error::StoreError;
use crate::observer::Observer;
use crate::snapshot::{LocalSnapshot, Receiving, SnapshotData, install};
use crate::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries applied under one lock, at most.
const ENTRIES_AT_ONCE: usize = 8;

/// One group's state machine.
#[derive(Clone)]
pub struct StateMachine {
    state: Arc<ShardState>,
    receiving: Arc<Receiving>,
    observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateMachine").field("shard", &self.state.shard()).finish_non_exhaustive()
    }
}

impl StateMachine {
    pub(crate) fn new(
        state: Arc<ShardState>,
        receiving: Arc<Receiving>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { state, receiving, observer }
    }

    /// A snapshot of the synced state, which may be empty.
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let reading = self.state.shared().writer_queue.checkpoint().await?;
        let shard = self.state.shard();
        let read = self.state.work().block(move || reading.applied(shard).map(|applied| (reading, applied)));
        let stopped = |error| StoreError::Closed(format!("building a snapshot was cut off: {error}"));
        let (reading, applied) = read.await.map_err(stopped)??;
        let (last_log_id, last_membership, digest) = match applied {
            Some((applied, membership, digest)) => (Some(applied), membership, Some(digest)),
            None => (None, StoredMembership::default(), None),
        };
        let snapshot = SnapshotData::Local(LocalSnapshot::new(shard, reading, digest));
        Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.state.position())
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ready = entries.ready_chunks(ENTRIES_AT_ONCE);
        while let Some(items) = ready.next().await {
            self.state.wait_for_writer().await?;
            let begun = Instant::now();
            let mut entries = Vec::with_capacity(items.len());
            let mut responders = Vec::with_capacity(items.len());
            for item in items {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.push(responder);
            }
            let count = entries.len();
            let applied = self.state.apply(entries.into_iter()).await?;
            for (responder, replies) in responders.into_iter().zip(applied.replies) {
                if let Some(responder) = responder {
                    responder.send(replies);
                }
            }
            if !applied.heads.is_empty() {
                self.observer.published(self.state.shard(), &applied.heads);
            }
            self.observer.applied(self.state.shard(), count, applied.commands, begun.elapsed());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { machine: self.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (state, receiving, meta) = (self.state.clone(), self.receiving.clone(), meta.clone());
        let work = state.work().block(move || {
            let failed = |error| state.shared().failure.set(error);
            let received = match snapshot {
                SnapshotData::Received(received) => received,
                SnapshotData::Local(local) => receiving.copy(&state, meta.clone(), local).map_err(failed)?,
            };
            install(&state, &meta, &received).map_err(failed)?;
            state.shared().db.read()?.heads(state.shard())
        });
        let heads = work.await.map_err(io::Error::other)??;
        // Subscribers of this node have not been notified of the events that came with the snapshot.
        self.observer.published(self.state.shard(), &heads);
        Ok(())
    }

    /// Made from a new checkpoint in each call: no snapshot has to be stored, and it is never older than
    /// the first entry of the log.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.snapshot().await?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

/// Builds a snapshot: a checkpoint, and a view of it. No data is copied.
#[derive(Debug)]
pub struct SnapshotBuilder {
    machine: StateMachine,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Ok(self.machine.snapshot().await?)
    }
}
