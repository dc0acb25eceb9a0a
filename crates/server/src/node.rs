//! One node: starts its parts, and stops them in the right order.
//!
//! * [`groups`]: the store and the Raft groups on it.
//! * [`serve`]: everything that runs until the node stops.
//! * [`gates`]: how many connections each port takes.
//! * [`listen`]: the ports and the services on them.

mod gates;
mod groups;
mod listen;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::{NodeId, ShardId};
use conclave_store::{Options, Store, Work};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::cluster::drain::Drain;
use crate::cluster::leadership::Leadership;
use crate::cluster::peer_statuses::PeerStatuses;
use crate::config::Config;
use crate::feed::Feed;
use crate::housekeeping;
use crate::local::NodeInfo;
use crate::metrics::{Metrics, StoreEvents};
use crate::peer::admission::{Admission, Stamp};
use crate::peer::tls::{NodeTlsError, PeerTls};
use crate::peer::{Peers, PeersError};
use crate::plan::ClusterPlan;
use crate::router::Router;
use crate::topology::Topology;

pub use listen::Listeners;

/// Deadline for connections to end after all calls on them have ended.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Why a node did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is invalid.
    #[error("the configuration is wrong: {}", .0.join("; "))]
    Config(Vec<String>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: {source}; {}", advice(.source))]
    Listen {
        /// The purpose of the socket.
        purpose: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The data dir cannot be used.
    #[error(transparent)]
    Open(#[from] conclave_store::OpenError),
    /// The node's certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] NodeTlsError),
    /// The cluster began with TLS, and the configuration has none.
    #[error("the cluster in {dir} uses TLS; give --tls-dir", dir = .dir.display())]
    TlsMissing {
        /// The data dir.
        dir: PathBuf,
    },
    /// A peer's address is invalid.
    #[error("a peer's address is wrong: {0}")]
    Address(#[from] tonic::transport::Error),
    /// openraft did not start.
    #[error("shard {shard} did not start: {why}")]
    Raft {
        /// The shard.
        shard: ShardId,
        /// The cause.
        why: String,
    },
    /// The disk failed. The node stops, because it can no longer promise durability.
    #[error("storage failed and the node stops: {0}")]
    Storage(String),
    /// The cluster refuses this node: its id is known with another data dir, or the cluster uses a feature level that
    /// the node does not understand.
    #[error("{0}")]
    Expelled(String),
}

impl From<PeersError> for RunError {
    fn from(error: PeersError) -> Self {
        match error {
            PeersError::Address(error) => Self::Address(error),
            PeersError::Tls(error) => Self::Tls(error),
        }
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another process uses the port: stop it, or choose another port",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another port",
        _ => "check the address",
    }
}

/// The store's options as the configuration wants them.
fn adapted(config: &Config, options: Options) -> Options {
    if let Some(ports) = config.without_tls() {
        tracing::warn!(%ports, "listening beyond loopback without TLS (--listen-insecure)");
    }
    let options = match &config.faults {
        Some(faults) => {
            tracing::warn!("fault injection enabled (--allow-faults): every operator may inject faults");
            faults.onto(options)
        }
        None => options,
    };
    Options { feature_level: config.feature_level, ..options }
}

async fn write_boots(store: Store) -> Result<(), RunError> {
    let written = store.work().block(move || store.write_boots()).await;
    Ok(written.map_err(|error| RunError::Storage(error.to_string()))??)
}

async fn read_tls(config: &Config, me: NodeId, work: Work) -> Result<Option<Arc<PeerTls>>, RunError> {
    let Some(tls) = config.tls.clone() else { return Ok(None) };
    let read = work.block(move || PeerTls::read(&tls, me)).await;
    Ok(Some(Arc::new(read.map_err(|error| RunError::Storage(error.to_string()))??)))
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    info: Arc<NodeInfo>,
    store: Store,
    metrics: Arc<Metrics>,
    router: Router,
    drain: Drain,
    tasks: TaskTracker,
    expelled: watch::Sender<Option<String>>,
}

impl Node {
    /// Starts a node on sockets that are already bound.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn start(
        config: Config,
        listeners: Listeners,
        options: Options,
        clock: Clock,
    ) -> Result<Self, RunError> {
        config.validate().map_err(RunError::Config)?;
        let options = adapted(&config, options);
        let plan = ClusterPlan::new(&config);
        let metrics = Arc::new(Metrics::new(&config.name, &config.cluster_name));
        let feed = Arc::new(Feed::default());
        let events = StoreEvents { metrics: Arc::clone(&metrics), feed: Arc::clone(&feed) };
        let (work, me) = (options.work, plan.me);
        let tls = read_tls(&config, me, work).await?;
        let ca = tls.as_ref().map(|tls| tls.ca());
        let (identity, store) = groups::open_store(&config, &plan, ca, options, events).await?;

        let info = Arc::new(NodeInfo::new(&plan, &config, identity.cluster, &clock));
        let expelled = watch::Sender::new(None);
        let topology = Topology::new(
            plan.me,
            plan.members.clone(),
            plan.layout.clone(),
            store.state(ShardId::META).cluster(),
        );
        let topology = Arc::new(topology);
        let admission = Admission {
            cluster: identity.cluster,
            topology: Arc::clone(&topology),
            directory: identity.directory,
            store: store.clone(),
            tls: tls.as_ref().map(|tls| tls.plain()),
            plan: identity.plan,
            expelled: expelled.clone(),
        };
        let stamp = Stamp::new(&identity, store.clone(), Arc::clone(&topology));
        let (peers, links) =
            Peers::new(&topology, &stamp, config.faults.as_ref(), &listeners.net, tls.as_deref())?;
        let peers = Arc::new(peers);
        let tasks = TaskTracker::new();
        let groups = groups::Groups {
            config: &config,
            topology: &topology,
            store: &store,
            peers: &peers,
            metrics: &metrics,
            clock: &clock,
            disk: &info.disk,
        };
        let shards = Arc::new(groups.start(&admission, &tasks).await?);
        let router = Router::new(shards, peers);
        let peer_statuses = Arc::new(PeerStatuses::default());
        let leadership = Leadership::new(router.clone(), Arc::clone(&info), Arc::clone(&peer_statuses));
        let drain = Drain::new(
            router.clone(),
            leadership.clone(),
            Arc::clone(&info),
            Arc::clone(&peer_statuses),
            Arc::clone(&metrics),
            tasks.clone(),
        );
        let name_server_net = match &tls {
            Some(tls) => tls.net_to_name_servers(&listeners.net)?,
            None => listeners.net.clone(),
        };
        let listeners = listeners.secured(tls.as_deref())?;
        if let Some(tls) = &tls {
            tasks.spawn(Arc::clone(tls).follow_files(info.stop.clone()));
        }
        housekeeping::look_at_disk(&store, &info.disk, &metrics).await;
        // The last step that may fail. From here on the node speaks and listens to others.
        write_boots(store.clone()).await?;
        let node = Self { info, store, metrics, router, drain, tasks, expelled };
        let parts = serve::Parts {
            admission,
            feed,
            clock,
            links,
            identity,
            peer_statuses,
            leadership,
            name_server_net,
            tls,
        };
        node.serve(&config, listeners, parts);
        Ok(node)
    }

    /// Waits until the node has failed, and returns the cause.
    pub async fn failed(&self) -> RunError {
        let mut storage = self.store.failed();
        let mut expelled = self.expelled.subscribe();
        tokio::select! {
            why = storage.wait_for(Option::is_some) => {
                self.metrics.storage_errors.inc();
                RunError::Storage(why.ok().and_then(|why| why.clone()).unwrap_or_default())
            }
            why = expelled.wait_for(Option::is_some) => {
                RunError::Expelled(why.ok().and_then(|why| why.clone()).unwrap_or_default())
            }
        }
    }

    /// Drains the node: it is no longer ready, its clients are asked to move, its leaderships are transferred.
    pub async fn drain(&self) {
        self.drain.run_to_stop().await;
    }

    /// Stops all tasks and writes everything that is not written yet.
    pub async fn stop(self) {
        self.drain.close();
        for replica in self.router.shards.replicas() {
            if let Err(error) = replica.raft.shutdown().await {
                tracing::warn!(shard = replica.shard.0, %error, "Raft group did not stop cleanly");
            }
        }
        self.info.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::debug!("connections did not end in time");
        }
        let store = self.store.clone();
        if let Err(error) = store.work().block(move || store.close()).await {
            tracing::error!(%error, "failed to close the store");
        }
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.info.id
    }
}

/// Runs a node until `shutdown`, then drains and stops it; or until the node fails.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    config.validate().map_err(RunError::Config)?;
    let listeners = Listeners::bind(&config).await?;
    let options = Options { log_tail_bytes: config.log_tail_bytes, ..Options::default() };
    let node = Node::start(config, listeners, options, Clock::default()).await?;
    tracing::info!(node = node.id().0, "node started");
    let result = tokio::select! {
        () = shutdown => {
            node.drain().await;
            Ok(())
        }
        error = node.failed() => Err(error),
    };
    node.stop().await;
    result
}
