//! Where API and pages are served: on loopback without TLS, elsewhere with a certificate of the cluster.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use conclave_net::{
    Callers, Entrance, Gate, GateLimits, Identity, Listener, Net, Plain, TlsDir, TlsError, is_loopback,
    refuse_without_tls,
};
use tokio_util::task::AbortOnDropHandle;

use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, FIRST_REQUEST_MAX, IDLE_MAX};

/// Where to listen, and with what.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The address.
    pub address: SocketAddr,
    /// The directory of the controller's certificate (`ca.pem`, `node.pem`, `node.key`), which is used beyond loopback.
    pub tls_dir: Option<PathBuf>,
    /// Whether to listen beyond loopback without a certificate.
    pub insecure: bool,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address is not loopback, and there is no certificate.
    #[error("{0}")]
    WithoutTls(String),
    /// The certificate cannot be used.
    #[error("TLS in {dir}: {source}", dir = .dir.display())]
    Tls {
        /// The directory of the files.
        dir: PathBuf,
        /// The cause.
        source: TlsError,
    },
    /// The certificate belongs to somebody else.
    #[error(
        "the certificate in {dir} is that of {found}, and this is a chaos controller: issue one for it (conclave admin ca issue \
         --chaos)", dir = .dir.display()
    )]
    OtherOwner {
        /// The directory of the files.
        dir: PathBuf,
        /// The owner of the certificate.
        found: Identity,
    },
    /// The address cannot be bound.
    #[error("cannot listen at {address}; choose another address with --listen or --metrics: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// A listening socket behind its gate.
#[derive(Debug)]
pub struct Door {
    pub(super) entrance: Entrance,
    address: SocketAddr,
    scheme: &'static str,
    /// Uses a renewed certificate for new connections.
    pub(super) renewal: Option<AbortOnDropHandle<()>>,
}

impl Door {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the address cannot be bound or needs a certificate, or the certificate cannot be used.
    pub async fn open(listening: &Listening) -> Result<Self, DoorError> {
        let tls = if is_loopback(listening.address.ip()) { None } else { certificate(listening).await? };
        let failed = |source| DoorError::Listen { address: listening.address, source };
        let listener = Net::System.listen(listening.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (listener, scheme, renewal) = match tls {
            None => (listener, "http", None),
            Some((dir, tls_dir)) => {
                let (listener, renewal) =
                    secured(listener, tls_dir).map_err(|source| DoorError::Tls { dir, source })?;
                (listener, "https", Some(renewal))
            }
        };
        let limits = GateLimits {
            connections: CONNECTIONS_MAX,
            per_address: CONNECTIONS_PER_ADDRESS_MAX,
            loopback: CONNECTIONS_MAX,
            first_request: FIRST_REQUEST_MAX,
            idle: IDLE_MAX,
        };
        Ok(Self { entrance: listener.gated(Gate::new(limits, Arc::new(()))), address, scheme, renewal })
    }

    /// The bound address, with the chosen port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the API and the pages.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }
}

/// The certificate for an address beyond loopback; `None` if the user wants none.
async fn certificate(listening: &Listening) -> Result<Option<(PathBuf, TlsDir)>, DoorError> {
    let Some(dir) = listening.tls_dir.clone() else {
        if listening.insecure {
            return Ok(None);
        }
        let ports = [("the controller", listening.address)];
        return refuse_without_tls(&ports, "--pages-tls-dir")
            .map_or(Ok(None), |why| Err(DoorError::WithoutTls(why)));
    };
    let path = dir.clone();
    let read = tokio::task::spawn_blocking(move || TlsDir::read(&path)).await;
    let read = read.unwrap_or_else(|error| {
        Err(TlsError::File { path: dir.display().to_string(), source: io::Error::other(error) })
    });
    match read {
        Ok(found) if found.identity() == Identity::Chaos => Ok(Some((dir, found))),
        Ok(found) => Err(DoorError::OtherOwner { dir, found: found.identity() }),
        Err(source) => Err(DoorError::Tls { dir, source }),
    }
}

/// The listener with TLS, and the task that follows the files of the certificate.
fn secured(listener: Listener, dir: TlsDir) -> Result<(Listener, AbortOnDropHandle<()>), TlsError> {
    let tls = dir.server(Callers::Readers, Plain::Refuse)?;
    let listener = listener
        .secured(tls)
        .map_err(|source| TlsError::File { path: "the bound address".to_owned(), source })?;
    let follow = Arc::new(dir).follow(std::future::pending());
    Ok((listener, AbortOnDropHandle::new(tokio::spawn(follow))))
}
