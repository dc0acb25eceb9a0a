//! Questions outside the zone: refused unless forwarding is configured, and then forwarded for configured networks
//! only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conclave_dns::DnsServer;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::nodes::{RegisteredNode, ask, ask_with, config, record, start, until};
use crate::support::{question, read_framed, write_framed};

/// A name server that questions are forwarded to.
#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// Answers each question with all of these messages over UDP, and with the last one over TCP.
    async fn start(answers: impl Fn(Message, bool) -> Vec<Message> + Clone + Send + Sync + 'static) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let (counter, over_tcp) = (Arc::clone(&asked), answers.clone());
        tasks.spawn(async move {
            let mut question = [0; 4_096];
            loop {
                let (length, client) = socket.recv_from(&mut question).await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                for answer in answers(Message::from_vec(&question[..length]).unwrap(), false) {
                    socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let question = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
                let answer = over_tcp(question, true).pop().unwrap();
                write_framed(&mut stream, &answer.to_vec().unwrap()).await;
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// An answer with `count` addresses.
fn answer(question: Message, count: u8) -> Message {
    let name = question.queries[0].name.clone();
    let mut answer = question.into_response();
    answer.metadata.recursion_available = true;
    answer.edns = None;
    for last in 0..count {
        answer.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, last))));
    }
    answer
}

async fn forwarding(servers: &[SocketAddr], network: &str) -> DnsServer {
    let mut config = config();
    config.forward_to = servers.to_vec();
    config.forward_for = vec![network.parse().unwrap()];
    start(config).await
}

async fn ask_outside(server: &DnsServer) -> Message {
    ask(server, "www.Example.org.", RecordType::A).await
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_outside_the_zone_are_forwarded_for_permitted_clients() {
    let upstream = Upstream::start(|question, _| vec![answer(question, 2)]).await;
    let server = forwarding(&[upstream.address], "127.0.0.0/8").await;
    let answer = ask_outside(&server).await;
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (4_711, ResponseCode::NoError));
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    assert_eq!(answer.answers.len(), 2);
    assert!(
        answer.queries[0].name.eq_case(&Name::from_ascii("www.Example.org.").unwrap()),
        "as it was asked"
    );
    assert_eq!(upstream.asked(), 1);

    // A question without "recursion desired" is not forwarded.
    let mut plain = question("www.example.org.", RecordType::A, None);
    plain.metadata.recursion_desired = false;
    assert_eq!(ask_with(&server, plain).await.metadata.response_code, ResponseCode::Refused);
    assert_eq!(upstream.asked(), 1);

    // Names of the zone are never forwarded, also while there is no zone yet.
    let own = ask(&server, "www.conclave.internal.", RecordType::A).await;
    assert_eq!(own.metadata.response_code, ResponseCode::ServFail);
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    let gone = async || ask(&server, "www.conclave.internal.", RecordType::A).await.metadata.response_code;
    until("the zone", async || gone().await == ResponseCode::NXDomain).await;
    assert_eq!(upstream.asked(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clients_are_refused() {
    let upstream = Upstream::start(|question, _| vec![answer(question, 2)]).await;
    for server in [start(config()).await, forwarding(&[upstream.address], "10.0.0.0/8").await] {
        let answer = ask_outside(&server).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert!(!answer.metadata.recursion_available);
        server.stop().await;
    }
    assert_eq!(upstream.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_match_are_ignored_and_truncated_ones_are_repeated_over_tcp() {
    let upstream = Upstream::start(|question, over_tcp| {
        if over_tcp {
            return vec![answer(question, 40)];
        }
        let mut other_id = answer(question.clone(), 1);
        other_id.metadata.id ^= 1;
        let mut other_question = answer(question.clone(), 1);
        other_question.queries[0].name = Name::from_ascii("elsewhere.example.org.").unwrap();
        let mut cut = answer(question.clone(), 0);
        cut.metadata.truncation = true;
        vec![other_id, other_question, question, cut]
    })
    .await;
    let server = forwarding(&[upstream.address], "127.0.0.0/8").await;
    let answer = ask_outside(&server).await;
    assert_eq!(
        (answer.metadata.response_code, answer.answers.len()),
        (ResponseCode::NoError, 40),
        "{answer}"
    );
    assert!(!answer.metadata.truncation);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_is_asked_when_one_is_silent_or_unreachable() {
    let silent = Upstream::start(|_, _| Vec::new()).await;
    let second = Upstream::start(|question, _| vec![answer(question, 1)]).await;
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = forwarding(&[dead, silent.address, second.address], "127.0.0.0/8").await;
    assert_eq!(ask_outside(&server).await.answers.len(), 1);
    assert_eq!(silent.asked(), 1);
    let text = server.metrics().render();
    for outcome in ["answered", "timeout", "failed"] {
        assert!(text.contains(&format!("conclave_dns_forwards_total{{outcome=\"{outcome}\"}} 1")), "{text}");
    }
    server.stop().await;
}
