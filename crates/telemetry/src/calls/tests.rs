use std::time::Duration;

use tokio::net::TcpListener;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::metrics::Exposition;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const CHAT: &str = "conclave.chat.v1.ChatService";

/// A server with gRPC's health service, and a channel to it.
async fn serve() -> (Exposition, Channel) {
    let make = Maker::new();
    let calls = CallMetrics::new(&make, &[CHAT]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(calls).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (make.finish(), endpoint.connect().await.unwrap())
}

fn count(exposition: &Exposition, metric: &str, kind: &str, method: &str, code: Option<&str>) -> Option<f64> {
    let text = exposition.render();
    let code = code.map(|code| format!("grpc_code=\"{code}\",")).unwrap_or_default();
    let series = format!(
        "{metric}{{{code}grpc_method=\"{method}\",grpc_service=\"grpc.health.v1.Health\",grpc_type=\"{kind}\"}} "
    );
    text.lines().find_map(|line| line.strip_prefix(&series)).map(|value| value.parse().unwrap())
}

/// Waits for a count: the client has its answer before the server has counted it.
async fn counted(exposition: &Exposition, kind: &str, method: &str, code: &str) {
    let counted = async {
        while count(exposition, "grpc_server_handled_total", kind, method, Some(code)) != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, counted).await.unwrap_or_else(|_| panic!("{}", exposition.render()));
}

#[tokio::test]
async fn calls_are_counted_with_the_code_of_their_trailers_or_headers() {
    let (exposition, channel) = serve().await;
    let started = |kind, method| count(&exposition, "grpc_server_started_total", kind, method, None);
    assert_eq!((started("unary", "Check"), started("server_stream", "Watch")), (Some(0.0), Some(0.0)));

    let mut client = HealthClient::new(channel);
    client.check(HealthCheckRequest { service: String::new() }).await.unwrap();
    counted(&exposition, "unary", "Check", "OK").await;
    let missing = client.check(HealthCheckRequest { service: "none".to_owned() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    counted(&exposition, "unary", "Check", "NotFound").await;
    assert_eq!(started("unary", "Check"), Some(2.0));
    assert_eq!(count(&exposition, "grpc_server_handling_seconds_count", "unary", "Check", None), Some(2.0));
}

#[tokio::test]
async fn a_stream_that_the_client_leaves_counts_as_canceled() {
    let (exposition, channel) = serve().await;
    let mut client = HealthClient::new(channel);
    let mut watch = client.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let handled = count(&exposition, "grpc_server_handled_total", "server_stream", "Watch", Some("Canceled"));
    assert_eq!(handled, None, "the stream is open");
    drop(watch);
    counted(&exposition, "server_stream", "Watch", "Canceled").await;
}

#[tokio::test]
async fn paths_of_no_method_share_one_label_value() {
    let (exposition, channel) = serve().await;
    for path in ["/a.Made/Up", "/conclave.chat.v1.ChatService/Made", "/x"] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = client.unary(tonic::Request::new(()), PathAndQuery::from_static(path), codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
    let text = exposition.render();
    let unknown =
        r#"grpc_server_started_total{grpc_method="unknown",grpc_service="unknown",grpc_type="unknown"} 3"#;
    assert!(text.contains(unknown), "{text}");
    assert!(!text.contains("Made"), "{text}");
}

#[test]
fn methods_and_their_types_come_from_the_descriptors() {
    let methods = methods(CHAT);
    for expected in [("Ping", "unary"), ("JoinChat", "server_stream"), ("SendMessages", "bidi_stream")] {
        assert!(methods.contains(&(expected.0.to_owned(), expected.1)), "{methods:?}");
    }
}
