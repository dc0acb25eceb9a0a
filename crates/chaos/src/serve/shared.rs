//! The data that the keeper shares with all desks: what runs, what is in force, and the events.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::events::{Event, EventKind, Observer};
use crate::experiment::Experiment;
use crate::journal::Applied;
use crate::limits::{EVENTS_BEHIND_MAX, WATCHERS_MAX};
use crate::serve::refusal::{Refusal, RefusalKind};
use crate::serve::runs::Record;
use crate::serve::timetable::{OnViolation, Upcoming};
use crate::time::wall_ms;

/// An event as watchers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Wall time, milliseconds since 1970.
    pub at_ms: i64,
    /// The id of the run in which it happened, if any.
    pub run: Option<String>,
    /// The event's kind.
    pub kind: EventKind,
    /// The event as a line of text.
    pub text: String,
}

/// The controller's state: what is running and in force.
#[derive(Debug, Default)]
pub(super) struct ControllerState {
    pub(super) current: Option<Record>,
    /// Finished runs, the newest first.
    pub(super) runs: VecDeque<Record>,
    pub(super) faults: BTreeMap<u64, Applied>,
    /// The schedule's entries with their next runs.
    pub(super) upcoming: Vec<Upcoming>,
    /// Why the schedule has been halted; `None` if it has not.
    pub(super) halted: Option<String>,
}

/// The data that the keeper shares with all desks.
#[derive(Debug)]
pub(super) struct SharedState {
    pub(super) experiments: BTreeMap<String, Experiment>,
    pub(super) backend: &'static str,
    pub(super) runs_dir: PathBuf,
    pub(super) on_violation: OnViolation,
    /// The controller's start: wall time, milliseconds since 1970.
    pub(super) began_ms: i64,
    state: Mutex<ControllerState>,
    events: broadcast::Sender<EventRecord>,
    watchers: Arc<Semaphore>,
}

impl SharedState {
    pub(super) fn new(
        experiments: BTreeMap<String, Experiment>,
        backend: &'static str,
        runs_dir: PathBuf,
        on_violation: OnViolation,
        state: ControllerState,
    ) -> Self {
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
        let (began_ms, state) = (wall_ms(), Mutex::new(state));
        Self { experiments, backend, runs_dir, on_violation, began_ms, state, events, watchers }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ControllerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to all events from now on.
    ///
    /// # Errors
    /// If there are too many watchers.
    pub(super) fn watch(&self) -> Result<Watch, Refusal> {
        let permit = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            Refusal::new(
                RefusalKind::TooMany,
                format!("there are {WATCHERS_MAX} watchers already, which is the most"),
                "close one, or try again later",
            )
        })?;
        Ok(Watch { events: self.events.subscribe(), _permit: permit })
    }

    pub(super) fn publish(&self, run: Option<String>, event: &Event) {
        let record = EventRecord { at_ms: wall_ms(), run, kind: event.kind(), text: event.to_string() };
        if event.is_line() {
            tracing::info!(
                run = record.run.as_deref().unwrap_or("none"),
                kind = record.kind.name(),
                "{}",
                record.text
            );
        }
        // An error means that there are no watchers.
        let _ = self.events.send(record);
    }
}

impl Observer for SharedState {
    fn event(&self, event: &Event) {
        let mut state = self.state();
        match event {
            Event::Applied(fault) | Event::NotHealed { fault, .. } => {
                state.faults.insert(fault.id, fault.clone());
            }
            Event::Healed(fault) => {
                state.faults.remove(&fault.id);
            }
            Event::Began { .. } | Event::Settling | Event::Recovering | Event::Judging => {
                if let Some(current) = &mut state.current {
                    current.phase = event.to_string();
                }
            }
            // The keeper sends this event itself, once the report is written.
            Event::Ended(_) => return,
            _ => {}
        }
        let run = state.current.as_ref().map(|current| current.id.clone());
        drop(state);
        self.publish(run, event);
    }
}

/// A subscription to events.
#[derive(Debug)]
pub struct Watch {
    events: broadcast::Receiver<EventRecord>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next event, and how many before it were lost because this watcher was too slow. `None` when the controller ends.
    pub async fn next(&mut self) -> Option<(EventRecord, u64)> {
        let mut left_out = 0;
        loop {
            match self.events.recv().await {
                Ok(record) => return Some((record, left_out)),
                Err(broadcast::error::RecvError::Lagged(count)) => left_out += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
