//! Features that generic gRPC tools rely on: reflection and the standard health service.

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Cluster, within};

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
