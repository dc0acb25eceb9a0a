//! Backends apply and heal faults: on local processes, containers or pods, and inside the servers themselves.

use std::collections::BTreeSet;
use std::path::Path;

use conclave_client::{CaId, Net};
use conclave_proto::admin_token::{AdminToken, PREFIX};
use futures::future::BoxFuture;
use serde::Deserialize;

use crate::fault::{Fault, Means};
use crate::journal::Applied;
use crate::secret::read_token;

pub mod docker;
pub mod inside;
pub mod kubernetes;
pub mod local;
mod open;
mod url;

pub use open::{Choice, Opened, Settings, open};

/// Reads the servers' admin token.
fn admin_token(file: &Path) -> Result<AdminToken, BackendError> {
    if file.to_string_lossy().starts_with(PREFIX) && !file.exists() {
        // Not repeated: what is printed ends in logs.
        return Err(BackendError::Failed {
            what: "read the admin token".to_owned(),
            why: "a token was given where the path of the file with it belongs".to_owned(),
        });
    }
    let token = read_token(file)
        .map_err(|error| error.to_string())
        .and_then(|content| AdminToken::parse(&content).map_err(|error| error.to_string()));
    token.map_err(|why| BackendError::Failed {
        what: format!("read the admin token in {}", file.display()),
        why,
    })
}

/// A node that faults can be applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node's name.
    pub name: String,
    /// Server or name server.
    pub kind: Kind,
    /// `host:port` of a server's client API, or where a name server takes faults; may be empty for a name server.
    pub client: String,
    /// The certificate authority of the cluster, if the node speaks TLS at this address.
    pub authority: Option<CaId>,
}

impl Target {
    /// The network to reach the node over.
    ///
    /// # Errors
    /// If the cryptography cannot be used.
    pub fn net(&self) -> Result<Net, BackendError> {
        match (self.kind, self.authority) {
            (Kind::Resolver, Some(authority)) => {
                Net::System.to_name_servers(authority).map_err(|error| unusable(&error))
            }
            (Kind::Server, _) | (Kind::Resolver, None) => network(self.authority),
        }
    }
}

/// The network to reach servers over.
///
/// # Errors
/// If the cryptography cannot be used.
pub fn network(authority: Option<CaId>) -> Result<Net, BackendError> {
    let Some(authority) = authority else { return Ok(Net::System) };
    Net::System.to_cluster(authority).map_err(|error| unusable(&error))
}

fn unusable(error: &dyn std::error::Error) -> BackendError {
    BackendError::Failed { what: "prepare TLS".to_owned(), why: error.to_string() }
}

/// The kind of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A node of the cluster.
    Server,
    /// A name server of the cluster's zone.
    Resolver,
}

/// Why a fault could not be applied or healed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The target does not allow faults.
    #[error("{target} does not allow faults: {advice}")]
    NotAllowed {
        /// The target.
        target: String,
        /// What the user can do.
        advice: String,
    },
    /// The backend cannot apply this fault to this target.
    #[error("{fault} cannot be applied to {what}: {advice}")]
    Unable {
        /// The fault.
        fault: String,
        /// The kind of target.
        what: &'static str,
        /// What the user can do.
        advice: &'static str,
    },
    /// There is no such target, or no more.
    #[error("there is no {0}")]
    Unknown(String),
    /// An operation failed.
    #[error("{what}: {why}")]
    Failed {
        /// The operation.
        what: String,
        /// The reason.
        why: String,
    },
}

/// The refusal to exchange the data dir of a target of this kind.
fn cannot_exchange_data_dirs(fault: &Fault, what: &'static str) -> BackendError {
    BackendError::Unable { fault: fault.to_string(), what, advice: Means::Copies.advice() }
}

/// Applies and heals faults. Both are idempotent: a fault that is applied, or healed, already is no error.
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// The name, for reports.
    fn name(&self) -> &'static str;

    /// The faults that can be applied to the targets as they are now.
    fn means(&self) -> BoxFuture<'_, Result<BTreeSet<Means>, BackendError>>;

    /// The nodes that faults may be applied to.
    fn targets(&self) -> BoxFuture<'_, Result<Vec<Target>, BackendError>>;

    /// Applies a fault. The caller has written it to the journal.
    fn apply<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Heals a fault, whether it was applied in full, in part, or not at all.
    fn heal<'a>(&'a self, fault: &'a Applied) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Applies the active faults once more, to targets that were restarted since.
    fn reapply(&self) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Whether all cuts between nodes are known to be in force at this moment. Where a backend answers no, the history claims
    /// nothing about which nodes were cut off.
    fn cuts_in_force(&self) -> BoxFuture<'_, Result<bool, BackendError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// `conclave+srv://ZONE?ns=IP:PORT`, where there is a name server.
    fn zone(&self) -> Option<String> {
        None
    }
}
