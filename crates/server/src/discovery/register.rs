//! Keeps this node registered with the name servers. Nothing waits for a registration: a name server that is slow,
//! gone or faulty costs the node only a task that retries.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_core::limits::{NODES_MAX, REGISTER_INTERVAL};
use conclave_net::Net;
use conclave_proto::dns::dns_service_client::DnsServiceClient;
use conclave_proto::dns::{RegisterRequest, RegisterResponse};
use conclave_proto::mac::{NONCE_BYTES, REGISTER, Secret};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::clock::Clock;
use crate::discovery::lookup::Lookup;
use crate::local::NodeInfo;
use crate::local::own_record::OwnRecord;
use crate::metrics::Metrics;
use crate::topology::Topology;

/// Deadline for connecting, and for each answer. Half a lease, so there is time for a second attempt.
const DEADLINE: Duration = Duration::from_secs(1);
/// Pause before the first retry; doubled with each further one.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Maximum size of an answer of a name server, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The registration of the node with one name server.
pub(crate) struct Registration {
    pub(crate) net: Net,
    /// `host:port` of the name server's gRPC API.
    pub(crate) resolver: String,
    pub(crate) node: Arc<NodeInfo>,
    /// Takes the hints of the name server.
    pub(crate) topology: Arc<Topology>,
    pub(crate) secret: Secret,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
}

/// Keeps the node registered with the name server, until the node stops.
pub(crate) async fn run(registration: Registration, stop: CancellationToken) {
    let Registration { net, resolver, node, topology, secret, metrics, clock } = registration;
    let registered = metrics.clients.registered.with_label_values(&[&resolver]);
    let failures = metrics.clients.register_failures.with_label_values(&[&resolver]);
    let mut lookup = Lookup::new(&resolver);
    let mut retry = RETRY_MIN;
    for attempt in 0.. {
        let said = async {
            let mut stream = Stream::open(&net, &mut lookup, attempt).await?;
            let result = stream.talk(&node.own, &topology, &secret, &clock, &registered).await;
            if registered.get() == 1 {
                retry = RETRY_MIN;
            }
            result
        };
        let ended: Result<std::convert::Infallible, Status> = tokio::select! {
            ended = said => ended,
            () = stop.cancelled() => return,
        };
        let Err(status) = ended;
        failures.inc();
        // Logged once, not for each attempt while a name server is down.
        if attempt == 0 || registered.get() == 1 {
            tracing::warn!(
                resolver,
                why = status.message(),
                "registration with the name server failed, retrying"
            );
        }
        registered.set(0);
        tokio::select! {
            () = tokio::time::sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
            () = stop.cancelled() => return,
        }
    }
}

/// One `Register` stream.
struct Stream {
    requests: mpsc::Sender<RegisterRequest>,
    answers: Streaming<RegisterResponse>,
    /// Nonce chosen by the name server.
    nonce: Vec<u8>,
    counter: u64,
}

impl Stream {
    /// Connects to one of the name server's addresses, another one on each attempt.
    async fn open(net: &Net, lookup: &mut Lookup, attempt: usize) -> Result<Self, Status> {
        let addresses = lookup.addresses(DEADLINE).await?;
        let address = addresses[attempt % addresses.len()];
        let unreachable = |error: tonic::transport::Error| Status::unavailable(format!("{address}: {error}"));
        let endpoint = net.endpoint(address).map_err(unreachable)?;
        let endpoint = endpoint.tcp_nodelay(true).connect_timeout(DEADLINE);
        let channel = net.channel(&endpoint, &address.to_string());
        let (requests, outgoing) = mpsc::channel(1);
        let mut client = DnsServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let named = |status: Status| Status::new(status.code(), format!("{address}: {}", status.message()));
        let answers =
            in_time(client.register(ReceiverStream::new(outgoing))).await.map_err(named)?.into_inner();
        let mut stream = Self { requests, answers, nonce: Vec::new(), counter: 0 };
        stream.nonce = stream.answer().await?.nonce;
        if stream.nonce.len() != NONCE_BYTES {
            return Err(Status::data_loss(format!("its nonce has {} bytes", stream.nonce.len())));
        }
        Ok(stream)
    }

    async fn answer(&mut self) -> Result<RegisterResponse, Status> {
        let answer = in_time(self.answers.message()).await?;
        answer.ok_or_else(|| Status::unavailable("the name server ended the stream"))
    }

    /// Sends the record periodically, and at once when it changes. Returns only with an error.
    async fn talk(
        &mut self,
        own: &OwnRecord,
        topology: &Topology,
        secret: &Secret,
        clock: &Clock,
        registered: &prometheus::IntGauge,
    ) -> Result<std::convert::Infallible, Status> {
        let mut records = own.subscribe();
        let mut ticks = tokio::time::interval(REGISTER_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // The sender lives as long as the node.
                _ = records.changed() => ticks.reset(),
            }
            let record = Arc::clone(&records.borrow_and_update());
            let content = record.encode_to_vec();
            self.counter += 1;
            let mac = secret.sign(REGISTER, &self.nonce, self.counter, &content);
            let request = RegisterRequest { counter: self.counter, record: content, mac };
            if self.requests.send(request).await.is_err() {
                // The answer carries the name server's verdict on the record.
                self.answer().await?;
                return Err(Status::unavailable("the name server closed the stream"));
            }
            let answer = self.answer().await?;
            registered.set(1);
            take_hints(topology, &answer);
            if answer.lapsed || answer.known_revision > record.revision {
                own.raise(answer.known_revision, clock.now_ms());
            }
        }
    }
}

/// Takes where the name server says that the other nodes are. A malformed address is skipped: nothing depends on a hint.
fn take_hints(topology: &Topology, answer: &RegisterResponse) {
    let now = Instant::now();
    for peer in answer.peers.iter().take(NODES_MAX) {
        if let Ok(address) = peer.address.parse() {
            topology.hinted(NodeId(peer.node_id), address, now);
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("the name server does not answer");
    tokio::time::timeout(DEADLINE, work).await.map_err(late)?
}
