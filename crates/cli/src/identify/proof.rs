//! What a server proves in a TLS handshake.

use std::io::ErrorKind;
use std::time::Duration;

use conclave_client::{CaId, Net};
use conclave_net::{TlsClient, Trust, speaks_no_tls};
use tokio::time::timeout;

use crate::errors::LastAttempt;
use crate::exit::{Exit, Failed};

/// Why a server gave no answer.
pub(super) enum Silence {
    Unreachable(LastAttempt),
    Refused(Failed),
}

/// Why a server proves nothing.
pub(super) enum Unproven {
    Unreachable(String),
    /// It answers, but not as TLS, or not as a server of the expected cluster.
    Otherwise(std::io::Error),
}

/// The authority of the cluster that a host name stands for, as the owner of the name says; `None` if the server has no
/// certificate for the name that this system accepts, or the certificate comes without an authority.
pub(super) async fn named_by_owner(address: &str, patience: Duration) -> Result<Option<CaId>, Silence> {
    // It reads the system's authorities. Without any, names prove nothing.
    let made = tokio::task::spawn_blocking(|| TlsClient::new(Trust::System, None)).await;
    let Ok(Ok(tls)) = made else { return Ok(None) };
    match prove_with(address, tls, patience).await {
        Ok(authority) => Ok(authority),
        Err(Unproven::Otherwise(_)) => Ok(None),
        Err(Unproven::Unreachable(why)) => Err(Silence::Unreachable(why.into())),
    }
}

/// Whether a handshake failed as it does at a server without TLS, which may also just hang up.
pub(super) fn is_plain(error: &std::io::Error) -> bool {
    error.kind() != ErrorKind::InvalidData || speaks_no_tls(error)
}

/// The authority that a server proves to belong to in a TLS handshake.
pub(super) async fn prove(
    address: &str,
    trust: Trust,
    patience: Duration,
) -> Result<Result<Option<CaId>, Unproven>, Silence> {
    let tls = TlsClient::new(trust, None).map_err(|error| Silence::Refused(tls_unusable(&error)))?;
    Ok(prove_with(address, tls, patience).await)
}

async fn prove_with(address: &str, tls: TlsClient, patience: Duration) -> Result<Option<CaId>, Unproven> {
    let secured = Net::System.secured(tls.clone());
    match timeout(patience, secured.connect(address)).await {
        Ok(Ok(_)) => Ok(tls.ca()),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe => Unproven::Otherwise(error),
            _ => Unproven::Unreachable(format!("{address}: {error}")),
        }),
        Err(_) => Err(Unproven::Unreachable(format!("{address} did not answer within {patience:?}"))),
    }
}

pub(super) fn tls_unusable(error: &conclave_net::TlsError) -> Failed {
    Failed::new(Exit::Refused, error.to_string(), "")
}
