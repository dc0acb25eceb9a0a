//! A DNS server with a given zone on loopback, and questions to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use conclave_dns::handler::{CurrentZone, Handler, HandlerConfig, Sockets};
use conclave_dns::metrics::Metrics;
use conclave_dns::names::{NameServer, zone_name};
use conclave_dns::zone::{NodeView, Zone, ZoneInput};
use conclave_proto::cluster::{MemberRole, NodeRecord, ShardLead};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::sample::record;

/// Timeout of every step: nothing on loopback takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// A question is repeated after this time: a datagram may get lost even on loopback.
const RETRY: Duration = Duration::from_secs(2);

/// The zone's name as in messages, with the last dot.
pub(crate) const ZONE: &str = "conclave.internal.";

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) zone: CurrentZone,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(zone: Option<Zone>, transfer_to: &[&str]) -> Self {
        let current = CurrentZone::default();
        current.store(zone.map(Arc::new));
        let handler = Handler::new(HandlerConfig {
            name: zone_name("conclave.internal").unwrap(),
            zone: current.clone(),
            identity: "resolver-1".to_owned(),
            transfer_to: transfer_to.iter().map(|net| net.parse().unwrap()).collect(),
            forwarder: None,
            metrics: Arc::new(Metrics::new("conclave.internal")),
            faults: None,
        });
        let sockets = Sockets::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = sockets.addresses()[0];
        let stop = CancellationToken::new();
        let task = tokio::spawn(sockets.serve(Arc::new(handler), stop.clone()));
        Self { address, zone: current, stop, task }
    }

    /// Stops the server, and fails the test if a task panicked.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task).await.expect("it stops in time").expect("nothing panicked");
    }

    /// The answer to a datagram.
    pub(crate) async fn udp(&self, message: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        let mut answer = vec![0; 65_535];
        let ask = async {
            loop {
                socket.send(message).await.unwrap();
                if let Ok(length) = timeout(RETRY, socket.recv(&mut answer)).await {
                    return length.unwrap();
                }
            }
        };
        let length = timeout(DEADLINE, ask).await.expect("an answer in time");
        answer.truncate(length);
        answer
    }

    /// The answer on a new connection.
    pub(crate) async fn tcp(&self, message: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        write_framed(&mut stream, message).await;
        timeout(DEADLINE, read_framed(&mut stream)).await.expect("an answer in time").expect("an answer")
    }
}

pub(crate) async fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await.unwrap();
}

/// The next message; none if the connection was closed.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// A question as a resolver asks it: recursion desired, and EDNS with `size` if given.
pub(crate) fn question(name: &str, kind: RecordType, size: Option<u16>) -> Message {
    let mut message = Message::new(4_711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = size {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message
}

/// A healthy node; the first one leads the meta shard.
pub(crate) fn node(id: u64) -> NodeView {
    let leads = if id == 1 { vec![ShardLead { shard: 0, term: 7 }] } else { Vec::new() };
    NodeView { record: NodeRecord { leads, ..record(id) }, live: true }
}

/// A zone with two name servers and these nodes.
pub(crate) fn zone(serial: u32, nodes: Vec<NodeView>) -> Zone {
    let name_server =
        |name: &str, ip: &str| NameServer { name: name.to_owned(), ips: vec![ip.parse().unwrap()] };
    Zone::build(&ZoneInput {
        zone: zone_name("conclave.internal").unwrap(),
        name_servers: vec![name_server("ns1", "10.0.0.53"), name_server("ns2", "fd00::53")],
        nodes,
        stale: false,
        serial,
    })
}

/// Four live nodes (n1 leads the meta shard, n2 a shard, n3 is a learner, n4 drains), and n5, which is not live.
pub(crate) fn five() -> Vec<NodeView> {
    let mut nodes: Vec<_> = (1..=5).map(node).collect();
    nodes[2].record.set_role(MemberRole::Learner);
    nodes[2].record.votes_in.clear();
    (nodes[3].record.draining, nodes[3].record.ready) = (true, false);
    nodes[4].live = false;
    nodes[1].record.leads = vec![ShardLead { shard: 1, term: 3 }];
    nodes
}
