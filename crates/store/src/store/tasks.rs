//! The writers as tasks, for simulations.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use crate::disk::Disk;
use crate::lock;
use crate::log::TaskWriter;
use crate::state::writer::StateWriter;
use crate::votes::VoteWriter;
use crate::work;

/// The writers as tasks of the runtime.
pub(super) struct Tasks {
    votes: work::SharedWriter<VoteWriter>,
    log: work::SharedWriter<TaskWriter>,
    state: work::SharedWriter<StateWriter>,
    /// The tasks end when this is dropped.
    _running: JoinSet<()>,
}

impl Tasks {
    pub(super) fn start(
        votes: VoteWriter,
        log: TaskWriter,
        state: StateWriter,
        disk: &Arc<dyn Disk>,
    ) -> Self {
        let (votes, log) = (Arc::new(Mutex::new(votes)), Arc::new(Mutex::new(log)));
        let state = state.into_task(Arc::clone(&log));
        let mut running = JoinSet::new();
        running.spawn(VoteWriter::run_as_task(Arc::clone(&votes), Arc::clone(disk)));
        running.spawn(TaskWriter::run(Arc::clone(&log), Arc::clone(disk)));
        running.spawn(StateWriter::run_as_task(Arc::clone(&state), Arc::clone(disk)));
        Self { votes, log, state, _running: running }
    }

    /// Does all remaining work.
    pub(super) fn finish(self) {
        lock(&self.state).finish();
        lock(&self.votes).process_queued();
        lock(&self.log).process_queued();
    }
}
