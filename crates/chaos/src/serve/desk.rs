//! What can be asked of a controller, from anywhere: both APIs only translate to this.

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

/// Calls that may wait for the keeper.
pub(super) const ASKS_MAX: usize = 16;
/// Events that whoever watches may be behind.
const TOLD_MAX: usize = 256;
/// How many may watch.
const WATCHERS_MAX: usize = 32;

/// Why a call is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of reason.
    pub kind: Kind,
    /// The reason, and what to do.
    pub why: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is asked for makes no sense.
    Wrong,
    /// There is no such thing.
    Missing,
    /// Something else has to end first.
    Busy,
    /// Too many ask at once.
    Full,
    /// The caller does not say who it is.
    NotKnown,
    /// The caller may not.
    NotAllowed,
    /// The controller is ending.
    Ending,
    /// It was tried, and failed.
    Failed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Refusal {
    pub(super) fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    fn ending() -> Self {
        Self::new(Kind::Ending, "the controller is ending")
    }
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the keeper is asked to do.
#[derive(Debug)]
pub(super) enum Ask {
    Start(Order, Answer<Record>),
    Stop(Answer<Record>),
    Apply(Step, Answer<Applied>),
    Heal(Answer<usize>),
    Targets(Answer<Vec<Target>>),
}

/// A run that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) experiment: Experiment,
    pub(super) seed: u64,
    pub(super) cause: Cause,
}

/// Something that happened, as watchers are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Wall time, milliseconds since 1970.
    pub at_ms: i64,
    /// The run that it belongs to, if any.
    pub run: Option<String>,
    /// What it is, in one word.
    pub kind: &'static str,
    /// In plain words.
    pub text: String,
}

/// How the controller is. Locked for moments.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) current: Option<Record>,
    /// The newest first.
    pub(super) runs: VecDeque<Record>,
    pub(super) faults: BTreeMap<u64, Applied>,
    /// Why nothing is run by schedule any more.
    pub(super) halted: Option<String>,
}

/// What the keeper and all desks know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) experiments: BTreeMap<String, Experiment>,
    pub(super) backend: &'static str,
    pub(super) runs_dir: PathBuf,
    state: Mutex<State>,
    told: broadcast::Sender<Told>,
    watchers: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(
        experiments: BTreeMap<String, Experiment>,
        backend: &'static str,
        runs_dir: PathBuf,
        state: State,
    ) -> Self {
        let (told, _) = broadcast::channel(TOLD_MAX);
        let watchers = Arc::new(Semaphore::new(WATCHERS_MAX));
        Self { experiments, backend, runs_dir, state: Mutex::new(state), told, watchers }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, run: Option<String>, event: &Event) {
        let told = Told { at_ms: wall_ms(), run, kind: event.kind(), text: event.to_string() };
        if event.is_line() {
            tracing::info!(run = told.run.as_deref().unwrap_or("none"), kind = told.kind, "{}", told.text);
        }
        // Nobody may be watching.
        let _ = self.told.send(told);
    }
}

impl Observer for Shared {
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
            // Told by the keeper, when the report is written.
            Event::Ended(_) => return,
            _ => {}
        }
        let run = state.current.as_ref().map(|current| current.id.clone());
        drop(state);
        self.tell(run, event);
    }
}

/// The controller, for whoever asks.
#[derive(Clone, Debug)]
pub struct Desk {
    pub(super) asks: mpsc::Sender<Ask>,
    pub(super) shared: Arc<Shared>,
}

impl Desk {
    /// What can be run.
    pub fn experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.shared.experiments.values()
    }

    /// What the cluster runs on.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.shared.backend
    }

    /// What may be broken: as of now, or as of the beginning of the run that is on.
    ///
    /// # Errors
    /// If the backend does not say.
    pub async fn targets(&self) -> Result<Vec<Target>, Refusal> {
        self.ask(Ask::Targets).await
    }

    /// What is in force.
    #[must_use]
    pub fn faults(&self) -> Vec<Applied> {
        self.shared.state().faults.values().cloned().collect()
    }

    /// The run that is on, and those that are kept, the newest first; and why nothing is run by schedule any more, if so.
    #[must_use]
    pub fn runs(&self) -> (Vec<Record>, Option<String>) {
        let state = self.shared.state();
        (state.current.iter().chain(&state.runs).cloned().collect(), state.halted.clone())
    }

    /// One of them; `current` is the one that is on.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn run(&self, id: &str) -> Result<Record, Refusal> {
        let state = self.shared.state();
        let current = state.current.as_ref().filter(|current| id == "current" || current.id == id);
        let found = current.or_else(|| state.runs.iter().find(|run| run.id == id)).cloned();
        found.ok_or_else(|| {
            Refusal::new(Kind::Missing, format!("there is no run {id:?}, or it is not kept any more"))
        })
    }

    /// Where a run's files are.
    ///
    /// # Errors
    /// As [`Desk::run`].
    pub fn run_dir(&self, id: &str) -> Result<PathBuf, Refusal> {
        Ok(self.shared.runs_dir.join(self.run(id)?.id))
    }

    /// Begins a run.
    ///
    /// # Errors
    /// If there is no such experiment, or something else has to end first.
    pub async fn start(&self, experiment: &str, seed: Option<u64>) -> Result<Record, Refusal> {
        let Some(found) = self.shared.experiments.get(experiment) else {
            let names: Vec<&str> = self.shared.experiments.keys().map(String::as_str).collect();
            let why = format!("there is no experiment {experiment:?}; there are: {}", names.join(", "));
            return Err(Refusal::new(Kind::Missing, why));
        };
        let seed = seed.or(found.seed).unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let order = Order { experiment: found.clone(), seed, cause: Cause::Call };
        self.ask(|answer| Ask::Start(order, answer)).await
    }

    /// Stops the run that is on. Returns when everything is healed.
    ///
    /// # Errors
    /// If none is.
    pub async fn stop_run(&self) -> Result<Record, Refusal> {
        self.ask(Ask::Stop).await
    }

    /// Applies one fault, to be healed after a while. Words as in [`single::step`].
    ///
    /// # Errors
    /// If it makes no sense, cannot be applied, or a run is on.
    pub async fn apply(
        &self,
        fault: &str,
        nodes: &str,
        lasts: Duration,
        with: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Applied, Refusal> {
        let step = single::step(fault, nodes, lasts, with).map_err(|why| Refusal::new(Kind::Wrong, why))?;
        self.ask(|answer| Ask::Apply(step, answer)).await
    }

    /// Heals everything that was asked for, now.
    ///
    /// # Errors
    /// If something cannot be healed, or a run is on.
    pub async fn heal(&self) -> Result<usize, Refusal> {
        self.ask(Ask::Heal).await
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// If too many watch already.
    pub fn watch(&self) -> Result<Watch, Refusal> {
        let permit = Arc::clone(&self.shared.watchers).try_acquire_owned().map_err(|_| {
            Refusal::new(Kind::Full, format!("{WATCHERS_MAX} watch already, which is the most"))
        })?;
        Ok(Watch { told: self.shared.told.subscribe(), _permit: permit })
    }

    async fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(ask(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Refusal::new(Kind::Full, format!("{ASKS_MAX} calls wait already, which is the most"))
            }
            mpsc::error::TrySendError::Closed(_) => Refusal::ending(),
        })?;
        answered.await.unwrap_or_else(|_| Err(Refusal::ending()))
    }
}

/// Events, as they come.
#[derive(Debug)]
pub struct Watch {
    told: broadcast::Receiver<Told>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next one, and how many before it were left out because they were not read in time. `None` at the end.
    pub async fn next(&mut self) -> Option<(Told, u64)> {
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
