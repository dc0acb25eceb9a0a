//! Forwards questions outside the zone to the site's own name servers: for clients in configured networks only, and off
//! unless configured.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::limits::{FORWARD_TIMEOUT, FORWARDS_IN_FLIGHT_MAX};
use crate::metrics::Metrics;

/// Largest answer that a name server may send over UDP, bytes: fits into one packet on any link.
const UDP_BYTES_MAX: u16 = 1_232;

/// Forwards questions.
#[derive(Debug)]
pub struct Forwarder {
    clients: Vec<IpNet>,
    servers: Vec<SocketAddr>,
    in_flight: Semaphore,
    metrics: Arc<Metrics>,
}

/// Why a question has no answer. The client gets SERVFAIL.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Too many forwarded questions are in flight.
    #[error("{FORWARDS_IN_FLIGHT_MAX} forwarded questions are in flight already")]
    Busy,
    /// None of the name servers answered.
    #[error("no name server answered")]
    Silent,
}

/// Why a name server gave no valid answer.
#[derive(Debug, thiserror::Error)]
enum UpstreamError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("no answer within {FORWARD_TIMEOUT:?}")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Encode(#[from] hickory_proto::ProtoError),
    #[error("the answer cannot be decoded: {0}")]
    Decode(#[from] hickory_proto::serialize::binary::DecodeError),
    #[error("the answer is to another question")]
    OtherQuestion,
}

impl Forwarder {
    /// Forwards questions of clients in these networks to these servers, in this order. `None` if either list is empty.
    #[must_use]
    pub fn new(clients: Vec<IpNet>, servers: Vec<SocketAddr>, metrics: Arc<Metrics>) -> Option<Self> {
        let in_flight = Semaphore::new(FORWARDS_IN_FLIGHT_MAX);
        (!clients.is_empty() && !servers.is_empty()).then_some(Self { clients, servers, in_flight, metrics })
    }

    /// Whether this client's questions are forwarded. Questions of the servers that we forward to are not: they would
    /// loop.
    #[must_use]
    pub fn serves(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let comes_back = !client.is_loopback() && self.servers.iter().any(|server| server.ip() == client);
        !comes_back && self.clients.iter().any(|net| net.contains(&client))
    }

    /// Asks each server for at most [`FORWARD_TIMEOUT`] until one answers. Code, records and the AD flag are that
    /// server's; the message id is not the client's.
    ///
    /// # Errors
    /// If no server answered, or too many questions are in flight.
    pub async fn forward(&self, query: &Query, dnssec_ok: bool) -> Result<Message, ForwardError> {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            self.metrics.forwards.with_label_values(&["busy"]).inc();
            return Err(ForwardError::Busy);
        };
        for server in &self.servers {
            match timeout(FORWARD_TIMEOUT, query_upstream(*server, query, dnssec_ok))
                .await
                .map_err(UpstreamError::from)
                .flatten()
            {
                Ok(answer) => {
                    self.metrics.forwards.with_label_values(&["answered"]).inc();
                    return Ok(answer);
                }
                Err(error) => {
                    let outcome =
                        if matches!(error, UpstreamError::Timeout(_)) { "timeout" } else { "failed" };
                    self.metrics.forwards.with_label_values(&[outcome]).inc();
                    tracing::debug!(%server, %error, "forwarded question not answered");
                }
            }
        }
        Err(ForwardError::Silent)
    }
}

/// Asks one server over UDP, and over TCP if the answer is truncated.
async fn query_upstream(
    server: SocketAddr,
    query: &Query,
    dnssec_ok: bool,
) -> Result<Message, UpstreamError> {
    let mut question = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(dnssec_ok);
    question.set_edns(edns);
    let bytes = question.to_vec()?;
    let answer = query_udp(server, &question, &bytes).await?;
    if answer.metadata.truncation { query_tcp(server, &question, &bytes).await } else { Ok(answer) }
}

async fn query_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, UpstreamError> {
    let local: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    // One socket for each question: its random port makes forging hard, and only packets of this server arrive.
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; UDP_BYTES_MAX as usize];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // A message that does not match the question is forged or late: keep waiting.
        if let Ok(answer) = matching_answer(question, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn query_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> Result<Message, UpstreamError> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| UpstreamError::OtherQuestion)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    matching_answer(question, &answer)
}

/// Decodes an answer and checks that it matches the question: id, name, type and class.
fn matching_answer(question: &Message, bytes: &[u8]) -> Result<Message, UpstreamError> {
    let answer = Message::from_vec(bytes)?;
    let asked = |message: &Message| {
        message.queries.first().map(|query| (query.name.to_lowercase(), query.query_type, query.query_class))
    };
    let ours = answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query
        && answer.metadata.id == question.metadata.id
        && answer.queries.len() == 1
        && asked(&answer) == asked(question);
    if ours { Ok(answer) } else { Err(UpstreamError::OtherQuestion) }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn forwarder(servers: &[&str]) -> Forwarder {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        let clients = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        Forwarder::new(clients, servers, Arc::new(Metrics::new("test"))).unwrap()
    }

    #[test]
    fn only_configured_networks_are_served_and_never_the_upstream_servers() {
        let forwarder = forwarder(&["10.0.0.53:53", "127.0.0.11:53"]);
        for (client, served) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::1", true),
            ("11.0.0.1", false),
            ("127.0.0.1", false),
            ("10.0.0.53", false),
        ] {
            assert_eq!(forwarder.serves(client.parse().unwrap()), served, "{client}");
        }
        let none =
            |clients, servers| Forwarder::new(clients, servers, Arc::new(Metrics::new("test"))).is_none();
        assert!(none(Vec::new(), forwarder.servers.clone()) && none(forwarder.clients.clone(), Vec::new()));
    }

    #[tokio::test]
    async fn questions_in_flight_are_bounded_and_more_fail_at_once() {
        let forwarder = forwarder(&["127.0.0.1:9"]);
        let permits =
            forwarder.in_flight.try_acquire_many(FORWARDS_IN_FLIGHT_MAX.try_into().unwrap()).unwrap();
        let query = Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::A);
        assert!(matches!(forwarder.forward(&query, false).await, Err(ForwardError::Busy)));
        drop(permits);
        assert!(
            matches!(forwarder.forward(&query, false).await, Err(ForwardError::Silent)),
            "nobody listens there"
        );
        assert_eq!(forwarder.in_flight.available_permits(), FORWARDS_IN_FLIGHT_MAX);
    }
}
