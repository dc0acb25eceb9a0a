//! Clients of the cluster.

use std::sync::Arc;
use std::time::Duration;

use conclave_client::Client;

use crate::workload::Connect;

/// A client of the workload keeps trying this long; experiments that stop the cluster stop it for less.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that begin at these servers, `host:port`.
#[must_use]
pub fn to(servers: Vec<String>) -> Connect {
    Arc::new(move |user: &str| {
        Client::builder()
            .servers(servers.iter().cloned())
            .user(user)
            .client_name("conclave-chaos")
            .patience(PATIENCE)
    })
}
