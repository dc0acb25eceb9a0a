//! Where faults are applied: local processes, containers, and inside the servers themselves.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use serde::Deserialize;

use crate::fault::Means;
use crate::journal::Applied;

pub mod docker;
pub mod inside;
pub mod kubernetes;
pub mod local;
mod open;
mod url;

pub use open::{Choice, Opened, Settings, open};

/// One thing that can be broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// A server, or a resolver.
    pub kind: Kind,
    /// `host:port` of its client API, for a server.
    pub client: String,
}

/// What a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A node of the cluster.
    Server,
    /// A resolver of its zone.
    Resolver,
}

/// Why a fault could not be applied or healed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The target does not allow it.
    #[error("{target} does not allow faults: {advice}")]
    NotAllowed {
        /// Who.
        target: String,
        /// What to do.
        advice: String,
    },
    /// This backend cannot do it.
    #[error("{fault} cannot be done to {what}: {advice}")]
    Unable {
        /// What.
        fault: String,
        /// To what.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// There is no such target any more.
    #[error("there is no {0}")]
    Unknown(String),
    /// It was tried and failed.
    #[error("{what}: {why}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        why: String,
    },
}

/// A place where faults are applied. Applying and healing can be repeated: what is done already is no error.
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// What it runs on, for reports.
    fn name(&self) -> &'static str;

    /// What it can do to its targets as they are now.
    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>>;

    /// Everything that it may break.
    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>>;

    /// Applies a fault that is in the journal.
    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Heals a fault, whether it had been applied, in part, or not at all.
    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Applies what is open once more, to targets that were restarted meanwhile.
    fn again(&self) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Whether everything that holds bytes back is known to be in force at this moment, everywhere. Where a backend cannot know,
    /// nothing is claimed about who was cut off.
    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// `conclave+srv://ZONE?ns=IP:PORT`, where there is a resolver to be asked.
    fn zone(&self) -> Option<String> {
        None
    }
}
