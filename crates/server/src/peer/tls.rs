//! The certificate of a node, and TLS with it: between nodes, and for clients.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use conclave_core::NodeId;
use conclave_net::{
    CaId, Callers, Credentials, Expect, Identity, Net, Plain, TlsClient, TlsError, TlsServer, Trust,
};
use conclave_store::Work;
use tokio_util::sync::CancellationToken;

use crate::config::NodeTls;
use crate::limits::CERTIFICATE_READ_INTERVAL;

/// Why a node cannot use its certificate.
#[derive(Debug, thiserror::Error)]
pub enum NodeTlsError {
    /// The files cannot be used.
    #[error("TLS in {dir}: {source}", dir = .dir.display())]
    Files {
        /// The directory of the files.
        dir: PathBuf,
        /// The cause.
        source: TlsError,
    },
    /// The certificate belongs to somebody else.
    #[error(
        "the certificate in {dir} is that of {found}, and this is node {me}: give each node the directory that was \
         made for it", dir = .dir.display()
    )]
    OtherNode {
        /// The directory of the files.
        dir: PathBuf,
        /// The owner of the certificate.
        found: Identity,
        /// This node.
        me: NodeId,
    },
}

/// TLS between this node and the others, and between this node and clients.
#[derive(Debug)]
pub(crate) struct PeerTls {
    config: NodeTls,
    me: NodeId,
    ca: CaId,
    server: TlsServer,
    client_server: TlsServer,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    credentials: Arc<Credentials>,
    clients: BTreeMap<NodeId, TlsClient>,
}

impl PeerTls {
    /// Reads the node's certificate. Blocks.
    pub(crate) fn read(config: &NodeTls, me: NodeId) -> Result<Self, NodeTlsError> {
        let credentials = read(config, me)?;
        let server = |callers| {
            TlsServer::new(&credentials, callers, config.plain)
                .map_err(|source| NodeTlsError::Files { dir: config.dir.clone(), source })
        };
        let (server, client_server) = (server(Callers::Members)?, server(Callers::Anybody)?);
        let ca = credentials.ca();
        let current = Current { credentials: Arc::new(credentials), clients: BTreeMap::new() };
        Ok(Self { config: config.clone(), me, ca, server, client_server, current: Mutex::new(current) })
    }

    /// The authority of the cluster.
    pub(crate) fn ca(&self) -> CaId {
        self.ca
    }

    /// Whether callers without TLS are served.
    pub(crate) fn plain(&self) -> Plain {
        self.config.plain
    }

    /// The TLS of the listener for other nodes.
    pub(crate) fn server(&self) -> TlsServer {
        self.server.clone()
    }

    /// The TLS of the listener for clients, who show no certificate.
    pub(crate) fn client_server(&self) -> TlsServer {
        self.client_server.clone()
    }

    /// The network for connections to another node.
    pub(crate) fn net_to(&self, node: NodeId, net: &Net) -> Result<Net, NodeTlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = Trust::Cluster(self.ca, Expect::Node(node.0));
        let client = TlsClient::new(trust, Some(&current.credentials))
            .map_err(|source| NodeTlsError::Files { dir: self.config.dir.clone(), source })?;
        current.clients.insert(node, client.clone());
        Ok(net.secured_with(client, self.config.plain))
    }

    /// Looks at the files until the node stops, and uses a renewed certificate for new connections.
    pub(crate) async fn follow_files(self: Arc<Self>, work: Work, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(CERTIFICATE_READ_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let this = Arc::clone(&self);
            match work.block(move || this.reload()).await {
                Ok(Ok(true)) => tracing::info!("certificate renewed"),
                Ok(Ok(false)) => {}
                // A writer may be between two files; the next look finds both.
                Ok(Err(error)) => tracing::warn!(%error, "certificate not read again, the one in use stays"),
                Err(error) => tracing::warn!(%error, "certificate not read again, the one in use stays"),
            }
        }
    }

    /// Reads the files again; whether they were new. Blocks.
    fn reload(&self) -> Result<bool, NodeTlsError> {
        let found = read(&self.config, self.me)?;
        let failed = |source| NodeTlsError::Files { dir: self.config.dir.clone(), source };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if *current.credentials == found {
            return Ok(false);
        }
        if found.ca() != self.ca {
            return Err(failed(TlsError::Foreign(self.ca)));
        }
        self.server.reload(&found).map_err(failed)?;
        self.client_server.reload(&found).map_err(failed)?;
        for client in current.clients.values() {
            client.reload(&found).map_err(failed)?;
        }
        current.credentials = Arc::new(found);
        Ok(true)
    }
}

fn read(config: &NodeTls, me: NodeId) -> Result<Credentials, NodeTlsError> {
    let dir = || config.dir.clone();
    let credentials =
        Credentials::read(&config.dir).map_err(|source| NodeTlsError::Files { dir: dir(), source })?;
    match credentials.identity() {
        Identity::Node(id) if id == me.0 => Ok(credentials),
        found => Err(NodeTlsError::OtherNode { dir: dir(), found, me }),
    }
}
