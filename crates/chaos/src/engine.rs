//! Runs an experiment: steady state, faults, recovery, verdict.

mod faults;
mod judging;
mod run;
mod watching;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use conclave_client::Net;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::{Backend, BackendError, Kind, Target};
use crate::engine::faults::Faults;
use crate::engine::judging::End;
use crate::engine::watching::Watching;
use crate::events::{Event, Observer};
use crate::experiment::{Experiment, Steady};
use crate::fault::{Fault, Means};
use crate::journal::{Applied, Journal};
use crate::schedule::plan;
use crate::verdict::Verdict;
use crate::workload::{self, ClientView, Connect, Running, Setup};

pub use run::{Run, RunError};

/// How long the cluster gets to reach its steady state before the first fault.
const STEADY_DEADLINE: Duration = Duration::from_secs(30);
/// Interval between two checks of the steady state, and of the cluster's health during recovery.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which active faults are applied again, for servers that were restarted since.
pub(crate) const REAPPLY_INTERVAL: Duration = Duration::from_millis(500);
/// Interval of [`Event::Pace`].
const PACE: Duration = Duration::from_secs(1);

/// Applies faults to one cluster and runs experiments on it.
pub struct Engine {
    /// Where faults are applied.
    pub backend: Box<dyn Backend>,
    /// Makes the client of a user.
    pub connect: Connect,
    /// The network on which servers are reached.
    pub net: Net,
    /// The faults that are in force, on disk.
    pub journal: Journal,
    /// Cancelled when the current run or fault shall end.
    pub stop: CancellationToken,
    /// Gets every event.
    pub observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.backend)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Heals every fault that is open in the journal, those of an earlier controller among them. Returns how many there were.
    ///
    /// # Errors
    /// The first fault that could not be healed. All faults are tried.
    pub async fn heal_all(&mut self) -> Result<usize, RunError> {
        let open = self.journal.open_faults();
        let mut failed = None;
        for fault in &open {
            if let Err(error) = self.heal(fault).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(open.len()), Err)
    }

    /// Heals one fault and closes it in the journal.
    ///
    /// # Errors
    /// If the fault cannot be healed. It stays open in the journal.
    pub async fn heal(&mut self, fault: &Applied) -> Result<(), RunError> {
        let healed = match self.backend.heal(fault).await {
            Ok(()) => self.journal.healed(fault.id).map_err(RunError::from),
            Err(error) => Err(error.into()),
        };
        self.observer.event(&match &healed {
            Ok(()) => Event::Healed(fault.clone()),
            Err(error) => Event::NotHealed { fault: fault.clone(), why: error.to_string() },
        });
        healed
    }

    /// Writes one fault to the journal and applies it.
    ///
    /// # Errors
    /// If the fault cannot be applied. What was applied in part is healed.
    pub async fn apply(&mut self, fault: Fault, nodes: Vec<String>) -> Result<Applied, RunError> {
        let all = names(&self.backend.targets().await?, Kind::Server);
        let applied = self.journal.apply(fault, nodes, all)?;
        if let Err(error) = self.backend.apply(&applied).await {
            let Applied { fault, nodes, .. } = applied.clone();
            self.observer.event(&Event::NotApplied { fault, nodes, why: error.to_string() });
            match self.backend.heal(&applied).await {
                Ok(()) => self.journal.healed(applied.id)?,
                // The fault stays in the journal, to be healed later.
                Err(why) => {
                    self.observer.event(&Event::NotHealed { fault: applied, why: why.to_string() });
                }
            }
            return Err(error.into());
        }
        self.observer.event(&Event::Applied(applied.clone()));
        Ok(applied)
    }

    /// Keeps the applied faults in force for this long, or until [`Engine::stop`]: they are applied again to servers that were
    /// restarted since.
    ///
    /// # Errors
    /// If a server refuses a fault.
    pub async fn hold(&self, lasts: Duration) -> Result<(), RunError> {
        let mut again = tokio::time::interval(REAPPLY_INTERVAL);
        let end = tokio::time::sleep(lasts);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                () = &mut end => return Ok(()),
                _ = again.tick() => {}
            }
            self.reapply().await?;
        }
    }

    /// Applies the active faults once more, to servers that were restarted since.
    ///
    /// # Errors
    /// If a server refuses a fault. A server that does not answer is frozen or dead, and gets the faults the next time.
    pub(crate) async fn reapply(&self) -> Result<(), BackendError> {
        tokio::time::timeout(REAPPLY_INTERVAL, self.backend.reapply()).await.unwrap_or(Ok(()))
    }

    /// Runs an experiment and judges its history. Every fault is healed when this returns, also after an error; a fault that
    /// cannot be healed is an error.
    ///
    /// # Errors
    /// If there is no verdict; see [`RunError`].
    pub async fn run(&mut self, run: &Run) -> Result<Verdict, RunError> {
        self.observer.event(&Event::Began {
            id: run.id.clone(),
            experiment: run.experiment.name.clone(),
            seed: run.seed,
            lasts: run.experiment.workload.duration,
            backend: self.backend.name(),
        });
        let verdict = self.prepare_and_run(run).await;
        self.observer.event(&Event::Ended(match &verdict {
            Ok(verdict) => verdict.ending(&run.id),
            Err(error) => run.ending_without_verdict(error),
        }));
        verdict
    }

    async fn prepare_and_run(&mut self, run: &Run) -> Result<Verdict, RunError> {
        self.check_means(&run.experiment).await?;
        self.heal_all().await?;
        let ran = Box::pin(self.execute(run)).await;
        let healed = self.heal_all().await;
        let verdict = ran?;
        healed?;
        Ok(verdict)
    }

    async fn check_means(&self, experiment: &Experiment) -> Result<(), RunError> {
        let able = self.backend.means().await?;
        let missing: BTreeSet<Means> = experiment
            .method
            .iter()
            .map(|step| step.fault.means())
            .filter(|need| !able.contains(need))
            .collect();
        let Some(missing_one) = missing.first().copied() else { return Ok(()) };
        let missing: Vec<String> = missing.iter().map(|means| format!("{means:?}").to_lowercase()).collect();
        Err(RunError::Means {
            experiment: experiment.name.clone(),
            backend: self.backend.name(),
            missing: missing.join(", "),
            advice: missing_one.advice(),
        })
    }

    async fn execute(&mut self, run: &Run) -> Result<Verdict, RunError> {
        let Run { experiment, seed, .. } = run;
        let targets = self.backend.targets().await?;
        let servers: Vec<Target> =
            targets.iter().filter(|target| target.kind == Kind::Server).cloned().collect();
        let history_path = run.dir.join("history.jsonl");
        let history = History::create(&history_path)
            .map_err(|error| RunError::File { path: history_path.clone(), why: error.to_string() })?;
        let workload = &experiment.workload;
        let (replicas, zone) = (self.replicas().await, self.backend.zone());
        let to_reach =
            |server: &Target| workload::Server { name: server.name.clone(), client: server.client.clone() };
        let to_reach: Vec<_> = servers.iter().map(to_reach).collect();
        let dial = workload::over(self.net.clone());
        let starting = Running::start(Setup {
            workload,
            run: &run.id,
            servers: &to_reach,
            connect: &self.connect,
            dial: &dial,
            zone: zone.as_deref(),
            history: history.clone(),
            observer: Arc::clone(&self.observer),
        });
        let running = or_stopped(&self.stop, starting).await??;
        let seen = Arc::clone(&running.seen);
        let watching = Watching::start(&servers, &seen, &self.net)?;
        let pace = report_pace(experiment.steady.clone(), Arc::clone(&seen), Arc::clone(&self.observer));
        let pace = AbortOnDropHandle::new(tokio::spawn(pace));

        self.observer.event(&Event::Settling);
        wait_until_steady(&experiment.steady, &seen, STEADY_DEADLINE, &self.stop).await?;
        let mut faults = Faults {
            engine: self,
            seen: &seen,
            observed: &watching.observed,
            targets: &targets,
            history: history.clone(),
            replicas,
            cut_off: BTreeSet::new(),
            healing: Vec::new(),
            bands: Vec::new(),
            before: None,
        };
        let done = faults.run(&plan(experiment, *seed), workload.duration).await;
        faults.heal_the_rest().await?;
        done?;
        let (bands, before) = (std::mem::take(&mut faults.bands), faults.before);

        self.observer.event(&Event::Recovering);
        let recovered = or_stopped(&self.stop, self.wait_for_recovery(experiment, &seen)).await??;
        self.observer.event(&Event::Recovered(recovered));
        // Sending ends here, so the time from here on is not a time without an ack.
        drop(pace);
        let (at_us, acks) = (seen.now_us(), seen.samples());
        let patience = if recovered.is_some() { experiment.finish } else { workload::PATIENCE_AFTER_FAILURE };
        let finish = running.finish(&to_reach, &dial, patience);
        let undone = or_stopped(&self.stop, finish).await?;
        let end = End { at_us, acks, recovered, undone };
        let observed = watching.stop().await;
        let file = |why: String| RunError::File { path: history_path.clone(), why };
        history.finish().map_err(|error| file(error.to_string()))?;

        self.observer.event(&Event::Judging);
        let all = names(&targets, Kind::Server);
        let report = judging::judge(&history_path, workload)?;
        let facts = judging::facts(&seen, end, &observed, before, bands, &all);
        Ok(Verdict::new(experiment, *seed, self.backend.name(), report, facts))
    }

    /// The number of replicas of each shard; 0 if no server tells it.
    async fn replicas(&self) -> usize {
        let Ok(observer) = (self.connect)("chaos").observe().await else { return 0 };
        let replicas = observer.status().await.map_or(0, |status| status.replicas);
        observer.close().await;
        usize::try_from(replicas).unwrap_or(0)
    }

    /// How long the cluster took to recover: until it reports itself healthy and the steady state holds again. `None` if it did
    /// not do so within the experiment's recovery time.
    async fn wait_for_recovery(
        &self,
        experiment: &Experiment,
        seen: &Arc<ClientView>,
    ) -> Result<Option<Duration>, RunError> {
        let began = Instant::now();
        // No server answers: the cluster has not recovered.
        let Ok(observer) = (self.connect)("chaos").observe().await else { return Ok(None) };
        let healthy = async {
            loop {
                if observer.status().await.is_ok_and(|status| status.healthy) {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let is_healthy = tokio::time::timeout(experiment.recover, healthy).await.is_ok();
        observer.close().await;
        let rest = experiment.recover.saturating_sub(began.elapsed());
        match wait_until_steady(&experiment.steady, seen, rest, &self.stop).await {
            Ok(()) if is_healthy => Ok(Some(began.elapsed())),
            Ok(()) | Err(RunError::NotSteady(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The result of `work`, which is dropped if the run is stopped first. Never for work that applies or heals a fault: half of it
/// would be done.
async fn or_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Result<T, RunError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(RunError::Stopped),
        done = Box::pin(work) => Ok(done),
    }
}

/// Reports acks and latencies of the clients every second, and changes of the steady state, until it is dropped.
async fn report_pace(wanted: Steady, seen: Arc<ClientView>, observer: Arc<dyn Observer>) {
    let mut every = tokio::time::interval(PACE);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_steady = false;
    loop {
        every.tick().await;
        let (rate, p99) = seen.recent();
        let is_steady = wanted.holds(rate, p99);
        let longest_gap = Duration::from_micros(seen.longest_gap_us());
        observer.event(&Event::Pace { rate, p99, longest_gap });
        if is_steady != was_steady {
            was_steady = is_steady;
            let at = Duration::from_micros(seen.now_us());
            observer.event(&if is_steady { Event::Steady(at) } else { Event::Unsteady(at) });
        }
    }
}

fn names(targets: &[Target], kind: Kind) -> Vec<String> {
    targets.iter().filter(|target| target.kind == kind).map(|target| target.name.clone()).collect()
}

/// Waits until the clients see the steady state.
async fn wait_until_steady(
    wanted: &Steady,
    seen: &ClientView,
    deadline: Duration,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let deadline = Instant::now() + deadline;
    loop {
        let (rate, p99) = seen.recent();
        if wanted.holds(rate, p99) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(RunError::NotSteady(format!(
                "{rate:.0} acks a second, which should be {}, and a p99 of {p99:.0?}, which should be at most {:.0?}",
                wanted.acked_per_second, wanted.p99
            )));
        }
        tokio::select! {
            () = stop.cancelled() => return Err(RunError::Stopped),
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}
