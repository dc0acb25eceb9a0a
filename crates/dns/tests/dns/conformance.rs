//! Questions over real sockets, and the expected answers.

use conclave_proto::cluster::ShardLead;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Record, RecordType};

use crate::support::{Server, ZONE, five, node, question, zone};

/// The records as sorted text, without the zone's name.
fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| record.to_string().replace(".conclave.internal.", "").replace(ZONE, "@");
    let mut texts: Vec<_> = records.iter().map(text).collect();
    texts.sort();
    texts
}

/// Asks over UDP and TCP, which must answer the same.
pub(crate) async fn ask(server: &Server, name: &str, kind: RecordType) -> Message {
    let bytes = question(name, kind, Some(1_232)).to_vec().unwrap();
    let (udp, tcp) = (server.udp(&bytes).await, server.tcp(&bytes).await);
    assert_eq!(udp, tcp, "{name} {kind}");
    let answer = Message::from_vec(&udp).unwrap();
    assert_eq!(answer.metadata.id, 4_711);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert!(answer.metadata.recursion_desired && !answer.metadata.recursion_available, "{name} {kind}");
    assert!(!answer.metadata.truncation, "{name} {kind}");
    assert_eq!(answer.queries.len(), 1);
    assert_eq!(answer.edns.as_ref().map(|edns| (edns.version(), edns.max_payload())), Some((0, 1_232)));
    answer
}

struct Row {
    /// Below the zone's name.
    name: &'static str,
    kind: RecordType,
    answers: &'static [&'static str],
    additional: &'static [&'static str],
}

const GLUE_1: [&str; 2] = ["n1.node 2 IN A 10.0.0.1", "n1.node 2 IN AAAA fd00::1"];

const ROWS: &[Row] = &[
    Row {
        name: "",
        kind: RecordType::SOA,
        answers: &["@ 1 IN SOA ns1 hostmaster 42 60 10 86400 1"],
        additional: &[],
    },
    Row {
        name: "",
        kind: RecordType::NS,
        answers: &["@ 60 IN NS ns1", "@ 60 IN NS ns2"],
        additional: &["ns1 60 IN A 10.0.0.53", "ns2 60 IN AAAA fd00::53"],
    },
    Row { name: "ns1.", kind: RecordType::A, answers: &["ns1 60 IN A 10.0.0.53"], additional: &[] },
    Row {
        name: "_conclave._tcp.",
        kind: RecordType::SRV,
        answers: &[
            "_conclave._tcp 2 IN SRV 10 50 7400 n1.node",
            "_conclave._tcp 2 IN SRV 20 50 7400 n2.node",
            "_conclave._tcp 2 IN SRV 30 50 7400 n3.node",
            "_conclave._tcp 2 IN SRV 40 1 7400 n4.node",
        ],
        additional: &[
            GLUE_1[0],
            GLUE_1[1],
            "n2.node 2 IN A 10.0.0.2",
            "n2.node 2 IN AAAA fd00::2",
            "n3.node 2 IN A 10.0.0.3",
            "n3.node 2 IN AAAA fd00::3",
            "n4.node 2 IN A 10.0.0.4",
            "n4.node 2 IN AAAA fd00::4",
        ],
    },
    Row {
        name: "_conclave._tcp.leader.",
        kind: RecordType::SRV,
        answers: &["_conclave._tcp.leader 1 IN SRV 10 50 7400 n1.node"],
        additional: &GLUE_1,
    },
    Row {
        name: "_conclave._tcp.shard-0.shard.",
        kind: RecordType::SRV,
        answers: &[
            "_conclave._tcp.shard-0.shard 1 IN SRV 10 50 7400 n1.node",
            "_conclave._tcp.shard-0.shard 1 IN SRV 20 50 7400 n2.node",
            "_conclave._tcp.shard-0.shard 1 IN SRV 40 50 7400 n4.node",
        ],
        additional: &[
            GLUE_1[0],
            GLUE_1[1],
            "n2.node 2 IN A 10.0.0.2",
            "n2.node 2 IN AAAA fd00::2",
            "n4.node 2 IN A 10.0.0.4",
            "n4.node 2 IN AAAA fd00::4",
        ],
    },
    Row { name: "n5.node.", kind: RecordType::A, answers: &["n5.node 2 IN A 10.0.0.5"], additional: &[] },
    Row {
        name: "n5.node.",
        kind: RecordType::AAAA,
        answers: &["n5.node 2 IN AAAA fd00::5"],
        additional: &[],
    },
    Row {
        name: "_services._dns-sd._udp.",
        kind: RecordType::PTR,
        answers: &["_services._dns-sd._udp 60 IN PTR _conclave._tcp"],
        additional: &[],
    },
    Row {
        name: "n1._conclave._tcp.",
        kind: RecordType::SRV,
        answers: &["n1._conclave._tcp 2 IN SRV 0 0 7400 n1.node"],
        additional: &GLUE_1,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_served_with_its_additional_addresses() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    for row in ROWS {
        let answer = ask(&server, &format!("{}{ZONE}", row.name), row.kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{} {}", row.name, row.kind);
        assert!(answer.metadata.authoritative);
        assert_eq!(texts(&answer.answers), row.answers, "{} {}", row.name, row.kind);
        assert_eq!(texts(&answer.additionals), row.additional, "{} {}", row.name, row.kind);
        assert!(answer.authorities.is_empty());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_sets_txt_records_and_dns_sd_instances_are_served() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    for (set, port) in [("_conclave-peer", 7401), ("_conclave-metrics", 7480)] {
        let answer = ask(&server, &format!("{set}._tcp.{ZONE}"), RecordType::SRV).await;
        let expected: Vec<_> =
            (1..=5).map(|id| format!("{set}._tcp 10 IN SRV 10 1 {port} n{id}.node")).collect();
        assert_eq!(texts(&answer.answers), expected);
        assert_eq!(answer.additionals.len(), 10);
    }
    let answer = ask(&server, &format!("n4.node.{ZONE}"), RecordType::TXT).await;
    let text = answer.answers[0].data.to_string();
    for part in
        ["id=4", "version=0.1.0", "role=voter", "state=draining", "weight=50", "revision=104", "stale=0"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let answer = ask(&server, &format!("n5.node.{ZONE}"), RecordType::TXT).await;
    assert!(answer.answers[0].data.to_string().contains("state=silent"));

    let answer = ask(&server, &format!("_conclave._tcp.{ZONE}"), RecordType::PTR).await;
    let expected: Vec<_> =
        (1..=5).map(|id| format!("_conclave._tcp 60 IN PTR n{id}._conclave._tcp")).collect();
    assert_eq!(texts(&answer.answers), expected);
    assert_eq!(answer.additionals.len(), 10, "SRV and TXT of each instance");
    server.stop().await;
}

/// Each row is a name below the zone, a type and the expected code of a negative answer, which has the SOA for caching.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_names_are_nxdomain_and_names_without_such_records_are_nodata() {
    use ResponseCode::{NXDomain, NoError};
    let mut nodes = five();
    nodes[3].record.ips.retain(|ip| !ip.contains(':'));
    nodes[4].record.leads = vec![ShardLead { shard: 0, term: 9 }];
    nodes[4].record.votes_in = vec![6];
    let rows = [
        // The leader of the highest term is not live: an election.
        ("_conclave._tcp.leader.", RecordType::SRV, NoError),
        // A known shard without live voters.
        ("_conclave._tcp.shard-6.shard.", RecordType::SRV, NoError),
        ("_conclave._tcp.shard-7.shard.", RecordType::SRV, NXDomain),
        ("shard-7.shard.", RecordType::A, NXDomain),
        ("n4.node.", RecordType::AAAA, NoError),
        ("n4.node.", RecordType::MX, NoError),
        ("n4.node.", RecordType::Unknown(65_280), NoError),
        ("n9.node.", RecordType::A, NXDomain),
        ("x.n4.node.", RecordType::A, NXDomain),
        ("", RecordType::A, NoError),
        // Names that only have others below them (RFC 8020).
        ("_tcp.", RecordType::SRV, NoError),
        ("leader.", RecordType::A, NoError),
        ("_tcp.leader.", RecordType::A, NoError),
        ("node.", RecordType::A, NoError),
        ("shard.", RecordType::ANY, NoError),
        ("shard-1.shard.", RecordType::A, NoError),
        ("_udp.", RecordType::PTR, NoError),
        ("_dns-sd._udp.", RecordType::PTR, NoError),
        ("nothing.", RecordType::A, NXDomain),
    ];
    let server = Server::start(Some(zone(42, nodes)), &[]).await;
    for (name, kind, code) in rows {
        let answer = ask(&server, &format!("{name}{ZONE}"), kind).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.metadata.authoritative, "{name} {kind}");
        assert!(answer.answers.is_empty() && answer.additionals.is_empty(), "{name} {kind}");
        let soa = ["@ 1 IN SOA ns1 hostmaster 42 60 10 86400 1"];
        assert_eq!(texts(&answer.authorities), soa, "{name} {kind}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fixed_names_exist_without_any_node() {
    let server = Server::start(Some(zone(42, Vec::new())), &[]).await;
    for name in ["_conclave._tcp", "_conclave._tcp.leader", "_conclave-peer._tcp", "_conclave-metrics._tcp"] {
        let answer = ask(&server, &format!("{name}.{ZONE}"), RecordType::SRV).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(answer.answers.is_empty(), "{name}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_record_every_answer_is_servfail() {
    let server = Server::start(None, &["127.0.0.0/8"]).await;
    for (name, kind) in
        [(ZONE, RecordType::SOA), ("n1.node.conclave.internal.", RecordType::A), (ZONE, RecordType::AXFR)]
    {
        let answer = ask(&server, name, kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{name} {kind}");
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(
        ask(&server, "example.org.", RecordType::A).await.metadata.response_code,
        ResponseCode::Refused
    );

    server.zone.store(Some(zone(1, vec![node(1)]).into()));
    let answer = ask(&server, "n1.node.conclave.internal.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_outside_the_zone_are_refused() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    for name in [".", "internal.", "example.org.", "xconclave.internal.", "conclave.internal.example.org."] {
        for kind in [RecordType::A, RecordType::ANY, RecordType::AXFR] {
            let answer = ask(&server, name, kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name} {kind}");
            assert!(!answer.metadata.authoritative && answer.authorities.is_empty());
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_keeps_the_letter_case_of_the_question() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    let name = "_cOnClAvE._TcP.LeAdEr.CoNcLaVe.InTeRnAl.";
    let answer = ask(&server, name, RecordType::SRV).await;
    assert_eq!(answer.queries[0].name.to_ascii(), name);
    assert_eq!(answer.answers[0].name.to_ascii(), name);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_of_type_any_gets_the_smallest_record_set() {
    let server = Server::start(Some(zone(42, five())), &[]).await;
    for (name, kind, records) in [("", RecordType::NS, 2), ("n1.node.", RecordType::A, 1)] {
        let answer = ask(&server, &format!("{name}{ZONE}"), RecordType::ANY).await;
        let kinds: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
        assert_eq!(kinds, vec![kind; records], "{name}");
    }
    server.stop().await;
}
