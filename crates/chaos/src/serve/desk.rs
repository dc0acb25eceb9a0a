//! The requests to a controller. The API only translates to these.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::backend::Target;
use crate::experiment::{Experiment, Step};
use crate::journal::Applied;
use crate::limits::REQUESTS_MAX;
use crate::serve::refusal::{Refusal, RefusalKind};
use crate::serve::runs::{Cause, Record, RunState};
use crate::serve::shared::{SharedState, Watch};
use crate::serve::timetable::{Entry, OnViolation};
use crate::single;

/// The id that stands for the run in progress.
pub const CURRENT: &str = "current";

pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request to the keeper, with the channel for its answer.
#[derive(Debug)]
pub(super) enum KeeperRequest {
    Start(RunOrder, Reply<Record>),
    Stop(String, Reply<Record>),
    Apply(Step, Reply<Applied>),
    Heal(Reply<usize>),
    Targets(Reply<Vec<Target>>),
}

/// A run to be started.
#[derive(Clone, Debug)]
pub(super) struct RunOrder {
    pub(super) experiment: Experiment,
    pub(super) seed: u64,
    pub(super) cause: Cause,
}

/// What the controller does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The backend's name.
    pub backend: &'static str,
    /// The run in progress.
    pub run: Option<Record>,
    /// The number of faults that are in force, or may be.
    pub faults: usize,
    /// Why the schedule has been halted, if it has.
    pub halted: Option<String>,
}

/// The schedule and its next runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// Whether the schedule continues after a run broke a promise.
    pub on_violation: OnViolation,
    /// Why the schedule has been halted, if it has.
    pub halted: Option<String>,
    /// The entries. A halted schedule has no next runs.
    pub entries: Vec<(Entry, Option<i64>)>,
}

/// A handle for requests to the controller.
#[derive(Clone, Debug)]
pub struct Desk {
    pub(super) requests: mpsc::Sender<KeeperRequest>,
    pub(super) shared: Arc<SharedState>,
}

impl Desk {
    /// What the controller does now.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.shared.state();
        let (run, faults, halted) = (state.current.clone(), state.faults.len(), state.halted.clone());
        Status { backend: self.shared.backend, run, faults, halted }
    }

    /// The schedule, and when each entry runs next: wall time, milliseconds since 1970.
    #[must_use]
    pub fn schedule(&self) -> Scheduled {
        let state = self.shared.state();
        let wall = |due: Duration| {
            let after_ms = i64::try_from(due.as_millis()).unwrap_or(i64::MAX);
            self.shared.began_ms.saturating_add(after_ms)
        };
        let next = |due| state.halted.is_none().then(|| wall(due));
        Scheduled {
            on_violation: self.shared.on_violation,
            halted: state.halted.clone(),
            entries: state.upcoming.iter().map(|one| (one.entry.clone(), next(one.due))).collect(),
        }
    }

    /// The experiments that can be run.
    pub fn experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.shared.experiments.values()
    }

    /// One experiment.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn experiment(&self, name: &str) -> Result<&Experiment, Refusal> {
        self.shared.experiments.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.shared.experiments.keys().map(String::as_str).collect();
            let why = format!("there is no experiment {name:?}");
            Refusal::new(RefusalKind::NotFound, why, format!("choose one of {}", names.join(", ")))
        })
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

    /// The current run and the kept ones, the newest first: at most `limit`, those after the run `after` if it is given. Also
    /// tells whether there are more.
    ///
    /// # Errors
    /// If there is no run `after`.
    pub fn runs(&self, limit: usize, after: Option<&str>) -> Result<(Vec<Record>, bool), Refusal> {
        let state = self.shared.state();
        let mut rest = state.current.iter().chain(&state.runs);
        if let Some(after) = after
            && !rest.any(|run| run.id == after)
        {
            return Err(no_such_run(after));
        }
        let runs: Vec<Record> = rest.by_ref().take(limit).cloned().collect();
        Ok((runs, rest.next().is_some()))
    }

    /// One run by its id, or the current run for the id [`CURRENT`].
    ///
    /// # Errors
    /// If there is no such run.
    pub fn run(&self, id: &str) -> Result<Record, Refusal> {
        let state = self.shared.state();
        let current = state.current.as_ref().filter(|current| id == CURRENT || current.id == id);
        let found = current.or_else(|| state.runs.iter().find(|run| run.id == id)).cloned();
        found.ok_or_else(|| no_such_run(id))
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
        let found = self.experiment(experiment)?;
        let seed = seed.or(found.seed).unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let order = RunOrder { experiment: found.clone(), seed, cause: Cause::Call };
        self.request(|answer| KeeperRequest::Start(order, answer)).await
    }

    /// Stops the run of this id, or the current one for [`CURRENT`]. Returns when all its faults are healed.
    ///
    /// # Errors
    /// If there is no such run, or it has ended.
    pub async fn stop_run(&self, id: &str) -> Result<Record, Refusal> {
        let run = self.run(id)?;
        if run.state != RunState::Running {
            return Err(Refusal::not_in_progress(id));
        }
        self.request(|answer| KeeperRequest::Stop(id.to_owned(), answer)).await
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
        let step = single::step(fault, nodes, lasts, with).map_err(Refusal::invalid)?;
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
        self.shared.watch()
    }

    async fn request<T>(&self, request: impl FnOnce(Reply<T>) -> KeeperRequest) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(request(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::new(
                RefusalKind::TooMany,
                format!("{REQUESTS_MAX} requests are waiting already, which is the most"),
                "try again later",
            ),
            mpsc::error::TrySendError::Closed(_) => Refusal::shutting_down(),
        })?;
        answered.await.unwrap_or_else(|_| Err(Refusal::shutting_down()))
    }
}

fn no_such_run(id: &str) -> Refusal {
    let why = if id == CURRENT {
        "no run is in progress".to_owned()
    } else {
        format!("there is no run {id:?}, or it has been deleted")
    };
    Refusal::new(RefusalKind::NotFound, why, "GET /v1/runs lists the runs")
}
