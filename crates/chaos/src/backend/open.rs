//! Opens the backend that the command line chose.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use conclave_client::CaId;

use crate::backend::docker::Docker;
use crate::backend::kubernetes::{Kubernetes, PodLocation};
use crate::backend::local::Local;
use crate::backend::{Backend, BackendError, admin_token};

/// The journal's file name for local processes.
const JOURNAL: &str = "chaos.journal";

/// What the cluster runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The processes of `conclave up` on this machine
    Local,
    /// The containers of a Docker Compose project on this machine's engine
    Docker,
    /// The pods of a cluster in one namespace of Kubernetes
    Kubernetes,
}

/// Where the cluster is, and where the controller keeps its journal.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the cluster runs on.
    pub backend: Choice,
    /// The directory of `conclave up`; `None` is its default.
    pub up_dir: Option<PathBuf>,
    /// The directory of the journal, for Docker and Kubernetes. Created if it does not exist.
    pub state_dir: PathBuf,
    /// The Compose project; `None` is the one that this program runs in, or the only one.
    pub project: Option<String>,
    /// The file with the servers' admin token, for Docker and Kubernetes. `conclave up` has it in its directory.
    pub admin_token_file: Option<PathBuf>,
    /// The directory with the cluster's `ca.pem`, for Docker and Kubernetes; `None` if it does not use TLS. `conclave up` has it
    /// in its directory.
    pub tls_dir: Option<PathBuf>,
    /// Where the pods are, for Kubernetes.
    pub kubernetes: PodLocation,
}

/// A backend and its journal. All controllers of one cluster on a machine use the same journal, whose lock keeps all but one
/// out.
#[derive(Debug)]
pub struct Opened {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// The journal's file, in an existing directory.
    pub journal: PathBuf,
}

/// Opens the backend.
///
/// # Errors
/// If no cluster is found, or `ca.pem` cannot be read.
pub async fn open(settings: &Settings) -> Result<Opened, BackendError> {
    let token = settings.admin_token_file.as_deref().map(admin_token);
    let authority = settings.tls_dir.as_deref().map(authority);
    match settings.backend {
        Choice::Local => {
            let dir = settings.up_dir.clone().map_or_else(Local::default_dir, Ok)?;
            let backend = Box::new(Local::open(&dir)?);
            Ok(Opened { backend, journal: dir.join(JOURNAL) })
        }
        Choice::Docker => {
            make(&settings.state_dir)?;
            let backend =
                Docker::open(settings.project.as_deref(), &settings.state_dir, token, authority.transpose()?)
                    .await?;
            let journal = backend.journal(&settings.state_dir);
            Ok(Opened { backend: Box::new(backend), journal })
        }
        Choice::Kubernetes => {
            let kubernetes = Kubernetes::open(&settings.kubernetes, token, authority.transpose()?).await?;
            let journal =
                settings.state_dir.join(format!("kubernetes-{}.journal", kubernetes.name_of_cluster()));
            make(&settings.state_dir)?;
            Ok(Opened { backend: Box::new(kubernetes), journal })
        }
    }
}

/// The authority whose certificate is `ca.pem` in this directory.
fn authority(dir: &Path) -> Result<CaId, BackendError> {
    conclave_net::read_authority(dir).map_err(|error| BackendError::Failed {
        what: format!("read the cluster's authority in {}", dir.display()),
        why: error.to_string(),
    })
}

fn make(dir: &Path) -> Result<(), BackendError> {
    std::fs::create_dir_all(dir).map_err(|error| BackendError::Failed {
        what: format!("make the directory {} for the journal", dir.display()),
        why: format!("{error}; choose another directory with --state-dir"),
    })
}
