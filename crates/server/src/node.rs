//! One node: puts the parts together, and takes them apart in the right order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use conclave_core::limits::{
    CLIENT_MESSAGE_BYTES_MAX, DRAIN_DEADLINE, PEER_MESSAGE_BYTES_MAX, PROPOSAL_QUEUE_MAX,
    STREAMS_PER_CONNECTION_MAX,
};
use conclave_core::ring::Layout;
use conclave_core::{NodeId, ShardId};
use conclave_proto::admin::admin_service_server::AdminServiceServer;
use conclave_proto::chat::ClusterView;
use conclave_proto::chat::chat_service_server::ChatServiceServer;
use conclave_proto::raft::raft_service_server::RaftServiceServer;
use conclave_store::{Identity, Options, Raft, Store};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::admin::Admin;
use crate::bootstrap::{self, Plan};
use crate::clock::Clock;
use crate::config::{Config, Member, Timing};
use crate::feed::Feed;
use crate::gateway::route::Router;
use crate::gateway::service::Gateway;
use crate::gateway::status;
use crate::housekeeping;
use crate::metrics::{Metrics, StoreEvents};
use crate::peer::admission::{Admission, Stamp};
use crate::peer::link::keep_link;
use crate::peer::network::Factory;
use crate::peer::service::PeerService;
use crate::peer::{LinkQueues, Peers};
use crate::shard::elections::{self, Told};
use crate::shard::proposer::Proposer;
use crate::shard::{Replica, Shards, leadership};
use crate::web;

/// How long connections get to end after everything on them has.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// How long leaderships get to move away when a node drains.
const GIVE_AWAY_DEADLINE: Duration = Duration::from_secs(3);
/// How many peers may die before anybody looks.
const DEATHS_WAITING_MAX: usize = 64;

/// Why a node did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error("the configuration is wrong: {}", .0.join("; "))]
    Config(Vec<String>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: {source}; {}", advice(.source))]
    Listen {
        /// What for.
        purpose: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] conclave_store::OpenError),
    /// A peer's address is not one.
    #[error("a peer's address is wrong: {0}")]
    Address(#[from] tonic::transport::Error),
    /// openraft did not start.
    #[error("shard {shard} did not start: {why}")]
    Raft {
        /// Which shard.
        shard: ShardId,
        /// Why.
        why: String,
    },
    /// The disk failed. The node stops rather than lie.
    #[error("storage failed and the node stops: {0}")]
    Storage(String),
    /// The others know this node's id with another data directory.
    #[error("{0}")]
    Expelled(String),
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "something else uses the port: stop it, or choose another port",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another port",
        _ => "check the address",
    }
}

/// Who this node is, and how it is.
#[derive(Debug)]
pub(crate) struct NodeInfo {
    pub(crate) id: NodeId,
    pub(crate) member: Member,
    pub(crate) cluster: u128,
    pub(crate) cluster_name: String,
    /// Raised only by a forced recovery, which does not exist yet.
    pub(crate) epoch: u32,
    pub(crate) started: Instant,
    /// Open client streams.
    pub(crate) clients: AtomicU32,
    /// The shards have recovered and the node is registered.
    pub(crate) settled: AtomicBool,
    /// The node gives its work away: no new clients.
    pub(crate) draining: CancellationToken,
    /// The work is given away: streams of sends end when what is under way is decided.
    pub(crate) leaving: CancellationToken,
    /// Everything ends.
    pub(crate) stop: CancellationToken,
}

impl NodeInfo {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

/// The sockets of a node, bound before anything else is touched.
#[derive(Debug)]
pub struct Listeners {
    client: TcpListener,
    peer: TcpListener,
    http: TcpListener,
}

impl Listeners {
    /// Binds the three addresses.
    ///
    /// # Errors
    /// [`RunError::Listen`], naming the address and what to do.
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        async fn one(purpose: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
            TcpListener::bind(address).await.map_err(|source| RunError::Listen { purpose, address, source })
        }
        Ok(Self {
            client: one("clients", config.client_listen).await?,
            peer: one("other nodes", config.peer_listen).await?,
            http: one("health and metrics", config.http_listen).await?,
        })
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    info: Arc<NodeInfo>,
    shards: Arc<Shards>,
    peers: Arc<Peers>,
    store: Store,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    expelled: watch::Receiver<Option<String>>,
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
        let plan = Plan::new(&config);
        let member = plan.members[&plan.me].clone();
        let metrics = Arc::new(Metrics::new(&member.name, &config.cluster_name));
        let feed = Arc::new(Feed::default());
        let events = StoreEvents { metrics: Arc::clone(&metrics), feed: Arc::clone(&feed) };
        let (identity, store) = open_store(&config, &plan, options, events).await?;

        let stop = CancellationToken::new();
        let info = Arc::new(NodeInfo {
            id: plan.me,
            member,
            cluster: identity.cluster,
            cluster_name: config.cluster_name.clone(),
            epoch: 1,
            started: Instant::now(),
            clients: AtomicU32::new(0),
            settled: AtomicBool::new(false),
            draining: CancellationToken::new(),
            leaving: CancellationToken::new(),
            stop,
        });
        let expelled = watch::Sender::new(None);
        let admission = Admission {
            cluster: identity.cluster,
            me: plan.me,
            directory: identity.directory,
            store: store.clone(),
            expelled: expelled.clone(),
        };
        let stamp = Stamp::new(identity.cluster, plan.me, identity.directory, store.clone());
        let (peers, links) = Peers::new(&plan.members, plan.me, &stamp)?;
        let peers = Arc::new(peers);
        let tasks = TaskTracker::new();
        let shards = Arc::new(
            Groups {
                config: &config,
                plan: &plan,
                store: &store,
                peers: &peers,
                metrics: &metrics,
                clock: &clock,
            }
            .start(&admission, &tasks)
            .await?,
        );
        let node = Self { info, shards, peers, store, metrics, tasks, expelled: expelled.subscribe() };
        node.serve(listeners, admission, feed, clock, links, &identity);
        Ok(node)
    }

    /// Starts everything that runs until the node stops.
    fn serve(
        &self,
        listeners: Listeners,
        admission: Admission,
        feed: Arc<Feed>,
        clock: Clock,
        links: LinkQueues,
        identity: &Identity,
    ) {
        let Self { info, shards, peers, store, metrics, tasks, .. } = self;
        let stop = &info.stop;
        let router = Router { shards: Arc::clone(shards), peers: Arc::clone(peers) };
        let view = ClusterView { cluster_id: format!("{:032x}", info.cluster), ..ClusterView::default() };
        let (view_sender, views) = watch::channel(Arc::new(view));
        let gateway = Gateway {
            router: router.clone(),
            feed,
            store: store.clone(),
            metrics: Arc::clone(metrics),
            node: Arc::clone(info),
            clock,
            views,
        };
        let peer_service = PeerService {
            admission,
            shards: Arc::clone(shards),
            store: store.clone(),
            metrics: Arc::clone(metrics),
            stop: stop.clone(),
            node: Arc::clone(info),
        };
        tasks.spawn(serve_peers(listeners.peer, peer_service, stop.clone()));
        tasks.spawn(serve_clients(listeners.client, gateway, stop.clone()));
        let page = web::Page {
            node: Arc::clone(info),
            shards: Arc::clone(shards),
            store: store.clone(),
            metrics: Arc::clone(metrics),
        };
        tasks.spawn(web::serve(listeners.http, page, stop.clone()));

        let (died, deaths) = mpsc::channel(DEATHS_WAITING_MAX);
        for (peer, queue) in links {
            tasks.spawn(keep_link(peer, queue, died.clone(), stop.clone()));
        }
        tasks.spawn(leadership::replace_the_dead(Arc::clone(shards), deaths, stop.clone()));
        tasks.spawn(leadership::prefer(Arc::clone(shards), Arc::clone(peers), info.draining.clone()));
        for replica in shards.iter() {
            tasks.spawn(elections::watch(Arc::clone(replica), Arc::clone(metrics), stop.clone()));
        }
        tasks.spawn(status::keep_view(Arc::clone(info), Arc::clone(peers), view_sender, stop.clone()));
        let keeping = housekeeping::run(Arc::clone(shards), store.clone(), Arc::clone(metrics), stop.clone());
        tasks.spawn(keeping);
        tasks.spawn(bootstrap::settle(router, Arc::clone(info), identity.directory, self.expelled.clone()));
    }

    /// Waits until the node cannot go on, and says why.
    pub async fn failed(&self) -> RunError {
        let mut storage = self.store.failed();
        let mut expelled = self.expelled.clone();
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

    /// Gives the node's work away: no longer ready, clients told where to go, leaderships handed over.
    pub async fn drain(&self) {
        tracing::info!("drain");
        self.metrics.draining.set(1);
        self.info.draining.cancel();
        let deadline = Instant::now() + GIVE_AWAY_DEADLINE;
        if !leadership::give_away(&self.shards, &self.peers, deadline).await {
            tracing::warn!("some shards could not be given away; their replicas elect a new leader");
        }
        self.info.leaving.cancel();
        let gone = async {
            while self.info.clients.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(DRAIN_DEADLINE, gone).await.is_err() {
            tracing::info!("some clients stayed until the end");
        }
    }

    /// Ends everything and writes what is not written yet.
    pub async fn stop(self) {
        self.info.draining.cancel();
        self.info.leaving.cancel();
        for replica in self.shards.iter() {
            if let Err(error) = replica.raft.shutdown().await {
                tracing::warn!(shard = replica.shard.0, %error, "a shard did not stop cleanly");
            }
        }
        self.info.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::debug!("some connections did not end in time");
        }
        let store = self.store.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the store did not close");
        }
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.info.id
    }
}

async fn open_store(
    config: &Config,
    plan: &Plan,
    options: Options,
    events: StoreEvents,
) -> Result<(Identity, Store), RunError> {
    let dir = config.dir.clone();
    let (cluster, name, me, shards) = (plan.cluster, config.cluster_name.clone(), plan.me, config.shards);
    let opened = tokio::task::spawn_blocking(move || {
        let identity = match Identity::read(&dir)? {
            Some(identity) => identity,
            None => Identity::create(&dir, cluster, &name, me)?,
        };
        let expected = Identity { cluster, cluster_name: name, node: me, directory: identity.directory };
        let store = Store::open(&dir, &expected, shards, options, Arc::new(events))?;
        Ok::<_, conclave_store::OpenError>((identity, store))
    });
    match opened.await {
        Ok(opened) => Ok(opened?),
        Err(error) => Err(RunError::Storage(error.to_string())),
    }
}

/// What it takes to start the Raft groups.
struct Groups<'a> {
    config: &'a Config,
    plan: &'a Plan,
    store: &'a Store,
    peers: &'a Arc<Peers>,
    metrics: &'a Arc<Metrics>,
    clock: &'a Clock,
}

impl Groups<'_> {
    async fn start(&self, admission: &Admission, tasks: &TaskTracker) -> Result<Shards, RunError> {
        let raft_config = Arc::new(raft_config(self.config));
        let mut replicas = Vec::new();
        for index in 0..=self.config.shards {
            let shard = ShardId(index);
            let failed = |why: String| RunError::Raft { shard, why };
            let factory = Factory {
                shard,
                peers: Arc::clone(self.peers),
                admission: admission.clone(),
                metrics: Arc::clone(self.metrics),
            };
            let (log, machine) = self.store.shard(shard);
            let raft = Raft::new(self.plan.me.0, Arc::clone(&raft_config), factory, log, machine)
                .await
                .map_err(|error| failed(error.to_string()))?;
            let (proposals, queue) = mpsc::channel(PROPOSAL_QUEUE_MAX);
            let proposer = Proposer {
                shard,
                raft: raft.clone(),
                clock: self.clock.clone(),
                metrics: Arc::clone(self.metrics),
            };
            tasks.spawn(proposer.run(queue));
            let state = self.store.state(shard);
            replicas.push(Arc::new(Replica { shard, raft, state, proposals, told: Told::default() }));
        }
        let layout: Layout = self.plan.layout.clone();
        let members: BTreeMap<NodeId, Member> = self.plan.members.clone();
        Ok(Shards::new(self.plan.me, members, layout, replicas))
    }
}

fn raft_config(config: &Config) -> openraft::Config {
    let (election_timeout_min, election_timeout_max, heartbeat_interval) = match config.timing {
        Timing::Lan => (75, 150, 25),
        Timing::Wan => (750, 1_500, 250),
    };
    openraft::Config {
        cluster_name: config.cluster_name.clone(),
        election_timeout_min,
        election_timeout_max,
        heartbeat_interval,
        enable_pre_vote: Some(true),
        // A restarted leader has nothing that a follower lacks, and the others have moved on already.
        enable_leader_restore: Some(false),
        // Entries are batches of up to 256 KiB: this many of them fit one message between nodes.
        max_payload_entries: 64,
        api_batch_linger_ms: 0,
        // Few and large entries, not many small ones: room for more is memory that nobody uses.
        api_batch_capacity: 64,
        api_channel_size: Some(1_024),
        backoff: "50ms 50ms 50ms".to_owned(),
        // Housekeeping decides by bytes when to take a snapshot and how much log to keep behind it.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower gets a snapshot when the log that it needs is gone, not because it is slow.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 600_000,
        ..openraft::Config::default()
    }
}

async fn serve_peers(listener: TcpListener, service: PeerService, stop: CancellationToken) {
    let server = Server::builder()
        .max_concurrent_streams(None)
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .add_service(
            RaftServiceServer::new(service)
                .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX),
        );
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
        tracing::error!(%error, "serving other nodes failed");
    }
}

async fn serve_clients(listener: TcpListener, gateway: Gateway, stop: CancellationToken) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ChatServiceServer<Gateway>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(conclave_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    let reflection = match reflection {
        Ok(reflection) => reflection,
        Err(error) => {
            tracing::error!(%error, "reflection failed");
            return;
        }
    };
    let draining = gateway.node.draining.clone();
    let unready = async move {
        draining.cancelled().await;
        health.set_not_serving::<ChatServiceServer<Gateway>>().await;
    };
    let admin = Admin { gateway: gateway.clone() };
    let server = Server::builder()
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(AdminServiceServer::new(admin))
        .add_service(ChatServiceServer::new(gateway).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (served, ()) =
        tokio::join!(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()), unready);
    if let Err(error) = served {
        tracing::error!(%error, "serving clients failed");
    }
}

/// Runs a node until `shutdown`, then drains it and stops; or until it cannot go on.
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
