//! A run of an experiment, and why it may have no verdict.

use std::path::PathBuf;

use crate::backend::BackendError;
use crate::events::{Ending, Outcome};
use crate::experiment::Experiment;
use crate::journal::JournalError;
use crate::workload::WorkloadError;

/// One run of an experiment.
#[derive(Clone, Debug)]
pub struct Run {
    /// Names the run's rooms, so it must be another one for each run on a cluster: letters, digits and hyphens.
    pub id: String,
    /// What is done.
    pub experiment: Experiment,
    /// When, and to whom.
    pub seed: u64,
    /// Where its history goes: a directory that is there.
    pub dir: PathBuf,
}

impl Run {
    /// How the run ended without a verdict.
    #[must_use]
    pub fn ending_without_verdict(&self, error: &RunError) -> Ending {
        let stopped = matches!(error, RunError::Stopped);
        Ending {
            id: self.id.clone(),
            experiment: self.experiment.name.clone(),
            outcome: if stopped { Outcome::Stopped } else { Outcome::Failed },
            why: vec![error.to_string()],
            violations: Vec::new(),
            longest_gap: None,
        }
    }
}

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
