//! A whole name server on loopback, and nodes that register with it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use conclave_dns::config::{Config, NameServer};
use conclave_dns::{DnsServer, Listeners};
use conclave_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use conclave_proto::admin::{
    DrainRequest, DrainResponse, LayoutRequest, LayoutResponse, RebalanceRequest, RebalanceResponse,
    RecordsRequest, RecordsResponse, StatusRequest, UndrainRequest, UndrainResponse,
};
use conclave_proto::chat::GetServerStatusResponse;
use conclave_proto::cluster::{NodeRecord, NodeRecords};
use conclave_proto::dns::dns_service_client::DnsServiceClient;
use conclave_proto::dns::{LookupRequest, LookupResponse, RegisterRequest, RegisterResponse};
use conclave_proto::mac::{NONCE_BYTES, RECORDS, REGISTER, Secret};
use futures::Stream;
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{IntervalStream, ReceiverStream, TcpListenerStream, WatchStream};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{node, question};

/// Timeout of every step: nothing on loopback takes this long.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two checks of a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) fn secret() -> Secret {
    Secret::new(b"the secret of the tests").unwrap()
}

/// All sockets on free ports of loopback, every optional feature off.
pub(crate) fn config() -> Config {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        zone: "conclave.internal".to_owned(),
        listen: vec![any],
        grpc_listen: any,
        http_listen: any,
        name_servers: vec![NameServer { name: "ns1".to_owned(), ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] }],
        secret: secret(),
        nodes: Vec::new(),
        transfer_to: Vec::new(),
        tls: None,
        insecure: false,
        forward_for: Vec::new(),
        forward_to: Vec::new(),
        export: None,
        admin_token: None,
        faults: None,
    }
}

pub(crate) async fn start(config: Config) -> DnsServer {
    let listeners = Listeners::bind(&config).await.unwrap();
    DnsServer::start(config, listeners).unwrap()
}

/// Awaits the future, and fails the test at [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

/// Waits until the condition holds, and fails the test at [`DEADLINE`].
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await;
}

/// The record of a healthy node.
pub(crate) fn record(id: u64, revision: u64) -> NodeRecord {
    NodeRecord { revision, ..node(id).record }
}

/// The answer to one question over UDP.
pub(crate) async fn ask(server: &DnsServer, name: &str, kind: RecordType) -> Message {
    ask_with(server, question(name, kind, Some(1_232))).await
}

/// The answer to this message over UDP.
pub(crate) async fn ask_with(server: &DnsServer, question: Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.addresses().dns[0]).await.unwrap();
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut answer = vec![0; 65_535];
    let length = within("an answer", socket.recv(&mut answer)).await.unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

/// The nodes of an SRV name, sorted.
pub(crate) async fn servers(server: &DnsServer, name: &str) -> Vec<String> {
    let answer = ask(server, &format!("{name}.conclave.internal."), RecordType::SRV).await;
    let mut servers: Vec<_> = answer
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::SRV(srv) => srv.target.to_ascii().split('.').next().unwrap().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    servers.sort();
    servers
}

pub(crate) async fn serial(server: &DnsServer) -> Option<u32> {
    let answer = ask(server, "conclave.internal.", RecordType::SOA).await;
    answer.answers.first().map(|record| match &record.data {
        RData::SOA(soa) => soa.serial,
        other => panic!("{other:?}"),
    })
}

pub(crate) async fn client(server: &DnsServer) -> DnsServiceClient<Channel> {
    let address = format!("http://{}", server.addresses().grpc);
    within("a connection", DnsServiceClient::connect(address)).await.unwrap()
}

pub(crate) async fn look_up(server: &DnsServer, name: &str) -> Result<LookupResponse, Status> {
    let request = LookupRequest { name: name.to_owned() };
    within("an answer", client(server).await.lookup(request)).await.map(Response::into_inner)
}

/// The status and the body of a page.
pub(crate) async fn page(server: &DnsServer, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.addresses().http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("a page", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// One registration stream.
#[derive(Debug)]
pub(crate) struct RegistrationStream {
    secret: Secret,
    requests: mpsc::Sender<RegisterRequest>,
    answers: Streaming<RegisterResponse>,
    pub(crate) hello: RegisterResponse,
    counter: u64,
}

impl RegistrationStream {
    pub(crate) async fn connect(server: &DnsServer, secret: Secret) -> Self {
        Self::open(client(server).await, secret).await.unwrap()
    }

    pub(crate) async fn open(mut client: DnsServiceClient<Channel>, secret: Secret) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(1);
        let answers = client.register(ReceiverStream::new(stream));
        let mut answers = within("a stream", answers).await?.into_inner();
        let hello = within("the nonce", answers.message()).await?.expect("a first message");
        assert_eq!(hello.nonce.len(), NONCE_BYTES);
        Ok(Self { secret, requests, answers, hello, counter: 0 })
    }

    /// The next message, with this record and its MAC.
    pub(crate) fn next_message(&mut self, record: &NodeRecord) -> RegisterRequest {
        self.counter += 1;
        let record = record.encode_to_vec();
        let mac = self.secret.sign(REGISTER, &self.hello.nonce, self.counter, &record);
        RegisterRequest { counter: self.counter, record, mac }
    }

    pub(crate) async fn send(&mut self, request: RegisterRequest) -> Result<RegisterResponse, Status> {
        self.requests.send(request).await.map_err(|_| Status::cancelled("the stream has ended"))?;
        within("an answer", self.answers.message()).await.map(|answer| answer.expect("an answer"))
    }

    pub(crate) async fn register(&mut self, record: &NodeRecord) -> Result<RegisterResponse, Status> {
        let request = self.next_message(record);
        self.send(request).await
    }
}

/// A node that registers and renews until it is dropped.
#[derive(Debug)]
pub(crate) struct RegisteredNode(JoinHandle<()>);

impl RegisteredNode {
    /// Returns when the node is registered.
    pub(crate) async fn start(server: &DnsServer, record: NodeRecord) -> Self {
        let mut stream = RegistrationStream::connect(server, secret()).await;
        let answer = stream.register(&record).await.unwrap();
        assert!(!answer.lapsed, "{answer:?}");
        Self(tokio::spawn(async move {
            let mut record = record;
            while let Ok(answer) = stream.register(&record).await {
                if answer.lapsed {
                    record.revision = answer.known_revision + 1;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }))
    }
}

impl Drop for RegisteredNode {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The part of a node that streams the records of all nodes.
#[derive(Debug)]
pub(crate) struct FakeNode {
    pub(crate) address: String,
    pub(crate) records: watch::Sender<BTreeMap<u64, NodeRecord>>,
    server: JoinHandle<()>,
}

impl FakeNode {
    pub(crate) async fn start(secret: Option<Secret>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let records = watch::Sender::new(BTreeMap::new());
        let service = AdminServiceServer::new(RecordsService { secret, records: records.subscribe() });
        let serve =
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self { address, records, server }
    }

    /// Sets the records that the node streams: its own and these.
    pub(crate) fn set_records(&self, id: u64, others: &[NodeRecord]) {
        let own = NodeRecord { client: self.address.clone(), ..record(id, 10) };
        let all = others.iter().cloned().chain([own]);
        self.records.send_replace(all.map(|record| (record.node_id, record)).collect());
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug)]
pub(crate) struct RecordsService {
    pub(crate) secret: Option<Secret>,
    pub(crate) records: watch::Receiver<BTreeMap<u64, NodeRecord>>,
}

#[tonic::async_trait]
impl AdminService for RecordsService {
    type RecordsStream = Pin<Box<dyn Stream<Item = Result<RecordsResponse, Status>> + Send>>;

    async fn records(
        &self,
        request: Request<RecordsRequest>,
    ) -> Result<Response<Self::RecordsStream>, Status> {
        let nonce = request.into_inner().nonce;
        assert_eq!(nonce.len(), NONCE_BYTES);
        let changes = WatchStream::new(self.records.clone()).map(drop);
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(300))).map(drop);
        let (records, secret) = (self.records.clone(), self.secret.clone());
        let mut counter = 0;
        // Aborting a server leaves its connections open, so the stream ends itself when the node is dropped.
        let told = changes.merge(ticks).map_while(move |()| {
            records.has_changed().ok()?;
            counter += 1;
            let records =
                NodeRecords { records: records.borrow().values().cloned().collect() }.encode_to_vec();
            let mac = secret.as_ref().map(|secret| secret.sign(RECORDS, &nonce, counter, &records));
            Some(Ok(RecordsResponse { counter, records, mac: mac.unwrap_or_default() }))
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<GetServerStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn layout(&self, _: Request<LayoutRequest>) -> Result<Response<LayoutResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn undrain(&self, _: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rebalance(&self, _: Request<RebalanceRequest>) -> Result<Response<RebalanceResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
