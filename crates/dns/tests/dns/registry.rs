//! From a registration to an answer: leases, MACs, and records that nodes report of each other.

use std::time::Instant;

use conclave_dns::limits::{REGISTER_LEASE, REGISTER_STREAMS_MAX, REGISTER_UNPROVEN_MAX};
use conclave_dns::{Listeners, RunError};
use conclave_proto::dns::{LookupRequest, RegisterResponse};
use conclave_proto::mac::Secret;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::nodes::{
    FakeNode, RegisteredNode, RegistrationStream, ask, client, config, look_up, page, record, secret, serial,
    servers, start, until, within,
};

const HEALTHY: &str = "_conclave._tcp";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_registration_makes_the_zone() {
    let server = start(config()).await;
    let answer = ask(&server, "_conclave._tcp.conclave.internal.", RecordType::SRV).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "NXDOMAIN would be cached");
    assert_eq!(look_up(&server, "").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(page(&server, "/livez").await, (200, "ok\n".to_owned()));
    let (status, body) = page(&server, "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "[+] dns_served\n[-] view\nnot ok\n"));

    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    until("an answer", async || servers(&server, HEALTHY).await == ["n1"]).await;
    assert_eq!(servers(&server, "_conclave._tcp.leader").await, ["n1"]);
    assert_eq!(page(&server, "/readyz").await.0, 200);

    let leader = look_up(&server, "leader").await.unwrap();
    assert_eq!((leader.zone.as_str(), leader.stale), ("conclave.internal", false));
    assert_eq!(Some(leader.serial), serial(&server).await);
    let target = &leader.targets[0];
    assert_eq!((target.node.as_str(), target.node_id, target.port), ("n1", 1, 7400));
    assert_eq!(target.host, "n1.node.conclave.internal");
    assert_eq!(target.ips, ["10.0.0.1", "fd00::1"]);
    let whole = look_up(&server, "_conclave._tcp.leader.conclave.internal").await.unwrap();
    assert_eq!(whole.targets, leader.targets);
    assert_eq!(look_up(&server, "nobody").await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_leaves_after_its_lease_and_needs_a_higher_revision_to_return() {
    let server = start(config()).await;
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    let _n2 = RegisteredNode::start(&server, record(2, 10)).await;
    let mut n3 = RegistrationStream::connect(&server, secret()).await;
    assert_eq!((n3.hello.lease_ms, n3.hello.zone.as_str()), (2_000, "conclave.internal"));
    let mut changes = client(&server).await.watch(LookupRequest::default()).await.unwrap().into_inner();
    let mut next = async || within("a change", changes.message()).await.unwrap().unwrap().targets.len();
    // The second node may be published a few milliseconds after the first.
    while next().await != 2 {}

    let silent = Instant::now();
    let answer = n3.register(&record(3, 10)).await.unwrap();
    assert_eq!((answer.known_revision, answer.lapsed), (10, false));
    while next().await != 3 {}
    // If the machine stalls for longer than a lease, all nodes are kept until some renew.
    while next().await != 2 {}
    let gone = silent.elapsed();
    println!("a silent node left after {gone:?}");
    assert!(gone >= REGISTER_LEASE, "it has a lease: {gone:?}");
    until("it has left", async || servers(&server, HEALTHY).await == ["n1", "n2"]).await;
    assert_eq!(servers(&server, "_conclave-peer._tcp").await, ["n1", "n2", "n3"], "still a member");

    let before = serial(&server).await.unwrap();
    let lapsed = RegisterResponse { known_revision: 10, lapsed: true, ..n3.hello.clone() };
    let answer = n3.register(&record(3, 10)).await.unwrap();
    assert_eq!(answer.peers.iter().map(|peer| peer.node_id).collect::<Vec<_>>(), [1, 2], "the live nodes");
    assert_eq!(answer, RegisterResponse { nonce: Vec::new(), peers: answer.peers.clone(), ..lapsed });
    assert!(!n3.register(&record(3, 11)).await.unwrap().lapsed);
    while next().await != 3 {}
    assert!(serial(&server).await.unwrap().wrapping_sub(before) < 1 << 31, "forwards");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_need_a_valid_mac_and_cannot_be_replayed() {
    let server = start(config()).await;
    let mut stranger =
        RegistrationStream::connect(&server, Secret::new(b"another secret altogether").unwrap()).await;
    let why = stranger.register(&record(1, 10)).await.unwrap_err();
    assert_eq!(why.code(), Code::Unauthenticated);
    assert!(why.message().contains("the secrets differ"), "{why}");

    // A recorded message cannot be replayed, neither in another stream nor in the same one.
    let mut n1 = RegistrationStream::connect(&server, secret()).await;
    let recorded = n1.next_message(&record(1, 10));
    let mut other = RegistrationStream::connect(&server, secret()).await;
    assert_ne!(n1.hello.nonce, other.hello.nonce);
    let why = other.send(recorded.clone()).await.unwrap_err();
    assert_eq!(why.code(), Code::Unauthenticated);
    assert_eq!(look_up(&server, "").await.unwrap_err().code(), Code::Unavailable, "no record was accepted");
    n1.send(recorded.clone()).await.unwrap();
    let why = n1.send(recorded).await.unwrap_err();
    assert_eq!(why.code(), Code::Unauthenticated);
    assert!(why.message().contains("message 1 arrived instead of message 2"), "{why}");

    // A record with a valid MAC may still be invalid; a message that is too long is not decoded.
    let mut n2 = RegistrationStream::connect(&server, secret()).await;
    let mut bad = record(2, 10);
    bad.name = "N 2".to_owned();
    let why = n2.register(&bad).await.unwrap_err();
    assert_eq!(why.code(), Code::InvalidArgument);
    assert!(why.message().contains("1 to 63 of a-z"), "{why}");
    let mut n2 = RegistrationStream::connect(&server, secret()).await;
    bad.name = "n".repeat(20_000);
    assert!(n2.register(&bad).await.is_err());
    let mut foreign = record(3, 10);
    foreign.cluster_id = "f".repeat(32);
    let why = RegistrationStream::connect(&server, secret()).await.register(&foreign).await.unwrap_err();
    assert!(why.message().contains("of the cluster"), "{why}");
    assert_eq!(servers(&server, "_conclave-peer._tcp").await, ["n1"]);

    let text = server.metrics().render();
    for line in [
        "conclave_dns_registrations_total{outcome=\"bad_mac\"} 2",
        "conclave_dns_registrations_total{outcome=\"replayed\"} 1",
        "conclave_dns_registrations_total{outcome=\"refused\"} 2",
        "conclave_dns_registrations_total{outcome=\"accepted\"} 1",
        "grpc_server_started_total{grpc_method=\"Register\",grpc_service=\"conclave.dns.v1.DNSService\"",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_never_show_the_secret_cannot_keep_a_node_out() {
    let server = start(config()).await;
    let mut client = client(&server).await;
    let mut strangers = Vec::new();
    for _ in 0..2 * REGISTER_UNPROVEN_MAX {
        // Dropping the sender ends the stream.
        let (hold, requests) = tokio::sync::mpsc::channel(1);
        let answers = within("a nonce", client.register(ReceiverStream::new(requests))).await.unwrap();
        strangers.push((hold, answers.into_inner()));
    }
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    until("the node is known", async || servers(&server, HEALTHY).await == ["n1"]).await;
    // The oldest stream lost its place, and says so.
    let (_hold, first) = &mut strangers[0];
    let ended = async {
        loop {
            if let Err(why) = first.message().await {
                return why;
            }
        }
    };
    assert_eq!(within("the end of the first stream", ended).await.code(), Code::ResourceExhausted);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_streams_of_nodes_are_bounded() {
    let server = start(config()).await;
    let mut open = Vec::new();
    for _ in 0..REGISTER_STREAMS_MAX {
        let mut stream = RegistrationStream::connect(&server, secret()).await;
        stream.register(&record(1, 10)).await.unwrap();
        open.push(stream);
    }
    let mut more = RegistrationStream::connect(&server, secret()).await;
    let why = more.register(&record(1, 10)).await.unwrap_err();
    assert_eq!(why.code(), Code::ResourceExhausted);
    assert!(why.message().contains("256 streams are open"), "{why}");
    open.pop();
    let again =
        async || RegistrationStream::connect(&server, secret()).await.register(&record(1, 10)).await.is_ok();
    until("a place", again).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_addresses_gets_the_sender_address() {
    let server = start(config()).await;
    let mut bare = record(1, 10);
    bare.ips.clear();
    RegistrationStream::connect(&server, secret()).await.register(&bare).await.unwrap();
    let answer = ask(&server, "n1.node.conclave.internal.", RecordType::A).await;
    let RData::A(address) = &answer.answers[0].data else { panic!("{answer}") };
    assert_eq!(address.to_string(), "127.0.0.1");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_name_servers_have_the_same_serial_for_the_same_records() {
    let (a, b) = (start(config()).await, start(config()).await);
    let mut streams = Vec::new();
    for (server, order) in [(&a, [1, 2, 3]), (&b, [3, 1, 2])] {
        for id in order {
            let mut stream = RegistrationStream::connect(server, secret()).await;
            stream.register(&record(id, 100 * id)).await.unwrap();
            streams.push(stream);
        }
    }
    until("the same serial", async || serial(&a).await == serial(&b).await).await;
    assert_eq!(servers(&a, HEALTHY).await, servers(&b, HEALTHY).await);
    streams[0].register(&record(1, 101)).await.unwrap();
    until("another serial", async || serial(&a).await != serial(&b).await).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_cut_off_serves_the_last_known_records_as_stale() {
    let server = start(config()).await;
    let mut streams = Vec::new();
    for id in 1..=3 {
        let mut stream = RegistrationStream::connect(&server, secret()).await;
        stream.register(&record(id, 10)).await.unwrap();
        streams.push(stream);
    }
    let mut changes = client(&server).await.watch(LookupRequest::default()).await.unwrap().into_inner();
    let mut sizes = Vec::new();
    let stale = loop {
        let change = within("staleness", changes.message()).await.unwrap().unwrap();
        sizes.push(change.targets.len());
        if change.stale {
            break change;
        }
    };
    // Nodes are added one after the other (some steps may be merged), and none is removed.
    assert!(sizes.is_sorted(), "no node was removed in between: {sizes:?}");
    assert_eq!(stale.targets.len(), 3);
    assert_eq!(servers(&server, HEALTHY).await, ["n1", "n2", "n3"]);
    assert!(page(&server, "/metrics").await.1.contains("conclave_dns_stale 1"));

    assert!(streams[0].register(&record(1, 10)).await.unwrap().lapsed, "it was the first to fall silent");
    for (id, stream) in (1..).zip(&mut streams) {
        assert!(!stream.register(&record(id, 11)).await.unwrap().lapsed);
    }
    let fresh = loop {
        let change = within("freshness", changes.message()).await.unwrap().unwrap();
        if !change.stale {
            break change;
        }
    };
    assert_eq!(fresh.targets.len(), 3);
    assert!(fresh.serial.wrapping_sub(stale.serial) < 1 << 31, "forwards");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_streamed_from_nodes_and_a_dead_node_is_replaced() {
    let (first, second) = (FakeNode::start(Some(secret())).await, FakeNode::start(Some(secret())).await);
    let wrong_secret = FakeNode::start(Some(Secret::new(b"another secret altogether").unwrap())).await;
    let no_secret = FakeNode::start(None).await;
    first.set_records(1, &[record(3, 10)]);
    wrong_secret.set_records(7, &[]);
    no_secret.set_records(8, &[]);
    let mut config = config();
    config.nodes = vec![first.address.clone(), wrong_secret.address.clone(), no_secret.address.clone()];
    let server = start(config).await;

    until("what the first node knows", async || {
        servers(&server, "_conclave-peer._tcp").await == ["n1", "n3"]
    })
    .await;
    assert_eq!(servers(&server, HEALTHY).await, ["n1"], "a lease needs the node's own message");

    // A second node registers, so it can be watched, too.
    let n2 = conclave_proto::cluster::NodeRecord { client: second.address.clone(), ..record(2, 10) };
    let _n2 = RegisteredNode::start(&server, n2).await;
    second.set_records(2, &[record(3, 11), record(4, 10)]);
    until("what the second one knows", async || servers(&server, "_conclave-peer._tcp").await.len() == 4)
        .await;
    until("two tellers", async || server.metrics().render().contains("conclave_dns_records_watched 2")).await;

    drop(first);
    until("the first one's end", async || servers(&server, HEALTHY).await == ["n2"]).await;
    second.set_records(2, &[record(5, 10)]);
    until("news of the second", async || servers(&server, "_conclave-peer._tcp").await.len() == 5).await;
    let members = servers(&server, "_conclave-peer._tcp").await;
    assert_eq!(
        members,
        ["n1", "n2", "n3", "n4", "n5"],
        "neither the node with the wrong secret nor the one without"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reflection_and_metrics_are_served() {
    let server = start(config()).await;
    let address = format!("http://{}", server.addresses().grpc);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut status = async || {
        let asked = HealthCheckRequest { service: "conclave.dns.v1.DNSService".to_owned() };
        within("an answer", health.check(asked)).await.unwrap().into_inner().status()
    };
    assert_eq!(status().await, ServingStatus::NotServing);
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    until("health", async || status().await == ServingStatus::Serving).await;

    let ask_list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter([ask_list])).await.unwrap().into_inner();
    let listed = within("an answer", answers.message()).await.unwrap().unwrap();
    assert!(format!("{listed:?}").contains("conclave.dns.v1.DNSService"), "{listed:?}");

    servers(&server, HEALTHY).await;
    let (status, text) = page(&server, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "conclave_dns_queries_total{proto=\"udp\",rcode=\"NOERROR\",type=\"SRV\"} 1",
        "conclave_dns_zones_published_total 1",
        "conclave_dns_nodes{state=\"live\"} 1",
        "conclave_dns_stale 0",
        "conclave_dns_register_streams 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_reported_and_a_stop_releases_all_addresses() {
    let server = start(config()).await;
    let _n1 = RegisteredNode::start(&server, record(1, 10)).await;
    let addresses = server.addresses().clone();
    let mut same = config();
    same.listen.clone_from(&addresses.dns);
    let why = Listeners::bind(&same).await.unwrap_err();
    assert!(matches!(why, RunError::Listen { purpose: "DNS", .. }));
    let why = why.to_string();
    assert!(why.contains(&addresses.dns[0].to_string()) && why.contains("choose another port"), "{why}");
    (same.listen, same.grpc_listen) = (config().listen, addresses.grpc);
    assert!(Listeners::bind(&same).await.unwrap_err().to_string().contains("registrations"));

    server.stop().await;
    (same.listen, same.http_listen) = (addresses.dns, addresses.http);
    within("the ports", Listeners::bind(&same)).await.unwrap();
}
