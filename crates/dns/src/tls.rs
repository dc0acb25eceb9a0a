//! The certificate of a name server, and TLS with it: with the nodes, with callers, and for the pages.

use std::sync::Arc;

use conclave_net::{Callers, Expect, Identity, Net, TlsClient, TlsDir, TlsError, TlsServer};

use crate::config::NameServerTls;
use crate::server::RunError;

/// The certificate of a name server, and its TLS.
#[derive(Debug)]
pub(crate) struct Tls {
    config: NameServerTls,
    pub(crate) dir: Arc<TlsDir>,
    /// The TLS of the gRPC port. Callers without a certificate may look up names; only nodes register.
    pub(crate) grpc: TlsServer,
    pub(crate) pages: TlsServer,
    nodes: TlsClient,
}

impl Tls {
    /// Reads the certificate.
    pub(crate) async fn read(config: NameServerTls) -> Result<Self, RunError> {
        let dir = config.dir.clone();
        let read = tokio::task::spawn_blocking(move || Self::read_blocking(config)).await;
        read.unwrap_or_else(|error| {
            let source =
                TlsError::File { path: dir.display().to_string(), source: std::io::Error::other(error) };
            Err(RunError::Tls { dir, source })
        })
    }

    fn read_blocking(config: NameServerTls) -> Result<Self, RunError> {
        let failed = |source| RunError::Tls { dir: config.dir.clone(), source };
        let dir = TlsDir::read(&config.dir).map_err(failed)?;
        let found = dir.identity();
        if !matches!(found, Identity::NameServer(_)) {
            return Err(RunError::OtherOwner { dir: config.dir.clone(), found });
        }
        let nodes = dir.client(Expect::AnyNode).map_err(failed)?;
        let server = |callers| dir.server(callers, config.plain).map_err(failed);
        let (grpc, pages) = (server(Callers::Anybody)?, server(Callers::Readers)?);
        Ok(Self { config, dir: Arc::new(dir), grpc, pages, nodes })
    }

    /// The network to the nodes.
    pub(crate) fn net(&self, net: &Net) -> Net {
        net.secured_with(self.nodes.clone(), self.config.plain)
    }
}
