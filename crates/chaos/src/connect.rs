//! Clients of the cluster.

use std::sync::Arc;
use std::time::Duration;

use conclave_client::{CaId, Client};

use crate::workload::Connect;

/// How long a client of the workload retries: longer than any shipped experiment takes the majority away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes clients that connect first to these servers, `host:port`, over TLS if their cluster has an authority.
#[must_use]
pub fn to(servers: Vec<String>, authority: Option<CaId>) -> Connect {
    Arc::new(move |user: &str| {
        let builder = match authority {
            Some(authority) => Client::builder().authority(authority),
            None => Client::builder(),
        };
        builder.servers(servers.iter().cloned()).user(user).client_name("conclave-chaos").patience(PATIENCE)
    })
}
