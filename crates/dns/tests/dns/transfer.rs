//! Zone transfers, and replacing the zone under load.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::TcpStream;

use crate::conformance::ask;
use crate::support::{Server, ZONE, five, node, question, read_framed, write_framed, zone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_zone_is_served_whole() {
    let mut nodes: Vec<_> = (1..=64).map(node).collect();
    for (at, node) in nodes.iter_mut().enumerate() {
        node.record.name = format!("{}{at}", "a-long-name-of-a-node-".repeat(2));
        node.record.ips = (0..8).map(|ip| format!("fd00::{at:x}:{ip}")).collect();
        node.record.votes_in = (0..=64).collect();
    }
    let server = Server::start(Some(zone(42, nodes)), &["127.0.0.1/32"]).await;
    for name in ["_conclave._tcp", "_conclave-peer._tcp", "_conclave._tcp.shard-64.shard"] {
        let bytes = question(&format!("{name}.{ZONE}"), RecordType::SRV, Some(1_232)).to_vec().unwrap();
        let answer = Message::from_vec(&server.tcp(&bytes).await).unwrap();
        assert_eq!((answer.answers.len(), answer.additionals.len()), (64, 512), "{name}");
        assert!(!answer.metadata.truncation);
    }
    let records = transfer(&server, RecordType::AXFR, None).await;
    assert!(records.len() > 64 * 65, "{}", records.len());
    server.stop().await;
}

/// Every record of a transfer, which must begin and end with the SOA.
async fn transfer(server: &Server, kind: RecordType, since: Option<u32>) -> Vec<Record> {
    let mut message = question(ZONE, kind, Some(1_232));
    if let Some(serial) = since {
        let soa =
            Message::from_vec(&server.tcp(&question(ZONE, RecordType::SOA, None).to_vec().unwrap()).await);
        let mut soa = soa.unwrap().answers.remove(0);
        let RData::SOA(data) = &mut soa.data else { panic!("no SOA") };
        data.serial = serial;
        message.authorities.push(soa);
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    write_framed(&mut stream, &message.to_vec().unwrap()).await;
    let mut records: Vec<Record> = Vec::new();
    loop {
        let message = Message::from_vec(&read_framed(&mut stream).await.expect("a message")).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert!(message.metadata.authoritative && !message.metadata.truncation);
        records.extend(message.answers);
        let (first, last) = (&records[0], &records[records.len() - 1]);
        assert_eq!(first.record_type(), RecordType::SOA);
        // An IXFR answer of one SOA: nothing has changed.
        if (records.len() > 1 || since.is_some()) && last.record_type() == RecordType::SOA {
            return records;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zone_is_transferred_to_permitted_networks_only() {
    let server = Server::start(Some(zone(42, five())), &["192.0.2.0/24", "127.0.0.0/8"]).await;
    let records = transfer(&server, RecordType::AXFR, None).await;
    for name in ["n1.node", "_conclave._tcp", "_conclave-peer._tcp", "_services._dns-sd._udp", "ns1"] {
        let name = Name::from_ascii(format!("{name}.{ZONE}")).unwrap();
        assert!(records.iter().any(|record| record.name == name), "{name}");
    }
    let soas = records.iter().filter(|record| record.record_type() == RecordType::SOA).count();
    assert_eq!(soas, 2);
    // IXFR gets the whole zone, or only the SOA if the client is current (RFC 1995). Serials wrap around.
    assert_eq!(transfer(&server, RecordType::IXFR, Some(41)).await.len(), records.len());
    assert_eq!(transfer(&server, RecordType::IXFR, Some(u32::MAX)).await.len(), records.len());
    assert_eq!(transfer(&server, RecordType::IXFR, Some(42)).await.len(), 1);
    assert_eq!(transfer(&server, RecordType::IXFR, Some(43)).await.len(), 1);

    let code = async |name: &str, kind, udp: bool| {
        let bytes = question(name, kind, Some(1_232)).to_vec().unwrap();
        let answer = if udp { server.udp(&bytes).await } else { server.tcp(&bytes).await };
        let answer = Message::from_vec(&answer).unwrap();
        (answer.metadata.response_code, answer.answers.len())
    };
    assert_eq!(code(ZONE, RecordType::AXFR, true).await, (ResponseCode::Refused, 0));
    assert_eq!(code(ZONE, RecordType::IXFR, true).await, (ResponseCode::NoError, 1));
    assert_eq!(code("node.conclave.internal.", RecordType::AXFR, false).await, (ResponseCode::NotAuth, 0));
    server.stop().await;

    let server = Server::start(Some(zone(42, five())), &["192.0.2.0/24"]).await;
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        let answer = ask(&server, ZONE, kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::Refused, 0));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_the_zone_under_load_loses_no_answer() {
    const SWAPS: u32 = 300;
    let server = Server::start(Some(zone(1, five())), &[]).await;
    let bytes = question(ZONE, RecordType::SOA, None).to_vec().unwrap();
    let serial = async || {
        let answer = Message::from_vec(&server.udp(&bytes).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        let RData::SOA(soa) = &answer.answers[0].data else { panic!("no SOA") };
        soa.serial
    };
    let ask = async || {
        let mut last = 1;
        while last < SWAPS {
            let next = serial().await;
            assert!(next >= last, "from {last} back to {next}");
            last = next;
        }
    };
    let swap = async {
        for next in 2..=SWAPS {
            server.zone.store(Some(zone(next, five()).into()));
            assert_eq!(serial().await, next, "the new zone counts at once");
        }
    };
    tokio::join!(ask(), ask(), ask(), swap);
    server.stop().await;
}
