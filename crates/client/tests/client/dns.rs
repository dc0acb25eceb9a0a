//! A name server for tests: one zone of SRV records, with faults to inject.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// One SRV record of every service, and the address of its target.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) target: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

pub(crate) fn entry(target: &'static str, address: &str) -> Entry {
    Entry { target, address: address.parse().unwrap(), priority: 10, weight: 50 }
}

#[derive(Default)]
pub(crate) struct Zone {
    pub(crate) entries: Vec<Entry>,
    pub(crate) ttl: u32,
    /// Answers every query with this code.
    pub(crate) code: Option<ResponseCode>,
    pub(crate) silent: bool,
    pub(crate) delay: Duration,
    pub(crate) without_glue: bool,
    /// Truncates answers over UDP, so that the client uses TCP.
    pub(crate) truncated: bool,
    /// The number of queries by type.
    pub(crate) asked: HashMap<RecordType, u32>,
}

/// A running name server. Dropping it stops it.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    pub(crate) zone: Arc<Mutex<Zone>>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    pub(crate) async fn start(entries: Vec<Entry>) -> Self {
        let zone = Arc::new(Mutex::new(Zone { entries, ttl: 1, ..Zone::default() }));
        // UDP must use the same port as TCP: take a free TCP port, then try to bind it for UDP.
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(socket, Arc::clone(&zone)));
        tasks.spawn(serve_tcp(listener, Arc::clone(&zone)));
        Self { address, zone, _tasks: tasks }
    }

    pub(crate) async fn silent() -> Self {
        let server = Self::start(Vec::new()).await;
        server.set(|zone| zone.silent = true);
        server
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.lock().unwrap());
    }

    pub(crate) fn asked(&self, kind: RecordType) -> u32 {
        self.zone.lock().unwrap().asked.get(&kind).copied().unwrap_or(0)
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let delay = zone.lock().unwrap().delay;
        tokio::time::sleep(delay).await;
        let reply = answer(&zone, &buffer[..len], true);
        if let Some(reply) = reply {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        // Serving one connection at a time is enough here; an error only ends the connection.
        let _ = converse(&mut stream, &zone).await;
    }
}

async fn converse(stream: &mut TcpStream, zone: &Mutex<Zone>) -> std::io::Result<()> {
    loop {
        let len = stream.read_u16().await?;
        let mut question = vec![0; len.into()];
        stream.read_exact(&mut question).await?;
        let Some(reply) = answer(zone, &question, false) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).unwrap()).await?;
        stream.write_all(&reply).await?;
    }
}

fn answer(zone: &Mutex<Zone>, question: &[u8], udp: bool) -> Option<Vec<u8>> {
    let mut zone = zone.lock().unwrap();
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    *zone.asked.entry(query.query_type()).or_default() += 1;
    if zone.silent {
        return None;
    }
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.add_query(query.clone());
    reply.metadata.response_code = zone.code.unwrap_or(ResponseCode::NoError);
    if zone.code.is_some() {
        return reply.to_vec().ok();
    }
    if udp && zone.truncated {
        reply.metadata.truncation = true;
        return reply.to_vec().ok();
    }
    for entry in &zone.entries {
        let target = Name::from_ascii(entry.target).unwrap();
        let Ok(ip) = entry.address.ip().to_string().parse::<Ipv4Addr>() else { continue };
        let address = Record::from_rdata(target.clone(), zone.ttl, RData::A(A(ip)));
        match query.query_type() {
            RecordType::SRV => {
                let srv = SRV::new(entry.priority, entry.weight, entry.address.port(), target);
                reply.add_answer(Record::from_rdata(query.name().clone(), zone.ttl, RData::SRV(srv)));
                if !zone.without_glue {
                    reply.add_additional(address);
                }
            }
            RecordType::A if *query.name() == target => {
                reply.add_answer(address);
            }
            _ => {}
        }
    }
    reply.to_vec().ok()
}
