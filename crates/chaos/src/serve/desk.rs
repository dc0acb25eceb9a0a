//! The requests to a controller. Both APIs only translate to these.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};

use crate::backend::Target;
use crate::events::{Event, Observer};
use crate::experiment::{Experiment, Step};
use crate::journal::Applied;
use crate::serve::runs::{Cause, Record};
use crate::single;
use crate::time::wall_ms;

/// The most requests that wait for the keeper.
pub(super) const ASKS_MAX: usize = 16;
/// How many events a watcher may be behind before it loses some.
const TOLD_MAX: usize = 256;
/// The most watchers.
const WATCHERS_MAX: usize = 32;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of reason.
    pub kind: RefusalKind,
    /// The reason, and what the caller can do.
    pub why: String,
}

/// The kinds of reasons, which both APIs map to status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is invalid.
    Wrong,
    /// The named object does not exist.
    Missing,
    /// A run or a fault has to end first.
    Busy,
    /// Too many requests or watchers.
    Full,
    /// The token is missing or wrong.
    NotKnown,
    /// The caller has no permission.
    NotAllowed,
    /// The controller is shutting down.
    Ending,
    /// The operation failed.
    Failed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Refusal {
    pub(super) fn new(kind: RefusalKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    fn ending() -> Self {
        Self::new(RefusalKind::Ending, "the controller is shutting down")
    }
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request to the keeper, with the channel for its answer.
#[derive(Debug)]
pub(super) enum KeeperRequest {
    Start(Order, Reply<Record>),
    Stop(Reply<Record>),
    Apply(Step, Reply<Applied>),
    Heal(Reply<usize>),
    Targets(Reply<Vec<Target>>),
}

/// A run to be started.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) experiment: Experiment,
    pub(super) seed: u64,
    pub(super) cause: Cause,
}

/// An event as watchers get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventRecord {
    /// Wall time, milliseconds since 1970.
    pub at_ms: i64,
    /// The id of the run in which it happened, if any.
    pub run: Option<String>,
    /// The event's kind, see [`Event::kind`].
    pub kind: &'static str,
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
    /// Why the schedule has been halted; `None` if it has not.
    pub(super) halted: Option<String>,
}

/// The data that the keeper shares with all desks.
#[derive(Debug)]
pub(super) struct SharedState {
    pub(super) experiments: BTreeMap<String, Experiment>,
    pub(super) backend: &'static str,
    pub(super) runs_dir: PathBuf,
    state: Mutex<ControllerState>,
    told: broadcast::Sender<EventRecord>,
    watchers: Arc<Semaphore>,
}

impl SharedState {
    pub(super) fn new(
        experiments: BTreeMap<String, Experiment>,
        backend: &'static str,
        runs_dir: PathBuf,
        state: ControllerState,
    ) -> Self {
        let (told, _) = broadcast::channel(TOLD_MAX);
        let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
        Self { experiments, backend, runs_dir, state: Mutex::new(state), told, watchers }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ControllerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, run: Option<String>, event: &Event) {
        let told = EventRecord { at_ms: wall_ms(), run, kind: event.kind(), text: event.to_string() };
        if event.is_line() {
            tracing::info!(run = told.run.as_deref().unwrap_or("none"), kind = told.kind, "{}", told.text);
        }
        // An error means that there are no watchers.
        let _ = self.told.send(told);
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

/// A handle for requests to the controller.
#[derive(Clone, Debug)]
pub struct Desk {
    pub(super) asks: mpsc::Sender<KeeperRequest>,
    pub(super) shared: Arc<SharedState>,
}

impl Desk {
    /// The experiments that can be run.
    pub fn experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.shared.experiments.values()
    }

    /// The backend's name.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.shared.backend
    }

    /// The nodes that faults may be applied to: those of now, or during a run those of its beginning.
    ///
    /// # Errors
    /// If the backend cannot list them.
    pub async fn targets(&self) -> Result<Vec<Target>, Refusal> {
        self.request(KeeperRequest::Targets).await
    }

    /// The faults that are in force, or may be.
    #[must_use]
    pub fn faults(&self) -> Vec<Applied> {
        self.shared.state().faults.values().cloned().collect()
    }

    /// The current run and the kept ones, the newest first; and why the schedule has been halted, if it has.
    #[must_use]
    pub fn runs(&self) -> (Vec<Record>, Option<String>) {
        let state = self.shared.state();
        (state.current.iter().chain(&state.runs).cloned().collect(), state.halted.clone())
    }

    /// One run by its id, or the current run for the id `current`.
    ///
    /// # Errors
    /// If there is no such run.
    pub fn run(&self, id: &str) -> Result<Record, Refusal> {
        let state = self.shared.state();
        let current = state.current.as_ref().filter(|current| id == "current" || current.id == id);
        let found = current.or_else(|| state.runs.iter().find(|run| run.id == id)).cloned();
        found.ok_or_else(|| {
            Refusal::new(RefusalKind::Missing, format!("there is no run {id:?}, or it has been deleted"))
        })
    }

    /// The directory of a run.
    ///
    /// # Errors
    /// As [`Desk::run`].
    pub fn run_dir(&self, id: &str) -> Result<PathBuf, Refusal> {
        Ok(self.shared.runs_dir.join(self.run(id)?.id))
    }

    /// Starts a run.
    ///
    /// # Errors
    /// If there is no such experiment, or a run or a fault has to end first.
    pub async fn start(&self, experiment: &str, seed: Option<u64>) -> Result<Record, Refusal> {
        let Some(found) = self.shared.experiments.get(experiment) else {
            let names: Vec<&str> = self.shared.experiments.keys().map(String::as_str).collect();
            let why = format!("there is no experiment {experiment:?}; there are: {}", names.join(", "));
            return Err(Refusal::new(RefusalKind::Missing, why));
        };
        let seed = seed.or(found.seed).unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let order = Order { experiment: found.clone(), seed, cause: Cause::Call };
        self.request(|answer| KeeperRequest::Start(order, answer)).await
    }

    /// Stops the current run. Returns when all its faults are healed.
    ///
    /// # Errors
    /// If there is no current run.
    pub async fn stop_run(&self) -> Result<Record, Refusal> {
        self.request(KeeperRequest::Stop).await
    }

    /// Applies one fault, which is healed after `lasts`. Parameters as in [`single::step`].
    ///
    /// # Errors
    /// If the fault is invalid or cannot be applied, or during a run.
    pub async fn apply(
        &self,
        fault: &str,
        nodes: &str,
        lasts: Duration,
        with: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Applied, Refusal> {
        let step =
            single::step(fault, nodes, lasts, with).map_err(|why| Refusal::new(RefusalKind::Wrong, why))?;
        self.request(|answer| KeeperRequest::Apply(step, answer)).await
    }

    /// Heals all faults now.
    ///
    /// # Errors
    /// If a fault cannot be healed, or during a run.
    pub async fn heal(&self) -> Result<usize, Refusal> {
        self.request(KeeperRequest::Heal).await
    }

    /// Subscribes to all events from now on.
    ///
    /// # Errors
    /// If there are too many watchers.
    pub fn watch(&self) -> Result<Watch, Refusal> {
        let permit = Arc::clone(&self.shared.watchers).try_acquire_owned().map_err(|_| {
            Refusal::new(
                RefusalKind::Full,
                format!("there are {WATCHERS_MAX} watchers already, which is the most"),
            )
        })?;
        Ok(Watch { told: self.shared.told.subscribe(), _permit: permit })
    }

    async fn request<T>(&self, ask: impl FnOnce(Reply<T>) -> KeeperRequest) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(ask(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::new(
                RefusalKind::Full,
                format!("{ASKS_MAX} calls are waiting already, which is the most; try again later"),
            ),
            mpsc::error::TrySendError::Closed(_) => Refusal::ending(),
        })?;
        answered.await.unwrap_or_else(|_| Err(Refusal::ending()))
    }
}

/// A subscription to events.
#[derive(Debug)]
pub struct Watch {
    told: broadcast::Receiver<EventRecord>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next event, and how many before it were lost because this watcher was too slow. `None` when the controller ends.
    pub async fn next(&mut self) -> Option<(EventRecord, u64)> {
        let mut left_out = 0;
        loop {
            match self.told.recv().await {
                Ok(told) => return Some((told, left_out)),
                Err(broadcast::error::RecvError::Lagged(count)) => left_out += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
