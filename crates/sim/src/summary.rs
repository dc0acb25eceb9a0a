//! The summary of a run, printed as one line of JSON.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use conclave_chaos::experiment::Sometimes;
use conclave_chaos::verdict::Sum;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer};

use crate::drive::RunResult;
use crate::life::lock;

/// Counts log events of nodes, and collects panics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    snapshots: AtomicU64,
    panics: Mutex<Vec<String>>,
}

impl Counted {
    /// The filter for the log events that are counted.
    pub(crate) fn filter() -> Targets {
        Targets::new().with_target("conclave_server", LevelFilter::INFO)
    }

    pub(crate) fn panicked(&self, what: String) {
        lock(&self.0.panics).push(what);
    }
}

impl<S: tracing::Subscriber> Layer<S> for Counted {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        struct Message<'a>(&'a Counts);
        impl Visit for Message<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" && format!("{value:?}") == "snapshot sent" {
                    self.0.snapshots.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        event.record(&mut Message(&self.0));
    }
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunOutcome {
    /// Every promise held.
    Passed,
    /// A promise was broken.
    Violated,
    /// Nothing was broken, but too little was tested.
    TooLittle,
    /// No verdict.
    Failed,
}

/// The summary of a run. `cargo xtask sim` reads it.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) experiment: String,
    pub(crate) outcome: RunOutcome,
    /// Everything that is wrong, or why there is no verdict; one sentence each.
    pub(crate) why: Vec<String>,
    /// SHA-256 of the history, hexadecimal.
    pub(crate) history: String,
    pub(crate) virtual_ms: u64,
    pub(crate) took_ms: u64,
    pub(crate) acked: u64,
    pub(crate) observed: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) sectors_unsynced: u64,
    pub(crate) sectors_kept: u64,
    pub(crate) restarts: u64,
    pub(crate) partitions: u64,
    pub(crate) pauses: u64,
    pub(crate) network_faults: u64,
    pub(crate) disk_faults: u64,
    pub(crate) clock_steps: u64,
    pub(crate) resolver_faults: u64,
    /// Records that name servers received from nodes.
    pub(crate) registrations: u64,
    /// Questions that name servers answered.
    pub(crate) names_answered: u64,
    pub(crate) syncs: u64,
    pub(crate) snapshots: u64,
    pub(crate) elections: u64,
    /// Whether a repeated request was recognised as committed before.
    pub(crate) retry_suppressed: bool,
    /// The run's directory, if it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
}

impl Summary {
    pub(crate) fn new(
        seed: u64,
        experiment: &str,
        outcome: &RunResult,
        counted: &Counted,
        history: &[u8],
    ) -> Self {
        let RunResult { verdict, elapsed, cluster } = outcome;
        let mut why = lock(&cluster.findings).clone();
        why.extend(lock(&counted.0.panics).iter().map(|panic| format!("a task panicked: {panic}")));
        let broken = !why.is_empty();
        let word = match verdict {
            Ok(verdict) => {
                why.extend(verdict.wrong.iter().cloned());
                match verdict.sum {
                    Sum::Violated => RunOutcome::Violated,
                    _ if broken => RunOutcome::Violated,
                    Sum::TooLittle => {
                        why.extend(verdict.missing.iter().cloned());
                        RunOutcome::TooLittle
                    }
                    Sum::Passed => RunOutcome::Passed,
                }
            }
            Err(error) => {
                why.push(error.to_string());
                if broken { RunOutcome::Violated } else { RunOutcome::Failed }
            }
        };
        let fault_counts = *lock(&cluster.fault_counts);
        let disks = cluster.machines.iter().map(|machine| machine.disk.counts());
        let (mut syncs, mut unsynced, mut kept, mut cuts) = (0, 0, 0, 0);
        for disk in disks {
            syncs += disk.syncs;
            unsynced += disk.unsynced;
            kept += disk.kept;
            cuts += disk.power_cuts;
        }
        let served: Vec<_> =
            cluster.name_servers.iter().map(|name_server| *lock(&name_server.served)).collect();
        let facts = verdict.as_ref().ok().map(|verdict| &verdict.facts);
        let terms: BTreeSet<(u32, u64)> = facts
            .into_iter()
            .flat_map(|facts| &facts.changes)
            .flat_map(|change| change.state.leads.iter().map(|(shard, term)| (*shard, *term)))
            .collect();
        let report = verdict.as_ref().ok().map(|verdict| &verdict.report);
        Self {
            seed,
            experiment: experiment.to_owned(),
            outcome: word,
            why,
            history: Sha256::digest(history).iter().map(|byte| format!("{byte:02x}")).collect(),
            virtual_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            took_ms: 0,
            acked: report.map_or(0, |report| report.acked),
            observed: report.map_or(0, |report| report.observed),
            kills: fault_counts.kills,
            power_cuts: cuts,
            sectors_unsynced: unsynced,
            sectors_kept: kept,
            restarts: fault_counts.restarts,
            partitions: fault_counts.partitions,
            pauses: fault_counts.pauses,
            network_faults: fault_counts.network_faults,
            disk_faults: fault_counts.disk_faults,
            clock_steps: fault_counts.clock_steps,
            resolver_faults: fault_counts.resolver_faults,
            registrations: served.iter().map(|served| served.registrations).sum(),
            names_answered: served.iter().map(|served| served.answers).sum(),
            syncs,
            snapshots: counted.0.snapshots.load(Ordering::Relaxed),
            elections: terms.len() as u64,
            retry_suppressed: facts
                .is_some_and(|facts| facts.sometimes.contains(&Sometimes::RetrySuppressed)),
            dir: None,
        }
    }

    /// 0 passed, 1 violated, 2 tested too little, 3 no verdict.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.outcome {
            RunOutcome::Passed => 0,
            RunOutcome::Violated => 1,
            RunOutcome::TooLittle => 2,
            RunOutcome::Failed => 3,
        }
    }
}
