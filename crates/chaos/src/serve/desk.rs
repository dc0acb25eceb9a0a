//! The requests to a controller. Both APIs only translate to these.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::backend::Target;
use crate::experiment::{Experiment, Step};
use crate::journal::Applied;
use crate::limits::REQUESTS_MAX;
use crate::serve::refusal::{Refusal, RefusalKind};
use crate::serve::runs::{Cause, Record};
use crate::serve::shared::{SharedState, Watch};
use crate::single;

pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request to the keeper, with the channel for its answer.
#[derive(Debug)]
pub(super) enum KeeperRequest {
    Start(RunOrder, Reply<Record>),
    Stop(Reply<Record>),
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

/// A handle for requests to the controller.
#[derive(Clone, Debug)]
pub struct Desk {
    pub(super) requests: mpsc::Sender<KeeperRequest>,
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
            Refusal::new(RefusalKind::NotFound, format!("there is no run {id:?}, or it has been deleted"))
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
            return Err(Refusal::new(RefusalKind::NotFound, why));
        };
        let seed = seed.or(found.seed).unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let order = RunOrder { experiment: found.clone(), seed, cause: Cause::Call };
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
            single::step(fault, nodes, lasts, with).map_err(|why| Refusal::new(RefusalKind::Invalid, why))?;
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
                format!("{REQUESTS_MAX} calls are waiting already, which is the most; try again later"),
            ),
            mpsc::error::TrySendError::Closed(_) => Refusal::shutting_down(),
        })?;
        answered.await.unwrap_or_else(|_| Err(Refusal::shutting_down()))
    }
}
