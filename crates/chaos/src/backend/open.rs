//! Opens the backend that the command line chose.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::backend::docker::Docker;
use crate::backend::kubernetes::{Kubernetes, Place};
use crate::backend::local::Local;
use crate::backend::{Backend, BackendError};

/// The file with what has been done and not yet undone.
const JOURNAL: &str = "chaos.journal";

/// What the cluster runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The processes of `conclave up` on this machine
    Local,
    /// The containers of a composition (Docker Compose) on this machine's engine
    Docker,
    /// The pods of a cluster in one namespace of Kubernetes
    Kubernetes,
}

/// Where the cluster is, and where a controller keeps what it has to remember.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the cluster runs on.
    pub backend: Choice,
    /// The directory of `conclave up`; `None` is the one that it takes by itself.
    pub up_dir: Option<PathBuf>,
    /// Where the journal of a cluster that has no directory on this machine is. Made if it is not there.
    pub state_dir: PathBuf,
    /// The name of the composition; `None` is the one that this runs in, or the only one.
    pub project: Option<String>,
    /// Where the pods are, if it runs on Kubernetes.
    pub kubernetes: Place,
}

/// A backend, and where its journal belongs. Two controllers of one cluster that find the same journal keep out of each
/// other's way.
#[derive(Debug)]
pub struct Opened {
    /// Where faults are applied.
    pub backend: Box<dyn Backend>,
    /// The file of its journal. Its directory is there.
    pub journal: PathBuf,
}

/// Opens it.
///
/// # Errors
/// If there is no cluster there.
pub async fn open(settings: &Settings) -> Result<Opened, BackendError> {
    match settings.backend {
        Choice::Local => {
            let dir = settings.up_dir.clone().map_or_else(Local::default_dir, Ok)?;
            let backend = Box::new(Local::open(&dir)?);
            Ok(Opened { backend, journal: dir.join(JOURNAL) })
        }
        Choice::Docker => {
            make(&settings.state_dir)?;
            let backend = Docker::open(settings.project.as_deref(), &settings.state_dir).await?;
            let journal = backend.journal(&settings.state_dir);
            Ok(Opened { backend: Box::new(backend), journal })
        }
        Choice::Kubernetes => {
            let kubernetes = Kubernetes::open(&settings.kubernetes).await?;
            let journal =
                settings.state_dir.join(format!("kubernetes-{}.journal", kubernetes.name_of_cluster()));
            make(&settings.state_dir)?;
            Ok(Opened { backend: Box::new(kubernetes), journal })
        }
    }
}

fn make(dir: &Path) -> Result<(), BackendError> {
    std::fs::create_dir_all(dir).map_err(|error| BackendError::Failed {
        what: format!("make the directory {} for what has to be healed", dir.display()),
        why: format!("{error}; name another one by --state-dir"),
    })
}
