//! Owns the engine: works through requests and scheduled runs one at a time, and heals every fault.
//!
//! What must stay true: every fault in the journal has a time in `until` at which it is healed, and healing is retried until it
//! succeeds; no run starts while a fault is in force. When the keeper ends, all faults are healed, or it returns an error.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backend::{self, BackendError, Kind as TargetKind, Target};
use crate::connect;
use crate::engine::{Engine, REAPPLY_INTERVAL, Run, RunError};
use crate::events::{Event, Observers, Outcome};
use crate::experiment::{Experiment, Step};
use crate::journal::Applied;
use crate::limits::REQUESTS_MAX;
use crate::metrics::Metrics;
use crate::report;
use crate::serve::desk::{CURRENT, Desk, KeeperRequest, Reply, RunOrder};
use crate::serve::refusal::{Refusal, RefusalKind};
use crate::serve::runs::{Cause, Record, RunState, Runs};
use crate::serve::shared::{ControllerState, SharedState};
use crate::serve::timetable::{OnViolation, Schedule, Timetable};
use crate::single;
use crate::time::wall_ms;

/// Pause before healing is retried.
const RETRY: Duration = Duration::from_secs(5);
/// How often a keeper that ends tries to heal all faults.
const LAST_TRIES: usize = 3;

/// The settings of a long-running controller.
#[derive(Debug)]
pub struct Settings {
    /// The experiments that may be run, by name.
    pub experiments: BTreeMap<String, Experiment>,
    /// The schedule.
    pub schedule: Schedule,
    /// The seed of the schedule.
    pub seed: u64,
    /// The directory of the runs.
    pub runs: PathBuf,
    /// How many runs are kept.
    pub keep: usize,
}

/// The keeper of one engine.
pub struct Keeper {
    engine: Engine,
    requests: mpsc::Receiver<KeeperRequest>,
    shared: Arc<SharedState>,
    metrics: Arc<Metrics>,
    runs: Runs,
    timetable: Timetable,
    on_violation: OnViolation,
    began: Instant,
    /// Ends the keeper.
    stop: CancellationToken,
    /// When each open fault is healed, by its number in the journal.
    until: BTreeMap<u64, Instant>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("engine", &self.engine)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    /// A keeper, and the desk that takes its requests; `engine.stop` ends it. Blocks while it reads the directory of the runs.
    ///
    /// # Errors
    /// If the directory of the runs cannot be used.
    pub fn new(mut engine: Engine, settings: Settings) -> Result<(Self, Desk, Arc<Metrics>), RunError> {
        let Settings { experiments, schedule, seed, runs: dir, keep } = settings;
        let runs = Runs::open(&dir, keep)
            .map_err(|error| RunError::File { path: dir.clone(), why: error.to_string() })?;
        let metrics = Arc::new(Metrics::new(experiments.values()));
        let open = engine.journal.open_faults();
        metrics.add_open_faults(&open);
        let timetable = Timetable::new(&schedule, seed);
        let state = ControllerState {
            runs: runs.kept().clone(),
            faults: open.iter().map(|fault| (fault.id, fault.clone())).collect(),
            upcoming: timetable.upcoming(),
            ..ControllerState::default()
        };
        let (backend, on_violation) = (engine.backend.name(), schedule.on_violation);
        let shared = Arc::new(SharedState::new(experiments, backend, dir, on_violation, state));
        engine.observer = Arc::new(Observers(vec![Arc::clone(&metrics) as _, Arc::clone(&shared) as _]));
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let desk = Desk { requests: sender, shared: Arc::clone(&shared) };
        let began = Instant::now();
        let keeper = Self {
            requests,
            shared,
            metrics: Arc::clone(&metrics),
            runs,
            timetable,
            on_violation,
            began,
            stop: engine.stop.clone(),
            // Faults of an earlier controller are healed first.
            until: open.iter().map(|fault| (fault.id, began)).collect(),
            engine,
        };
        Ok((keeper, desk, metrics))
    }

    /// Works until the engine's `stop`.
    ///
    /// # Errors
    /// If a fault could not be healed at the end. The next controller tries again.
    pub async fn run(mut self) -> Result<(), RunError> {
        if !self.until.is_empty() {
            tracing::warn!(faults = self.until.len(), "healing faults of an earlier controller");
        }
        while let Some((order, answer)) = self.next_order().await {
            self.run_order(order, answer).await;
        }
        let mut healed = self.engine.heal_all().await;
        for _ in 1..LAST_TRIES {
            if healed.is_ok() {
                break;
            }
            healed = self.engine.heal_all().await;
        }
        healed.map(drop)
    }

    /// Heals due faults and answers requests, until a run is due. `None` when the keeper shall end.
    async fn next_order(&mut self) -> Option<(RunOrder, Option<Reply<Record>>)> {
        let mut again = interval(REAPPLY_INTERVAL);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let never = self.began + Duration::from_secs(10 * 365 * 24 * 3_600);
        loop {
            let heal_at = self.until.values().min().copied();
            let run_at = self.timetable.next().filter(|_| self.shared.state().halted.is_none());
            let run_at = run_at.map(|at| self.began + at);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = sleep_until(heal_at.unwrap_or(never)), if heal_at.is_some() => self.heal_due().await,
                request = self.requests.recv() => match request? {
                    KeeperRequest::Start(order, answer) => match self.refusal_by_fault() {
                        None => return Some((order, Some(answer))),
                        Some(refusal) => drop(answer.send(Err(refusal))),
                    },
                    // The run has ended since the desk found it in progress.
                    KeeperRequest::Stop(id, answer) => drop(answer.send(Err(Refusal::not_in_progress(&id)))),
                    KeeperRequest::Apply(step, answer) => drop(answer.send(self.apply(step).await)),
                    KeeperRequest::Heal(answer) => drop(answer.send(self.heal_now().await)),
                    KeeperRequest::Targets(answer) => drop(answer.send(self.targets().await)),
                },
                () = sleep_until(run_at.unwrap_or(never)), if run_at.is_some() => {
                    if let Some(order) = self.due_order() {
                        return Some((order, None));
                    }
                }
                _ = again.tick(), if !self.until.is_empty() => {
                    if let Err(error) = self.engine.reapply().await {
                        tracing::warn!(%error, "failed to re-apply active faults");
                    }
                }
            }
        }
    }

    /// The scheduled run that is due, unless an active fault prevents it.
    fn due_order(&mut self) -> Option<RunOrder> {
        let (name, seed) = self.timetable.take(self.began.elapsed())?;
        self.shared.state().upcoming = self.timetable.upcoming();
        if let Some(refusal) = self.refusal_by_fault() {
            tracing::warn!(experiment = name, reason = %refusal, "scheduled run skipped");
            return None;
        }
        let experiment = self.shared.experiments.get(&name)?.clone();
        Some(RunOrder { experiment, seed, cause: Cause::Schedule })
    }

    /// The refusal if a fault is in force.
    fn refusal_by_fault(&self) -> Option<Refusal> {
        let state = self.shared.state();
        let fault = state.faults.values().next()?;
        let why = format!("{} is in force at {}", fault.fault, fault.nodes.join(", "));
        Some(Refusal::new(RefusalKind::Conflict, why, "wait for its end, or heal it: DELETE /v1/faults"))
    }

    async fn targets(&mut self) -> Result<Vec<Target>, Refusal> {
        self.engine.backend.targets().await.map_err(|error| Refusal::failed(&error))
    }

    async fn apply(&mut self, step: Step) -> Result<Applied, Refusal> {
        let nodes = single::choose_targets(self.engine.backend.as_ref(), &step, rand::random())
            .await
            .map_err(|error| not_applied(&error))?;
        let applied = self.engine.apply(step.fault, nodes).await;
        // Includes a fault that was applied in part and could not be healed.
        for fault in self.engine.journal.open_faults() {
            self.until.entry(fault.id).or_insert_with(Instant::now);
        }
        let applied = applied.map_err(|error| match error {
            RunError::Backend(error) => not_applied(&error),
            error => Refusal::failed(&error),
        })?;
        self.until.insert(applied.id, Instant::now() + step.lasts);
        Ok(applied)
    }

    async fn heal_due(&mut self) {
        let now = Instant::now();
        for fault in self.engine.journal.open_faults() {
            if self.until.get(&fault.id).is_none_or(|at| *at <= now) {
                match self.engine.heal(&fault).await {
                    Ok(()) => self.until.remove(&fault.id),
                    Err(_) => self.until.insert(fault.id, Instant::now() + RETRY),
                };
            }
        }
        let open = self.engine.journal.open_faults();
        self.until.retain(|id, _| open.iter().any(|fault| fault.id == *id));
    }

    async fn heal_now(&mut self) -> Result<usize, Refusal> {
        let healed = self.engine.heal_all().await;
        let retry = Instant::now() + RETRY;
        let open = self.engine.journal.open_faults();
        self.until = open.iter().map(|fault| (fault.id, retry)).collect();
        healed.map_err(|error| Refusal::failed(&error))
    }

    /// Runs an experiment and keeps its record.
    async fn run_order(&mut self, order: RunOrder, answer: Option<Reply<Record>>) {
        let mut record = Record {
            id: format!("{:016x}", rand::random::<u64>()),
            experiment: order.experiment.name.clone(),
            seed: order.seed,
            cause: order.cause,
            state: RunState::Running,
            began_ms: wall_ms(),
            ended_ms: None,
            phase: "beginning".to_owned(),
            why: Vec::new(),
            longest_gap_ms: None,
            violations: BTreeMap::new(),
        };
        let dir = match self.runs.begin(&record) {
            Ok(dir) => dir,
            Err(error) => {
                tracing::error!(%error, "run not started: its directory cannot be made");
                if let Some(answer) = answer {
                    let why = format!("the run's directory cannot be made: {error}");
                    drop(answer.send(Err(Refusal::failed(&why))));
                }
                return;
            }
        };
        self.shared.state().current = Some(record.clone());
        if let Some(answer) = answer {
            drop(answer.send(Ok(record.clone())));
        }
        let run = Run { id: record.id.clone(), experiment: order.experiment, seed: order.seed, dir };
        let (verdict, stopped_by) = self.run_and_answer(&run).await;
        let ending = match &verdict {
            Ok(verdict) => verdict.ending(&run.id),
            Err(error) => run.ending_without_verdict(error),
        };
        if let Ok(verdict) = verdict {
            let dir = run.dir.clone();
            let written = tokio::task::spawn_blocking(move || report::write(&verdict, &dir)).await;
            match written {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!(%error, "failed to write a run's report"),
                Err(error) => tracing::error!(%error, "writing a run's report was aborted"),
            }
        }
        record.end(&ending, wall_ms());
        if let Err(error) = self.runs.end(record.clone()) {
            tracing::error!(%error, "failed to write a run's record");
        }
        // Faults that could not be healed at the end of the run are due now.
        let now = Instant::now();
        self.until = self.engine.journal.open_faults().iter().map(|fault| (fault.id, now)).collect();
        let mut state = self.shared.state();
        state.current = None;
        state.runs.clone_from(self.runs.kept());
        if ending.outcome == Outcome::Violated && self.on_violation == OnViolation::Stop {
            state.halted = Some(format!("run {} of {} broke a promise", run.id, ending.experiment));
            self.metrics.set_halted(true);
        }
        drop(state);
        self.shared.publish(Some(run.id), &Event::Ended(ending));
        for answer in stopped_by {
            drop(answer.send(Ok(record.clone())));
        }
    }

    /// Runs an experiment and answers requests meanwhile. Also returns the answers that are owed to those who stopped the run.
    async fn run_and_answer(
        &mut self,
        run: &Run,
    ) -> (Result<crate::verdict::Verdict, RunError>, Vec<Reply<Record>>) {
        let stop = self.stop.child_token();
        let Self { engine, requests, .. } = self;
        engine.stop = stop.clone();
        // Servers may have other addresses than at the controller's start. If listing them fails, the run fails with that error.
        let targets = engine.backend.targets().await.unwrap_or_default();
        let servers: Vec<_> = targets.iter().filter(|target| target.kind == TargetKind::Server).collect();
        let authority = servers.first().and_then(|server| server.authority);
        if let Some(authority) = authority
            && let Ok(net) = backend::network(Some(authority))
        {
            engine.net = net;
        }
        engine.connect = connect::to(servers.iter().map(|server| server.client.clone()).collect(), authority);
        let busy = || {
            let name = &run.experiment.name;
            let why = format!("run {} of {name} is in progress", run.id);
            let advice = format!("wait for its end, or stop it: POST /v1/runs/{}/stop", run.id);
            Refusal::new(RefusalKind::Conflict, why, advice)
        };
        let mut stopped_by: Vec<Reply<Record>> = Vec::new();
        let mut running = Box::pin(engine.run(run));
        let verdict = loop {
            tokio::select! {
                biased;
                verdict = &mut running => break verdict,
                Some(request) = requests.recv() => match request {
                    KeeperRequest::Stop(id, answer) if id != CURRENT && id != run.id => {
                        drop(answer.send(Err(Refusal::not_in_progress(&id))));
                    }
                    KeeperRequest::Stop(_, answer) if stopped_by.len() < REQUESTS_MAX => {
                        stop.cancel();
                        stopped_by.push(answer);
                    }
                    KeeperRequest::Start(_, answer) | KeeperRequest::Stop(_, answer) => drop(answer.send(Err(busy()))),
                    KeeperRequest::Apply(_, answer) => drop(answer.send(Err(busy()))),
                    KeeperRequest::Heal(answer) => drop(answer.send(Err(busy()))),
                    KeeperRequest::Targets(answer) => drop(answer.send(Ok(targets.clone()))),
                },
            }
        };
        (verdict, stopped_by)
    }
}

/// The refusal for a fault that was not applied.
fn not_applied(error: &BackendError) -> Refusal {
    match error {
        BackendError::NotAllowed { .. } | BackendError::Unable { .. } | BackendError::Unknown(_) => {
            let advice =
                "choose a fault and nodes that the cluster has and allows; GET /v1/targets lists the nodes";
            Refusal::new(RefusalKind::Conflict, error.to_string(), advice)
        }
        BackendError::Failed { .. } => Refusal::failed(error),
    }
}
