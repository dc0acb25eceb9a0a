//! A cluster that tests can start, kill and stop node by node.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use conclave_client::api::{GetServerStatusResponse, NodeStatus};
use conclave_client::{Builder, Client, Net};
use conclave_server::{Clock, Config, Listeners, Member, Node, RunError, StoreOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Long enough for a busy machine; a wait takes this long only in a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two checks of a condition.
const POLL: Duration = Duration::from_millis(10);

pub(crate) struct Cluster {
    dir: TempDir,
    members: Vec<Member>,
    nodes: Vec<Option<Running>>,
    clocks: Vec<Clock>,
    shards: u32,
    log_tail_bytes: u64,
    tune: Box<dyn Fn(&mut Config) + Send + Sync>,
    /// The network of clients.
    net: Net,
}

struct Running {
    runtime: Runtime,
    node: Node,
}

impl Cluster {
    /// Starts three nodes and waits until they have settled.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// As [`Self::start`], with a changed configuration.
    pub(crate) async fn start_with(tune: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        let mut cluster = Self::prepare(3, 2);
        cluster.tune = Box::new(tune);
        for index in 0..3 {
            cluster.start_node(index).await;
        }
        cluster.settled().await;
        cluster
    }

    /// A cluster of nodes that are not started yet.
    pub(crate) fn prepare(nodes: usize, shards: u32) -> Self {
        log();
        let members = (1..=nodes).map(|index| {
            let [peer, client, http] = std::array::from_fn(|_| free_address().to_string());
            Member { name: format!("node{index}"), peer, client, http }
        });
        Self {
            dir: tempfile::tempdir().unwrap(),
            members: members.collect(),
            nodes: (0..nodes).map(|_| None).collect(),
            clocks: (0..nodes).map(|_| Clock::default()).collect(),
            shards,
            log_tail_bytes: StoreOptions::default().log_tail_bytes,
            tune: Box::new(|_| {}),
            net: Net::System,
        }
    }

    /// Sets the network of the clients that are made from now on, such as one with TLS.
    pub(crate) fn clients_use(&mut self, net: Net) {
        self.net = net;
    }

    /// Sets how many bytes of log are kept behind snapshots.
    pub(crate) fn with_log_tail(mut self, bytes: u64) -> Self {
        self.log_tail_bytes = bytes;
        self
    }

    /// Changes the configuration of every node that starts from now on.
    pub(crate) fn tune(&mut self, tune: impl Fn(&mut Config) + Send + Sync + 'static) {
        self.tune = Box::new(tune);
    }

    /// Gives the cluster a name of its own.
    pub(crate) fn with_name(mut self, name: &'static str) -> Self {
        self.tune = Box::new(move |config| name.clone_into(&mut config.cluster_name));
        self
    }

    pub(crate) fn config(&self, index: usize) -> Config {
        let member = &self.members[index];
        let listen = [&member.client, &member.peer, &member.http].map(|address| address.parse().unwrap());
        let mut config = Config::new(member.name.clone(), self.node_dir(index), self.members.clone(), listen);
        config.shards = self.shards;
        config.log_tail_bytes = self.log_tail_bytes;
        (self.tune)(&mut config);
        config
    }

    pub(crate) fn node_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(&self.members[index].name)
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn clock(&self, index: usize) -> &Clock {
        &self.clocks[index]
    }

    /// Gives a stopped node new addresses. Nodes that run keep the old ones in their configuration.
    pub(crate) fn relocate(&mut self, index: usize) {
        assert!(self.nodes[index].is_none(), "node {index} runs");
        let [peer, client, http] = std::array::from_fn(|_| free_address().to_string());
        self.members[index] = Member { name: self.members[index].name.clone(), peer, client, http };
    }

    /// Starts a node that is not running.
    pub(crate) async fn start_node(&mut self, index: usize) {
        assert!(self.nodes[index].is_none(), "node {index} runs");
        let began = Instant::now();
        loop {
            match self.try_start(index).await {
                Ok(running) => {
                    self.nodes[index] = Some(running);
                    return;
                }
                // A killed node's lock and ports are released when its last task has ended.
                Err(error) => assert!(began.elapsed() < DEADLINE, "node {index} does not start: {error}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn try_start(&self, index: usize) -> Result<Running, RunError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = self.config(index);
        let clock = self.clocks[index].clone();
        let started = runtime.spawn(async move {
            let listeners = Listeners::bind(&config).await?;
            let options = StoreOptions { log_tail_bytes: config.log_tail_bytes, ..StoreOptions::default() };
            Node::start(config, listeners, options, clock).await
        });
        match started.await.expect("starting does not panic") {
            Ok(node) => Ok(Running { runtime, node }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Starts a node that is expected to refuse to start, and returns its error.
    pub(crate) async fn refuses_to_start(&self, index: usize) -> RunError {
        match self.try_start(index).await {
            Ok(running) => {
                running.runtime.shutdown_background();
                panic!("node {index} started");
            }
            Err(error) => error,
        }
    }

    /// Waits until a running node fails, and returns the cause.
    pub(crate) async fn gives_up(&mut self, index: usize) -> RunError {
        let running = self.nodes[index].take().expect("the node runs");
        let error = within("the node gives up", running.node.failed()).await;
        running.runtime.shutdown_background();
        error
    }

    /// Ends a node abruptly, in the middle of its work.
    pub(crate) fn kill(&mut self, index: usize) {
        let running = self.nodes[index].take().expect("the node runs");
        running.runtime.shutdown_background();
        drop(running.node);
    }

    /// Drains a node and stops it, as SIGTERM does.
    pub(crate) async fn stop(&mut self, index: usize) {
        let running = self.nodes[index].take().expect("the node runs");
        let stopping = running.runtime.spawn(async move {
            running.node.drain().await;
            running.node.stop().await;
        });
        within("the node stops", stopping).await.expect("stopping does not panic");
        running.runtime.shutdown_background();
    }

    pub(crate) fn is_running(&self, index: usize) -> bool {
        self.nodes[index].is_some()
    }

    /// The client addresses of all nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    pub(crate) fn builder(&self, user: &str) -> Builder {
        self.at(self.addresses()).user(user).patience(DEADLINE)
    }

    /// Builds a client of these addresses.
    pub(crate) fn at(&self, addresses: Vec<String>) -> Builder {
        Client::builder().servers(addresses).network(self.net.clone())
    }

    pub(crate) async fn client(&self, user: &str) -> Client {
        self.builder(user).connect().await.expect("a session opens")
    }

    /// A node's view of the cluster.
    pub(crate) async fn status(&self, index: usize) -> Option<GetServerStatusResponse> {
        let observer = self.at(self.addresses()).observe().await.ok()?;
        observer.status_of(&self.members[index].client).await.ok()
    }

    /// The statuses of all nodes, requested through one of them.
    pub(crate) async fn statuses(&self, index: usize) -> Vec<NodeStatus> {
        let observer = self.at(vec![self.members[index].client.clone()]).observe().await;
        let Ok(observer) = observer else { return Vec::new() };
        observer.status().await.map(|status| status.nodes).unwrap_or_default()
    }

    /// Waits until every running node is ready and every shard has a leader.
    pub(crate) async fn settled(&self) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|index| self.is_running(*index)).collect();
        for index in running {
            eventually(&format!("node {index} is ready"), async || {
                self.http(index, "/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            })
            .await;
        }
        eventually("every shard has a leader", async || {
            let index = (0..self.nodes.len()).find(|index| self.is_running(*index)).expect("a node runs");
            let Some(status) = self.status(index).await else { return false };
            status.can_lose >= 0 && !status.problems.iter().any(|problem| problem.contains("no leader"))
        })
        .await;
    }

    /// The node that leads a shard.
    pub(crate) async fn leader_of(&self, shard: u32) -> usize {
        let mut leader = None;
        eventually("the shard has a leader that runs", async || {
            for index in (0..self.nodes.len()).filter(|index| self.is_running(*index)) {
                let Some(status) = self.status(index).await else { continue };
                let own = status.nodes.iter().find(|node| node.name == self.members[index].name);
                let leads =
                    own.into_iter().flat_map(|node| &node.shards).any(|s| s.shard == shard && s.role == 1);
                if leads {
                    leader = Some(index);
                    return true;
                }
            }
            false
        })
        .await;
        leader.expect("found above")
    }

    /// The term of a node's replica of a shard.
    pub(crate) async fn term_of(&self, index: usize, shard: u32) -> u64 {
        let mut term = None;
        eventually("the node reports the term of the shard", async || {
            let status = self.status(index).await;
            let own = status.and_then(|status| {
                status.nodes.into_iter().find(|node| node.name == self.members[index].name)
            });
            term = own.and_then(|node| node.shards.iter().find(|s| s.shard == shard).map(|s| s.term));
            term.is_some()
        })
        .await;
        term.expect("found above")
    }

    /// The shard of a room.
    pub(crate) async fn shard_of(&self, client: &Client, room: &str) -> u32 {
        let rooms = client.all_rooms().await.unwrap();
        rooms.iter().find(|known| known.name == room).expect("the room exists").shard
    }

    /// An HTTP response, head and body.
    pub(crate) async fn http(&self, index: usize, path: &str) -> Option<String> {
        let address: SocketAddr = self.members[index].http.parse().unwrap();
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.ok()?.ok()?;
        Some(answer)
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, index: usize, name: &str) -> f64 {
        let text = self.http(index, "/metrics").await.unwrap_or_default();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in self.nodes.drain(..).flatten() {
            running.runtime.shutdown_background();
        }
    }
}

/// Waits until a condition holds; panics with `what` after the deadline.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for a future; panics with `what` after the deadline.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// An unused address, below the ports that the system assigns to outgoing connections (from 32768 on Linux): a node
/// that is started later, or again, must find it free.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 100;
    let ports = std::iter::repeat_with(|| first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000);
    let addresses =
        ports.map(|port| SocketAddr::from(([127, 0, 0, 1], 12_000 + u16::try_from(port).unwrap())));
    let free = addresses.take(20_000).find(|address| TcpListener::bind(address).is_ok());
    free.expect("no port from 12000 to 31999 is free")
}

/// With `RUST_LOG` set, the nodes' logs go to the test's output.
fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    });
}
