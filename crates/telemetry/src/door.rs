//! The port of a program that is asked over HTTP: on loopback without TLS, elsewhere with a certificate of the cluster.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use conclave_net::{
    Callers, Entrance, Gate, GateLimits, Identity, Listener, Net, Plain, TlsDir, TlsError, is_loopback,
    refuse_without_tls,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::web;

/// What a port is for: whose certificate it shows, which flags its errors name, and how many connections it takes.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// The owner of the certificate.
    pub owner: Identity,
    /// The flag that gives the directory of the certificate.
    pub tls_flag: &'static str,
    /// The flag of `conclave admin ca issue` that makes the certificate.
    pub issue_flag: &'static str,
    /// The flags that give the address.
    pub address_flags: &'static str,
    /// The bounds of connections.
    pub limits: GateLimits,
}

/// Where to listen, and with what.
#[derive(Clone, Debug)]
pub struct Listening {
    /// What the port is for.
    pub purpose: Purpose,
    /// The address.
    pub address: SocketAddr,
    /// The directory of the certificate (`ca.pem`, `node.pem`, `node.key`), which is used beyond loopback.
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
        "the certificate in {dir} is that of {found}, and this is {expected}: issue one for it (conclave admin ca issue \
         {issue_flag})", dir = .dir.display()
    )]
    OtherOwner {
        /// The directory of the files.
        dir: PathBuf,
        /// The owner of the certificate.
        found: Identity,
        /// Who listens.
        expected: Identity,
        /// The flag that issues the right one.
        issue_flag: &'static str,
    },
    /// The address cannot be bound.
    #[error("cannot listen at {address}; choose another address with {flags}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flags that give it.
        flags: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// A listening socket behind its gate.
#[derive(Debug)]
pub struct Door {
    entrance: Entrance,
    address: SocketAddr,
    scheme: &'static str,
    /// Uses a renewed certificate for new connections.
    renewal: Option<AbortOnDropHandle<()>>,
}

impl Door {
    /// Begins to listen.
    ///
    /// # Errors
    /// If the address cannot be bound or needs a certificate, or the certificate cannot be used.
    pub async fn open(listening: &Listening) -> Result<Self, DoorError> {
        let tls = if is_loopback(listening.address.ip()) { None } else { certificate(listening).await? };
        let Purpose { address_flags: flags, limits, .. } = listening.purpose;
        let failed = |source| DoorError::Listen { address: listening.address, flags, source };
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
        Ok(Self { entrance: listener.gated(Gate::new(limits, Arc::new(()))), address, scheme, renewal })
    }

    /// The bound address, with the chosen port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of what is served.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Serves routes until `stop`.
    pub async fn serve(self, routes: Router, stop: CancellationToken) {
        let Self { entrance, renewal: _renewal, .. } = self;
        web::serve_routes(entrance, routes, stop).await;
    }
}

/// The certificate for an address beyond loopback; `None` if the user wants none.
async fn certificate(listening: &Listening) -> Result<Option<(PathBuf, TlsDir)>, DoorError> {
    let Some(dir) = listening.tls_dir.clone() else {
        if listening.insecure {
            return Ok(None);
        }
        let ports = [("this port", listening.address)];
        return refuse_without_tls(&ports, listening.purpose.tls_flag)
            .map_or(Ok(None), |why| Err(DoorError::WithoutTls(why)));
    };
    let path = dir.clone();
    let read = tokio::task::spawn_blocking(move || TlsDir::read(&path)).await;
    let read = read.unwrap_or_else(|error| {
        Err(TlsError::File { path: dir.display().to_string(), source: io::Error::other(error) })
    });
    let Purpose { owner: expected, issue_flag, .. } = listening.purpose;
    match read {
        Ok(found) if found.identity() == expected => Ok(Some((dir, found))),
        Ok(found) => Err(DoorError::OtherOwner { dir, found: found.identity(), expected, issue_flag }),
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
