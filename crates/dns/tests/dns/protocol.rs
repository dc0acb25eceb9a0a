//! Sizes, EDNS options, and malformed questions.

use conclave_dns::limits::{DNS_CONNECTIONS_LOOPBACK_MAX, DNS_CONNECTIONS_MAX};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DEADLINE, Server, ZONE, five, node, question, read_framed, write_framed, zone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_respect_size_limits_and_are_truncated_beyond_them() {
    let server = Server::start(Some(zone(42, (1..=60).map(node).collect())), &[]).await;
    let name = format!("_conclave._tcp.{ZONE}");
    for (size, opt) in [(None, 0), (Some(512), 11), (Some(1_232), 11), (Some(65_535), 11), (Some(0), 11)] {
        let bytes = question(&name, RecordType::SRV, size).to_vec().unwrap();
        let answer = server.udp(&bytes).await;
        assert_eq!(answer.len(), 12 + name.len() + 1 + 4 + opt, "{size:?}");
        let answer = Message::from_vec(&answer).unwrap();
        assert!(answer.metadata.truncation && answer.metadata.authoritative, "{size:?}");
        assert_eq!(answer.edns.is_some(), size.is_some(), "{size:?}");

        let answer = Message::from_vec(&server.tcp(&bytes).await).unwrap();
        assert!(!answer.metadata.truncation);
        assert_eq!((answer.answers.len(), answer.additionals.len()), (60, 120), "{size:?}");
    }
    // The answer fits without the addresses of its targets, so it is not truncated (RFC 2181).
    server.zone.store(Some(zone(43, (1..=20).map(node).collect()).into()));
    for (size, fits, glue) in [(None, false, 0), (Some(1_232), true, 0), (Some(4_096), true, 0)] {
        let bytes = question(&name, RecordType::SRV, size).to_vec().unwrap();
        let answer = Message::from_vec(&server.udp(&bytes).await).unwrap();
        assert_eq!(answer.metadata.truncation, !fits, "{size:?}");
        assert_eq!(answer.answers.len(), if fits { 20 } else { 0 }, "{size:?}");
        assert_eq!(answer.additionals.len(), glue, "{size:?}");
    }
    // Five nodes with all their addresses fit into 512 bytes.
    server.zone.store(Some(zone(44, (1..=5).map(node).collect()).into()));
    let bytes = question(&name, RecordType::SRV, None).to_vec().unwrap();
    let answer = server.udp(&bytes).await;
    assert!(answer.len() <= 512);
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((answer.answers.len(), answer.additionals.len()), (5, 10));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edns_version_and_nsid_are_answered() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    let mut message = question(ZONE, RecordType::SOA, Some(1_232));
    let edns = message.edns.as_mut().unwrap();
    edns.set_version(1);
    edns.set_dnssec_ok(true);
    let answer = Message::from_vec(&server.udp(&message.to_vec().unwrap()).await).unwrap();
    let edns = answer.edns.as_ref().expect("OPT");
    assert_eq!((edns.rcode_high(), edns.version(), edns.flags().dnssec_ok), (1, 0, true));
    assert!(answer.answers.is_empty());

    let mut message = question(ZONE, RecordType::SOA, Some(1_232));
    message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(3, Vec::new()));
    let answer = Message::from_vec(&server.udp(&message.to_vec().unwrap()).await).unwrap();
    let option = answer.edns.as_ref().unwrap().option(EdnsCode::NSID).cloned().expect("NSID");
    assert_eq!(Vec::<u8>::try_from(&option).unwrap(), b"resolver-1");
    assert_eq!(answer.answers.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_and_version_are_answered_in_class_ch() {
    let server = Server::start(None, &[]).await;
    let version = format!("conclave {}", conclave_core::version::VERSION);
    let rows = [
        ("id.server.", "resolver-1"),
        ("hostname.bind.", "resolver-1"),
        ("VERSION.bind.", version.as_str()),
        ("version.server.", version.as_str()),
    ];
    for (name, text) in rows {
        let mut message = question(name, RecordType::TXT, None);
        message.queries[0].query_class = DNSClass::CH;
        let answer = Message::from_vec(&server.udp(&message.to_vec().unwrap()).await).unwrap();
        assert_eq!(answer.answers.len(), 1, "{name}");
        assert_eq!(answer.answers[0].data.to_string().trim_matches('"'), text);
        assert_eq!((answer.answers[0].dns_class, answer.answers[0].ttl), (DNSClass::CH, 0));
    }
    for (name, class) in [("authors.bind.", DNSClass::CH), (ZONE, DNSClass::HS), (ZONE, DNSClass::ANY)] {
        let mut message = question(name, RecordType::TXT, None);
        message.queries[0].query_class = class;
        let answer = Message::from_vec(&server.udp(&message.to_vec().unwrap()).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name} {class}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_questions_get_an_error_and_responses_get_no_answer() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    for op_code in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut message = question(ZONE, RecordType::SOA, None);
        message.metadata.op_code = op_code;
        let answer = Message::from_vec(&server.udp(&message.to_vec().unwrap()).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NotImp, "{op_code}");
        assert_eq!(answer.metadata.op_code, op_code);
    }
    let bytes = question(ZONE, RecordType::SOA, Some(1_232)).to_vec().unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        bytes
    };
    let malformed = [
        ("no question", changed(5, 0)),
        ("two questions", changed(5, 2)),
        ("a record that is not there", changed(7, 1)),
        ("one OPT more than there is", changed(11, 2)),
        ("a name that points to itself", changed(12, 0xc0)),
        ("a label that is too long", changed(12, 64)),
        ("cut off", bytes[..bytes.len() - 1].to_vec()),
        ("something behind it", [&bytes[..], &[0]].concat()),
        ("only a header", bytes[..12].to_vec()),
        ("two OPT", {
            let mut two = [&bytes[..], &bytes[bytes.len() - 11..]].concat();
            two[11] = 2;
            two
        }),
    ];
    for (what, bytes) in malformed {
        for answer in [server.udp(&bytes).await, server.tcp(&bytes).await] {
            let answer = Message::from_vec(&answer).unwrap();
            assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{what}");
            assert_eq!(answer.metadata.id, 4_711, "{what}");
        }
    }
    // Responses and messages shorter than a header get no answer: the server closes the connection.
    for bytes in [changed(2, 0x80), bytes[..11].to_vec()] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        write_framed(&mut stream, &bytes).await;
        assert_eq!(read_framed(&mut stream).await, None, "{bytes:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_on_one_connection_are_answered_in_order() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for id in 0..500 {
        let mut message = question(&format!("n1.node.{ZONE}"), RecordType::A, None);
        message.metadata.id = id;
        write_framed(&mut stream, &message.to_vec().unwrap()).await;
    }
    for id in 0..500 {
        let answer = Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_shut_nobody_out_of_tcp() {
    let server = Server::start(Some(zone(42, vec![node(1)])), &[]).await;
    let mut silent = Vec::new();
    for _ in 0..2 * DNS_CONNECTIONS_MAX {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let bytes = question(&format!("_conclave._tcp.{ZONE}"), RecordType::SRV, None).to_vec().unwrap();
    let answer = Message::from_vec(&server.tcp(&bytes).await).unwrap();
    assert_eq!(answer.answers.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_take_all_connections() {
    let server = Server::start(Some(zone(42, vec![node(1)])), &[]).await;
    let bytes = question(&format!("_conclave._tcp.{ZONE}"), RecordType::SRV, None).to_vec().unwrap();
    let mut busy = Vec::new();
    // This machine's share, which leaves places for others; other addresses have a smaller one.
    const { assert!(DNS_CONNECTIONS_LOOPBACK_MAX < DNS_CONNECTIONS_MAX) };
    while busy.len() < DNS_CONNECTIONS_LOOPBACK_MAX {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        write_framed(&mut stream, &bytes).await;
        read_framed(&mut stream).await;
        busy.push(stream);
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    // It is closed without an answer, perhaps before the question is written.
    let _ = refused.write_all(&bytes).await;
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, refused.read_to_end(&mut rest)).await.expect("it is closed in time");
    assert_eq!(rest, b"");
    drop(busy);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let framed = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            let mut length = [0; 2];
            if stream.write_all(&framed).await.is_ok()
                && stream.write_all(&bytes).await.is_ok()
                && stream.read_exact(&mut length).await.is_ok()
            {
                return;
            }
        }
    };
    timeout(DEADLINE, again).await.expect("a place is free again");
    server.stop().await;
}
