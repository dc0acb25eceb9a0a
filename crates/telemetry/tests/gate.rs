//! Gates before the two kinds of servers that every process has: gRPC and the HTTP pages.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_net::{Entrance, Gate, GateLimits, Net};
use conclave_telemetry::calls::CallMetrics;
use conclave_telemetry::connections::ConnectionMetrics;
use conclave_telemetry::metrics::{Exposition, Maker};
use conclave_telemetry::web::{self, Check};
use conclave_telemetry::{grpc, web::Page};
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(100);
const LIMITS: GateLimits =
    GateLimits { connections: 8, per_address: 8, loopback: 8, first_request: NEVER, idle: NEVER };

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Waits until the other end closes the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = within("the connection is closed", stream.read_to_end(&mut rest)).await;
}

async fn entrance(make: &Maker, limits: GateLimits) -> (SocketAddr, Entrance) {
    let gate = Gate::new(limits, ConnectionMetrics::new(make).port("test"));
    let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let entrance = socket.gated(gate);
    (entrance.local_addr().unwrap(), entrance)
}

async fn grpc_server(limits: GateLimits) -> (SocketAddr, Exposition) {
    let make = Maker::new();
    let (address, entrance) = entrance(&make, limits).await;
    let (_, health) = tonic_health::server::health_reporter();
    let server = grpc::server().layer(CallMetrics::new(&make, &[])).add_service(health);
    tokio::spawn(server.serve_with_incoming(entrance.incoming()));
    (address, make.finish())
}

#[derive(Clone)]
struct NoPage;

impl Page for NoPage {
    fn alive(&self) -> Vec<Check> {
        Vec::new()
    }

    fn started(&self) -> Vec<Check> {
        Vec::new()
    }

    fn ready(&self) -> Vec<Check> {
        Vec::new()
    }

    fn metrics(&self) -> String {
        String::new()
    }
}

async fn pages(limits: GateLimits) -> (SocketAddr, Exposition) {
    let make = Maker::new();
    let (address, entrance) = entrance(&make, limits).await;
    tokio::spawn(web::serve(entrance, NoPage, CancellationToken::new()));
    (address, make.finish())
}

fn shows(exposition: &Exposition, line: &str) {
    let text = exposition.render();
    assert!(text.contains(line), "{line}: {text}");
}

#[tokio::test]
async fn grpc_connections_without_a_call_are_closed() {
    let (address, exposition) = grpc_server(GateLimits { first_request: SOON, ..LIMITS }).await;
    // Nothing; the preface of HTTP/2 and settings, which is no call; half a preface.
    for said in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"PRI * HT"] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(said).await.unwrap();
        closed(&mut silent).await;
    }
    shows(&exposition, "conclave_connections_closed_total{port=\"test\",why=\"silent\"} 3");
}

#[tokio::test]
async fn an_open_stream_keeps_its_connection_and_a_finished_call_does_not() {
    let (address, exposition) = grpc_server(GateLimits { idle: SOON, ..LIMITS }).await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut subscriber = HealthClient::new(endpoint.connect().await.unwrap());
    let ask = || HealthCheckRequest { service: String::new() };
    let mut watch = subscriber.watch(ask()).await.unwrap().into_inner();
    assert!(within("the first status", watch.message()).await.unwrap().is_some());
    let idle =
        |count: u32| format!("conclave_connections_closed_total{{port=\"test\",why=\"idle\"}} {count}");
    for count in 1..=3 {
        let mut once = HealthClient::new(endpoint.connect().await.unwrap());
        once.check(ask()).await.unwrap();
        let line = idle(count);
        let closed = async {
            while !exposition.render().contains(&line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("the idle connection is closed", closed).await;
    }
    // Another call on the same connection: it is still there after three idle times.
    subscriber.check(ask()).await.unwrap();
    shows(&exposition, &idle(3));
    drop(watch);
}

#[tokio::test]
async fn silent_grpc_connections_do_not_shut_out_a_client() {
    let (address, exposition) = grpc_server(LIMITS).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(within("a connection", endpoint.connect()).await.unwrap());
    let answer = client.check(HealthCheckRequest { service: String::new() });
    within("an answer", answer).await.unwrap();
    shows(&exposition, "conclave_connections{port=\"test\"} 8");
}

#[tokio::test]
async fn pages_are_served_and_half_requests_are_closed() {
    let (address, exposition) = pages(GateLimits { first_request: SOON, idle: SOON, ..LIMITS }).await;
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nX").await.unwrap();
    closed(&mut half).await;
    let mut whole = TcpStream::connect(address).await.unwrap();
    whole.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    // Without another request the connection ends, so this returns.
    let _ = within("a page", whole.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
    shows(&exposition, "conclave_connections_closed_total{port=\"test\",why=\"idle\"} 1");
    shows(&exposition, "conclave_connections_closed_total{port=\"test\",why=\"silent\"} 1");
}

#[tokio::test]
async fn an_answer_that_goes_on_keeps_its_connection() {
    let make = Maker::new();
    let (address, entrance) = entrance(&make, GateLimits { idle: SOON, ..LIMITS }).await;
    let goes_on = Arc::new(Notify::new());
    let waits = Arc::clone(&goes_on);
    let last = async move {
        waits.notified().await;
        Ok::<_, Infallible>("last\n")
    };
    let lines = futures::stream::iter([Ok("first\n")]).chain(futures::stream::once(last));
    let lines = Arc::new(Mutex::new(Some(Box::pin(lines))));
    let routes = axum::Router::new().route(
        "/",
        axum::routing::get(async move || {
            axum::body::Body::from_stream(lines.lock().unwrap().take().unwrap())
        }),
    );
    tokio::spawn(web::serve_routes(entrance, routes, CancellationToken::new()));
    let exposition = make.finish();
    let mut reader = TcpStream::connect(address).await.unwrap();
    reader.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"first\n") {
        answer.push(within("the first line", reader.read_u8()).await.unwrap());
    }
    // A connection that began later and has its answer is idle for too long now.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /nothing HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    closed(&mut idle).await;
    goes_on.notify_one();
    within("the rest", reader.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 200") && answer.ends_with(b"first\nlast\n"), "{answer:?}");
    shows(&exposition, "conclave_connections_closed_total{port=\"test\",why=\"idle\"} 1");
}

#[tokio::test]
async fn silent_connections_do_not_shut_out_a_probe() {
    let (address, _exposition) = pages(LIMITS).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut probe = TcpStream::connect(address).await.unwrap();
    probe.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("a page", probe.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
