//! Asks each name server on its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use conclave_client::Net;
use conclave_client::find::{Candidate, srv};
use futures::future::join_all;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::servers::page;
use crate::diagnosis::{HealthPage, NameServer, Service, Target, Zone};
use crate::http::Pages;

/// Timeout for one DNS query.
const PATIENCE: Duration = Duration::from_secs(1);
/// The largest datagram that is read, bytes; no name server sends a larger one.
const DATAGRAM_BYTES_MAX: usize = 4_096;
/// The port of a conclave name server's health page, unless it is two ports above its DNS port.
const HTTP_PORT: u16 = 7455;
const HTTP_OFFSET: u16 = 2;
const PORT_OF_DNS: u16 = 53;

/// Examines a zone, given the answers of its name servers for the service of clients. `usual` name servers are the
/// system's.
pub(super) async fn zone(
    pages: &Pages,
    zone: String,
    answers: Vec<srv::NameServerAnswer>,
    usual: bool,
) -> Zone {
    let name_servers =
        join_all(answers.into_iter().map(|answer| name_server(pages, &zone, answer, usual))).await;
    Zone { zone, name_servers }
}

async fn name_server(pages: &Pages, zone: &str, answer: srv::NameServerAnswer, usual: bool) -> NameServer {
    let address = answer.name_server;
    let mut found = NameServer {
        address,
        usual,
        took_us: u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX),
        error: None,
        serial: None,
        stale: None,
        services: Vec::new(),
        health: None,
    };
    let clients = match answer.result {
        Ok(service) => service.candidates,
        Err(why) => {
            found.error = Some(why);
            return found;
        }
    };
    let node = clients.iter().find(|target| !target.name.is_empty()).map(|target| target.name.clone());
    let (others, serial, stale, health) = futures::join!(
        join_all([srv::leader(zone), srv::peers(zone)].map(|name| service(address, name))),
        serial(address, zone),
        async { stale(address, zone, node.as_deref()?).await },
        health(pages, address),
    );
    found.services.push(targets(srv::clients(zone), Ok(clients)));
    found.services.extend(others);
    (found.serial, found.stale, found.health) = (serial, stale, health);
    found
}

async fn service(address: SocketAddr, name: String) -> Service {
    let answer = srv::ask(&Net::System, &[address], &name).await;
    targets(name, answer.map(|service| service.candidates).map_err(|notes| notes.join("; ")))
}

fn targets(name: String, found: Result<Vec<Candidate>, String>) -> Service {
    let target = |one: Candidate| Target {
        name: one.name,
        address: one.address,
        priority: one.priority,
        weight: one.weight,
    };
    match found {
        Ok(candidates) => {
            Service { name, targets: candidates.into_iter().map(target).collect(), error: None }
        }
        Err(error) => Service { name, targets: Vec::new(), error: Some(error) },
    }
}

/// The zone's serial at this name server.
async fn serial(address: SocketAddr, zone: &str) -> Option<u32> {
    let answers = ask(address, &format!("{zone}."), RecordType::SOA).await.ok()?;
    answers.iter().find_map(|data| if let RData::SOA(soa) = data { Some(soa.serial) } else { None })
}

/// Whether the name server reports that it is cut off from the servers; the TXT record of any node contains this.
async fn stale(address: SocketAddr, zone: &str, node: &str) -> Option<bool> {
    let answers = ask(address, &format!("{node}.node.{zone}."), RecordType::TXT).await.ok()?;
    let texts = answers
        .iter()
        .filter_map(|data| if let RData::TXT(text) = data { Some(&text.txt_data) } else { None });
    texts.flatten().find_map(|text| match &**text {
        b"stale=0" => Some(false),
        b"stale=1" => Some(true),
        _ => None,
    })
}

/// One query over UDP: both records that are queried fit into a datagram.
async fn ask(address: SocketAddr, name: &str, kind: RecordType) -> io::Result<Vec<RData>> {
    let other = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let name = Name::from_ascii(name).map_err(|error| other(error.to_string()))?;
    let mut question = Message::query();
    question.add_query(Query::query(name, kind));
    let id = question.metadata.id;
    let bytes = question.to_vec().map_err(|error| other(error.to_string()))?;
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(address).await?;
    socket.send(&bytes).await?;
    let answer = timeout(PATIENCE, async {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let length = socket.recv(&mut datagram).await?;
            match Message::from_vec(&datagram[..length]) {
                Ok(message) if message.metadata.id == id => return io::Result::Ok(message),
                _ => {}
            }
        }
    });
    let message = answer.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(message.answers.into_iter().map(|record| record.data).collect())
}

/// The health page of a conclave name server. Other name servers have none, which is no problem.
async fn health(pages: &Pages, address: SocketAddr) -> Option<HealthPage> {
    let port = match address.port() {
        PORT_OF_DNS => HTTP_PORT,
        port => port.checked_add(HTTP_OFFSET)?,
    };
    let page = page(pages, &SocketAddr::new(address.ip(), port).to_string()).await;
    (!page.unreachable).then_some(page)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{SOA, TXT};

    use super::*;

    /// A name server that answers two queries, each with a malformed datagram first and then correctly.
    async fn serve(socket: UdpSocket) {
        let mut datagram = [0; 512];
        for _ in 0..2 {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            let question = Message::from_vec(&datagram[..length]).unwrap();
            socket.send_to(b"rubbish", from).await.unwrap();
            let query = question.queries[0].clone();
            let data = match query.query_type() {
                RecordType::SOA => {
                    RData::SOA(SOA::new(query.name().clone(), query.name().clone(), 42, 60, 10, 100, 1))
                }
                _ => RData::TXT(TXT::new(vec!["id=1".into(), "stale=1".into()])),
            };
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(query.clone());
            answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn serial_and_staleness_are_read() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = tokio::spawn(serve(socket));
        assert_eq!(serial(address, "z").await, Some(42));
        assert_eq!(stale(address, "z", "n1").await, Some(true));
        server.await.unwrap();
        // The name server has stopped.
        assert_eq!(serial(address, "z").await, None);
    }
}
