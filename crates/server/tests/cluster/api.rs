//! Features that generic gRPC tools rely on: reflection and the standard health service.

use conclave_client::HistoryQuery;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Cluster, eventually, within};

const CHAT: &str = "conclave.chat.v1.ChatService";

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_answer() {
    let cluster = Cluster::start().await;
    let address = format!("http://{}", cluster.members()[0].client);
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await.unwrap();

    let mut health = HealthClient::new(channel.clone());
    let asked = HealthCheckRequest { service: CHAT.to_owned() };
    let answer = health.check(asked).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);

    let mut reflection = ServerReflectionClient::new(channel);
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(format!("{CHAT}.JoinChat"))),
    ];
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let listed = within("an answer", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = listed.message_response else {
        panic!("{listed:?}");
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for expected in [CHAT, "conclave.admin.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(names.contains(&expected), "{expected}: {names:?}");
    }
    let file = within("an answer", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = file.message_response else {
        panic!("{file:?}");
    };
    // The stream is described with its documented messages, not with the pre-encoded frames that the server sends.
    let text = files.file_descriptor_proto.concat();
    assert!(text.windows(11).any(|window| window == b"StreamFrame"));
    assert!(!text.windows(12).any(|window| window == b"EncodedFrame"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_both_grpc_ports_are_counted_and_failures_by_their_code() {
    let cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    client.create_room("general").await.unwrap();
    let missing = client.history(HistoryQuery::newest("missing", 1)).await;
    assert!(missing.is_err());
    let sum = async |name: &str, with: &str| {
        let mut sum = 0.0;
        for index in 0..3 {
            let text = cluster.http(index, "/metrics").await.unwrap_or_default();
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(with));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        sum
    };
    for (name, with) in [
        ("grpc_server_started_total{", "grpc_method=\"CreateRoom\""),
        ("grpc_server_handled_total{grpc_code=\"OK\"", "grpc_method=\"CreateRoom\""),
        ("grpc_server_handling_seconds_count{", "grpc_method=\"CreateRoom\""),
        ("grpc_server_handled_total{grpc_code=\"OK\"", "grpc_service=\"conclave.raft.v1.RaftService\""),
        ("conclave_call_failures_total{", "code=\"room_unknown\""),
    ] {
        eventually(&format!("{name} {with}"), async || sum(name, with).await >= 1.0).await;
    }
}
