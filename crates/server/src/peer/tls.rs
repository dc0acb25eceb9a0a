//! The certificate of a node, and TLS with it: between nodes, to name servers, for clients, and for the pages.

use std::path::PathBuf;
use std::sync::Arc;

use conclave_core::NodeId;
use conclave_net::{CaId, Callers, Expect, Identity, Net, Plain, TlsDir, TlsError, TlsServer};
use tokio_util::sync::CancellationToken;

use crate::config::NodeTls;

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

/// TLS between this node and all others.
#[derive(Debug)]
pub(crate) struct PeerTls {
    config: NodeTls,
    dir: Arc<TlsDir>,
    server: TlsServer,
    client_server: TlsServer,
    page_server: TlsServer,
    browser_server: TlsServer,
}

impl PeerTls {
    /// Reads the node's certificate. Blocks.
    pub(crate) fn read(config: &NodeTls, me: NodeId) -> Result<Self, NodeTlsError> {
        let failed = |source| NodeTlsError::Files { dir: config.dir.clone(), source };
        let dir = TlsDir::read_with_public(&config.dir, config.public.clone()).map_err(failed)?;
        if dir.identity() != Identity::Node(me.0) {
            return Err(NodeTlsError::OtherNode { dir: config.dir.clone(), found: dir.identity(), me });
        }
        let server = |callers| dir.server(callers, config.plain).map_err(failed);
        Ok(Self {
            server: server(Callers::Members)?,
            client_server: server(Callers::Anybody)?,
            page_server: server(Callers::Readers)?,
            browser_server: server(Callers::Browsers)?,
            config: config.clone(),
            dir: Arc::new(dir),
        })
    }

    /// The authority of the cluster.
    pub(crate) fn ca(&self) -> CaId {
        self.dir.ca()
    }

    /// When the certificate in use expires, seconds since 1970.
    pub(crate) fn expiry(&self) -> Option<u64> {
        self.dir.expiry()
    }

    /// When the certificate for a public name in use expires, seconds since 1970.
    pub(crate) fn public_expiry(&self) -> Option<u64> {
        self.dir.public_expiry()
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

    /// The TLS of the listener for the pages.
    pub(crate) fn page_server(&self) -> TlsServer {
        self.page_server.clone()
    }

    /// The TLS of the listener for people's browsers.
    pub(crate) fn browser_server(&self) -> TlsServer {
        self.browser_server.clone()
    }

    /// The network for connections to another node.
    pub(crate) fn net_to(&self, node: NodeId, net: &Net) -> Result<Net, NodeTlsError> {
        self.net_to_those(Expect::Node(node.0), net)
    }

    /// The network for connections to name servers.
    pub(crate) fn net_to_name_servers(&self, net: &Net) -> Result<Net, NodeTlsError> {
        self.net_to_those(Expect::NameServer, net)
    }

    fn net_to_those(&self, expect: Expect, net: &Net) -> Result<Net, NodeTlsError> {
        let client = self.dir.client(expect);
        let client = client.map_err(|source| NodeTlsError::Files { dir: self.config.dir.clone(), source })?;
        Ok(net.secured_with(client, self.config.plain))
    }

    /// Looks at the files until the node stops, and uses a renewed certificate for new connections.
    pub(crate) async fn follow_files(self: Arc<Self>, stop: CancellationToken) {
        Arc::clone(&self.dir).follow(stop.cancelled_owned()).await;
    }
}
