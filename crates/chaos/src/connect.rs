//! Clients of the cluster.

use std::sync::Arc;
use std::time::Duration;

use conclave_client::Client;

use crate::workload::Connect;

/// How long a client of the workload retries: longer than any shipped experiment takes the majority away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes clients that connect first to these servers, `host:port`.
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
