//! `DNSService`: registration and lookups over gRPC.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_net::{Gate, GateLimits, Identity, Peer, Ticket};
use conclave_proto::cluster::NodeRecord;
use conclave_proto::dns::dns_service_server::{DnsService, DnsServiceServer};
use conclave_proto::dns::{
    LookupRequest, LookupResponse, PeerAddress, RegisterRequest, RegisterResponse, Target,
};
use conclave_proto::mac::{NONCE_BYTES, REGISTER, Secret};
use futures::Stream;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::limits::{
    LOOKUP_WATCHES_MAX, REGISTER_IDLE_MAX, REGISTER_LEASE, REGISTER_LOG_INTERVAL, REGISTER_MESSAGE_BYTES_MAX,
    REGISTER_PROOF_MAX, REGISTER_STREAMS_MAX, REGISTER_UNPROVEN_MAX, REGISTER_UNPROVEN_PER_ADDRESS_MAX,
};
use crate::metrics::Metrics;
use crate::node_table::RecordSource;
use crate::registry::Registry;
use crate::zone::{self, Zone};

/// The gRPC service.
#[derive(Debug)]
pub(crate) struct RegistryService {
    zone: String,
    secret: Secret,
    /// Whether nodes that use TLS must prove which node they are.
    tls: bool,
    registry: Registry,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
    registrations: Arc<Semaphore>,
    /// The registration streams that have not shown the secret yet. They are bounded as silent connections are: a new
    /// one takes the place of the oldest.
    unproven: Gate,
    watches: Arc<Semaphore>,
    log: Arc<RegistrationLog>,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl RegistryService {
    pub(crate) fn new(
        zone: String,
        secret: Secret,
        tls: bool,
        registry: Registry,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let [registrations, watches] =
            [REGISTER_STREAMS_MAX, LOOKUP_WATCHES_MAX].map(|most| Arc::new(Semaphore::new(most)));
        let limits = GateLimits {
            connections: REGISTER_UNPROVEN_MAX,
            per_address: REGISTER_UNPROVEN_PER_ADDRESS_MAX,
            loopback: REGISTER_UNPROVEN_MAX,
            first_request: REGISTER_PROOF_MAX,
            idle: REGISTER_IDLE_MAX,
        };
        let unproven = Gate::new(limits, Arc::new(()));
        let log = Arc::default();
        Self { zone, secret, tls, registry, metrics, tasks, stop, registrations, unproven, watches, log }
    }

    /// The node that the caller's certificate names; `None` without TLS, which the listener refuses unless it is accepted.
    fn proved_node(&self, peer: &Peer) -> Result<Option<u64>, Status> {
        match peer.identity {
            Identity::Node(id) => Ok(Some(id)),
            _ if !self.tls || !peer.encrypted => Ok(None),
            found => Err(Status::permission_denied(format!(
                "only a node may register, with its own certificate, and the caller is {found}"
            ))),
        }
    }

    pub(crate) fn server(self) -> DnsServiceServer<Self> {
        DnsServiceServer::new(self).max_decoding_message_size(REGISTER_MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl DnsService for RegistryService {
    type RegisterStream = ResponseStream<RegisterResponse>;
    type WatchStream = ResponseStream<LookupResponse>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no address"))?;
        let from = peer.address.ip();
        let node = self.proved_node(peer)?;
        let unproven = self.unproven.admit(from).map_err(|_| {
            Status::resource_exhausted("too many registrations are under way; try again in a second")
        })?;
        // Each message gets one answer, so at most one waits beside the one in flight.
        let (answers, stream) = mpsc::channel(1);
        let registration = Registration {
            from,
            node,
            nonce: rand::random(),
            secret: self.secret.clone(),
            zone: self.zone.clone(),
            registry: self.registry.clone(),
            metrics: Arc::clone(&self.metrics),
            answers,
            registrations: Arc::clone(&self.registrations),
            log: Arc::clone(&self.log),
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(registration.run(unproven, request.into_inner())).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        let zone = self.registry.zones().borrow().clone();
        let zone =
            zone.ok_or_else(|| Status::unavailable("no node has registered yet; ask again in a second"))?;
        look_up(&zone, &self.zone, &request.into_inner().name).map(Response::new)
    }

    async fn watch(&self, request: Request<LookupRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let permit = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{LOOKUP_WATCHES_MAX} watches are open, the maximum; use another name server"
            ))
        })?;
        let (answers, stream) = mpsc::channel(1);
        let name = request.into_inner().name;
        let (mut zones, zone_name, stop) = (self.registry.zones(), self.zone.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = answers.closed() => {}
                () = send_changes(&mut zones, &zone_name, &name, &answers) => {}
            }
            drop(permit);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Sends the answer, and again whenever it changes. Changes that happen while the client reads slowly are merged.
async fn send_changes(
    zones: &mut watch::Receiver<Option<Arc<Zone>>>,
    zone_name: &str,
    name: &str,
    answers: &mpsc::Sender<Result<LookupResponse, Status>>,
) {
    let mut sent = None;
    loop {
        let zone = zones.borrow_and_update().clone();
        if let Some(zone) = zone {
            let answer = look_up(&zone, zone_name, name);
            let targets = answer.as_ref().ok().map(|answer| (answer.targets.clone(), answer.stale));
            let ends = answer.is_err();
            // A new serial alone is not a change of the answer.
            let changed = sent.is_none() || sent != targets;
            if (changed && answers.send(answer).await.is_err()) || ends {
                return;
            }
            sent = targets;
        }
        if zones.changed().await.is_err() {
            return;
        }
    }
}

fn look_up(zone: &Zone, zone_name: &str, name: &str) -> Result<LookupResponse, Status> {
    let targets = zone.targets(name).ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        Status::not_found(format!(
            "no server set is named {name:?}: ask for \"\", \"leader\", \"shard-<n>\", \"peers\", \"metrics\" or a node's name"
        ))
    })?;
    let target = |target: &zone::Target| Target {
        node: target.node.clone(),
        node_id: target.node_id,
        host: target.host.clone(),
        ips: target.ips.iter().map(IpAddr::to_string).collect(),
        port: target.port.into(),
        priority: target.priority.into(),
        weight: target.weight.into(),
    };
    Ok(LookupResponse {
        zone: zone_name.to_owned(),
        serial: zone.serial(),
        stale: zone.stale(),
        targets: targets.iter().map(target).collect(),
    })
}

/// One node's registration stream.
struct Registration {
    from: IpAddr,
    /// The node that the caller has proved to be; `None` without TLS.
    node: Option<u64>,
    nonce: [u8; NONCE_BYTES],
    secret: Secret,
    zone: String,
    registry: Registry,
    metrics: Arc<Metrics>,
    answers: mpsc::Sender<Result<RegisterResponse, Status>>,
    registrations: Arc<Semaphore>,
    log: Arc<RegistrationLog>,
}

impl Registration {
    /// Serves the stream until the node ends it, sends something invalid, or falls silent.
    async fn run(self, unproven: Ticket, requests: Streaming<RegisterRequest>) {
        self.metrics.register_streams.inc();
        if let Err(status) = self.serve(unproven, requests).await {
            self.log.ended(self.from, status.message());
            // The node may be gone, or not read.
            let _ = timeout(REGISTER_LEASE, self.answers.send(Err(status))).await;
        }
        self.metrics.register_streams.dec();
    }

    async fn serve(&self, unproven: Ticket, mut requests: Streaming<RegisterRequest>) -> Result<(), Status> {
        let nonce = self.nonce.to_vec();
        self.answer(RegisterResponse { nonce, ..RegisterResponse::default() }).await?;
        let first = tokio::select! {
            biased;
            () = unproven.displaced() => {
                return Err(Status::resource_exhausted("another registration took the place of this one; try again"));
            }
            first = self.next(&mut requests, REGISTER_PROOF_MAX) => first?,
        };
        let Some(first) = first else { return Ok(()) };
        let record = self.verified_record(1, &first)?;
        let _registered = Arc::clone(&self.registrations).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{REGISTER_STREAMS_MAX} streams are open, the maximum; use another name server"
            ))
        })?;
        drop(unproven);
        self.merge(record).await?;
        for counter in 2.. {
            let Some(request) = self.next(&mut requests, REGISTER_IDLE_MAX).await? else { break };
            let record = self.verified_record(counter, &request)?;
            self.merge(record).await?;
        }
        Ok(())
    }

    /// The next message; `None` when the stream has ended.
    async fn next(
        &self,
        requests: &mut Streaming<RegisterRequest>,
        patience: Duration,
    ) -> Result<Option<RegisterRequest>, Status> {
        match timeout(patience, requests.message()).await {
            Ok(Ok(request)) => Ok(request),
            Ok(Err(why)) => {
                // A broken connection is not logged: the end of the lease is. If the message was too long, the node
                // learns it from this answer.
                let _ = self.answers.try_send(Err(why));
                Ok(None)
            }
            Err(_) => {
                self.count("idle");
                Err(Status::deadline_exceeded(format!("no message within {patience:?}")))
            }
        }
    }

    /// Merges a record into the node table, and answers.
    async fn merge(&self, record: NodeRecord) -> Result<(), Status> {
        let heard = self.registry.merge(record, RecordSource::Itself(Some(self.from))).await;
        let heard = heard.map_err(|stopped| Status::unavailable(stopped.to_string()))?.map_err(|why| {
            self.count("refused");
            Status::invalid_argument(why.to_string())
        })?;
        let (known_revision, lapsed) = (heard.outcome.known_revision, heard.outcome.lapsed);
        self.count(if lapsed { "lapsed" } else { "accepted" });
        let peer =
            |(node_id, address): (u64, SocketAddr)| PeerAddress { node_id, address: address.to_string() };
        let peers = heard.peers.into_iter().map(peer).collect();
        self.answer(RegisterResponse { known_revision, lapsed, peers, ..RegisterResponse::default() }).await
    }

    /// The record of a message whose MAC is valid for this position in this stream.
    fn verified_record(&self, counter: u64, request: &RegisterRequest) -> Result<NodeRecord, Status> {
        if request.counter != counter {
            self.count("replayed");
            return Err(Status::unauthenticated(format!(
                "message {} arrived instead of message {counter} of this stream",
                request.counter
            )));
        }
        if !self.secret.verify(REGISTER, &self.nonce, counter, &request.record, &request.mac) {
            self.count("bad_mac");
            return Err(Status::unauthenticated(
                "the secrets differ, or the message was recorded from another stream: give the node and the name server \
                 the same secret file",
            ));
        }
        let record = NodeRecord::decode(request.record.as_slice()).map_err(|error| {
            self.count("refused");
            Status::invalid_argument(format!("the record cannot be decoded: {error}"))
        })?;
        if let Some(node) = self.node.filter(|node| *node != record.node_id) {
            self.count("refused");
            let found = record.node_id;
            return Err(Status::permission_denied(format!(
                "the certificate is that of node {node}, and the record that of node {found}"
            )));
        }
        Ok(record)
    }

    async fn answer(&self, answer: RegisterResponse) -> Result<(), Status> {
        let lease_ms = u32::try_from(REGISTER_LEASE.as_millis()).unwrap_or(u32::MAX);
        let answer = RegisterResponse { lease_ms, zone: self.zone.clone(), ..answer };
        match timeout(REGISTER_IDLE_MAX, self.answers.send(Ok(answer))).await {
            Ok(sent) => sent.map_err(|_| Status::cancelled("the node is gone")),
            Err(_) => Err(Status::deadline_exceeded("the node does not read its answers")),
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.registrations.with_label_values(&[outcome]).inc();
    }
}

/// Logs streams that ended with an error, at a bounded rate: strangers may open as many as they like.
#[derive(Debug, Default)]
struct RegistrationLog(Mutex<LogState>);

#[derive(Debug, Default)]
struct LogState {
    last: Option<Instant>,
    unlogged: u64,
}

impl RegistrationLog {
    fn ended(&self, from: IpAddr, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < REGISTER_LOG_INTERVAL) {
            state.unlogged += 1;
            return;
        }
        let unlogged = std::mem::take(&mut state.unlogged);
        state.last = Some(Instant::now());
        drop(state);
        tracing::warn!(%from, why, unlogged, "node registration ended");
    }
}
