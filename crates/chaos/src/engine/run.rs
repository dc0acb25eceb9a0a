//! One run of an experiment, and why a run may have no verdict.

use std::path::PathBuf;

use crate::backend::BackendError;
use crate::events::{Ending, Outcome};
use crate::experiment::Experiment;
use crate::journal::JournalError;
use crate::workload::WorkloadError;

/// One run of an experiment.
#[derive(Clone, Debug)]
pub struct Run {
    /// Part of the names of the run's rooms, so unique among all runs on a cluster. Letters, digits and hyphens.
    pub id: String,
    /// The experiment.
    pub experiment: Experiment,
    /// Decides the times and targets of the faults.
    pub seed: u64,
    /// The existing directory in which the history is written.
    pub dir: PathBuf,
}

impl Run {
    /// How a run ended that has no verdict.
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

/// Why a run has no verdict. None of these reasons says anything about the cluster's promises.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A fault could not be applied or healed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The clients of the workload could not start.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The backend cannot apply the faults of the experiment.
    #[error("{experiment} needs faults that {backend} cannot apply here ({missing}): {advice}")]
    Means {
        /// The experiment's name.
        experiment: String,
        /// The backend's name.
        backend: &'static str,
        /// The means that the backend lacks, separated by commas.
        missing: String,
        /// What the user can do about it.
        advice: &'static str,
    },
    /// The cluster was not healthy when the run began.
    #[error("the cluster did not reach its steady state ({0}): no fault was applied")]
    NotSteady(String),
    /// A file cannot be written or read.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system or of the parser.
        why: String,
    },
    /// A signal or a call stopped the run.
    #[error("stopped; everything is healed")]
    Stopped,
}
