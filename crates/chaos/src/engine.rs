//! Runs an experiment: steady state, faults, recovery, verdict.

mod faults;
mod judging;
mod watching;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use conclave_client::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, BackendError, Kind, Target};
use crate::engine::faults::Faults;
use crate::engine::watching::Watching;
use crate::experiment::{Experiment, Steady};
use crate::fault::{Fault, Means};
use crate::journal::{Applied, Journal, JournalError};
use crate::schedule::plan;
use crate::verdict::Verdict;
use crate::workload::{Connect, Running, Seen, WorkloadError};

/// The cluster gets so long to become steady before anything is done to it.
const STEADY_DEADLINE: Duration = Duration::from_secs(30);
/// How often the steady state is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Why an experiment has no verdict. None of these says anything about the cluster's promises.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A fault could not be applied or healed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The clients could not work.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The backend cannot do what the experiment asks for.
    #[error("{experiment} needs faults that {backend} cannot apply here ({missing}): {advice}")]
    Means {
        /// Which experiment.
        experiment: String,
        /// On what.
        backend: &'static str,
        /// What is missing.
        missing: String,
        /// What to do.
        advice: &'static str,
    },
    /// The cluster was not well when it began.
    #[error("the cluster is not in its steady state ({0}): nothing was done to it")]
    NotSteady(String),
    /// A file cannot be written or read.
    #[error("{}: {why}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody asked to stop.
    #[error("stopped; everything is healed")]
    Stopped,
}

/// A controller of one cluster.
pub struct Engine {
    /// Where faults are applied.
    pub backend: Box<dyn Backend>,
    /// Makes clients.
    pub connect: Connect,
    /// What has been applied.
    pub journal: Journal,
    /// Asks to stop.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.backend)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

/// Where a run is, for whoever watches.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

impl Engine {
    /// Heals whatever is open in the journal: of this controller, or of one that died.
    ///
    /// # Errors
    /// The first that could not be healed; the others are.
    pub async fn heal_all(&mut self) -> Result<usize, RunError> {
        let open = self.journal.open_faults();
        let mut failed = None;
        for fault in &open {
            match self.backend.heal(fault).await {
                Ok(()) => self.journal.healed(fault.id)?,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(open.len()),
        }
    }

    /// Applies one fault now, and writes it down.
    ///
    /// # Errors
    /// If it cannot be applied; then it is healed, as far as it was applied in part.
    pub async fn apply(&mut self, fault: Fault, nodes: Vec<String>) -> Result<Applied, RunError> {
        let all = names(&self.backend.targets().await?, Kind::Server);
        let applied = self.journal.apply(fault, nodes, all)?;
        if let Err(error) = self.backend.apply(&applied).await {
            if self.backend.heal(&applied).await.is_ok() {
                self.journal.healed(applied.id)?;
            }
            return Err(error.into());
        }
        Ok(applied)
    }

    /// Runs an experiment and judges what came of it. Whatever happens, everything is healed when this returns.
    ///
    /// # Errors
    /// If there is no verdict; see [`RunError`].
    pub async fn run(
        &mut self,
        experiment: &Experiment,
        seed: u64,
        dir: &Path,
        progress: Progress<'_>,
    ) -> Result<Verdict, RunError> {
        self.check_means(experiment).await?;
        if self.heal_all().await? > 0 {
            progress("healed what an earlier run left behind");
        }
        let ran = self.run_it(experiment, seed, dir, progress).await;
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
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing.iter().map(|means| format!("{means:?}").to_lowercase()).collect();
        Err(RunError::Means {
            experiment: experiment.name.clone(),
            backend: self.backend.name(),
            missing: missing.join(", "),
            advice: "start the servers with --allow-faults (conclave up --allow-faults), or with CONCLAVE_ALLOW_FAULTS=true",
        })
    }

    async fn run_it(
        &mut self,
        experiment: &Experiment,
        seed: u64,
        dir: &Path,
        progress: Progress<'_>,
    ) -> Result<Verdict, RunError> {
        let targets = self.backend.targets().await?;
        let servers: Vec<Target> =
            targets.iter().filter(|target| target.kind == Kind::Server).cloned().collect();
        let history_path = dir.join("history.jsonl");
        let history = History::create(&history_path)
            .map_err(|error| RunError::File { path: history_path.clone(), why: error.to_string() })?;
        let run = format!("{:08x}", rand::random::<u32>());
        let workload = &experiment.workload;
        let running = Running::start(workload, &run, &self.connect, history.clone()).await?;
        let seen = Arc::clone(&running.seen);
        let watching = Watching::start(&servers, &seen)?;

        progress("waiting for the steady state");
        steady(&experiment.steady, &seen, STEADY_DEADLINE, &self.stop).await?;
        let mut faults = Faults {
            engine: self,
            seen: &seen,
            observed: &watching.observed,
            targets: &targets,
            progress,
            healing: Vec::new(),
            bands: Vec::new(),
        };
        let done = faults.all(&plan(experiment, seed), workload.duration).await;
        faults.heal_the_rest().await?;
        done?;
        let bands = std::mem::take(&mut faults.bands);

        progress("everything is healed; waiting for the cluster to recover");
        let recovered = self.recovered(experiment, &seen).await?;
        let addresses: Vec<String> = servers.iter().map(|server| server.client.clone()).collect();
        let finished = running.finish(&addresses, &self.connect).await;
        let observed = watching.stop().await;
        let file = |why: String| RunError::File { path: history_path.clone(), why };
        history.finish().map_err(|error| file(error.to_string()))?;
        finished?;

        progress("judging");
        let report = judging::judge(&history_path)?;
        let facts = judging::facts(&seen, &observed, bands, recovered);
        Ok(Verdict::new(experiment, seed, self.backend.name(), report, facts))
    }

    /// How long it took until the cluster was as before; `None` if it did not get there in time.
    async fn recovered(
        &self,
        experiment: &Experiment,
        seen: &Arc<Seen>,
    ) -> Result<Option<Duration>, RunError> {
        let began = Instant::now();
        let observer: Client = (self.connect)("chaos").observe().await.map_err(WorkloadError::from)?;
        let healthy = async {
            loop {
                if observer.status().await.is_ok_and(|status| status.healthy) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let is_healthy = tokio::time::timeout(experiment.recover, healthy).await.is_ok();
        observer.close().await;
        let rest = experiment.recover.saturating_sub(began.elapsed());
        match steady(&experiment.steady, seen, rest, &self.stop).await {
            Ok(()) if is_healthy => Ok(Some(began.elapsed())),
            Ok(()) | Err(RunError::NotSteady(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn names(targets: &[Target], kind: Kind) -> Vec<String> {
    targets.iter().filter(|target| target.kind == kind).map(|target| target.name.clone()).collect()
}

/// Waits until sends are acked as often and as fast as they should be.
async fn steady(
    wanted: &Steady,
    seen: &Seen,
    deadline: Duration,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let deadline = Instant::now() + deadline;
    loop {
        let (rate, p99) = seen.recent();
        if rate >= f64::from(wanted.acked_per_second) && p99 <= wanted.p99 {
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
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
