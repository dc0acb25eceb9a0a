//! Gates in front of real sockets of this machine.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_net::{Closed, Entrance, Farewells, Gate, GateLimits, GateObserver, Net, Refused};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(50);
const LIMITS: GateLimits =
    GateLimits { connections: 1_000, per_address: 1_000, loopback: 1_000, first_request: NEVER, idle: NEVER };

#[derive(Debug, Default)]
struct Seen {
    open: AtomicUsize,
    most: AtomicUsize,
    refused: Mutex<Vec<Refused>>,
    closed: Mutex<Vec<Closed>>,
    received: AtomicUsize,
    sent: AtomicUsize,
}

impl GateObserver for Seen {
    fn open(&self, connections: usize) {
        self.open.store(connections, Ordering::SeqCst);
        self.most.fetch_max(connections, Ordering::SeqCst);
    }

    fn refused(&self, why: Refused) {
        self.refused.lock().unwrap().push(why);
    }

    fn closed(&self, why: Closed) {
        self.closed.lock().unwrap().push(why);
    }

    fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Ordering::SeqCst);
    }

    fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// A server of one-byte calls. The call `h` is never answered, and stays open; any other is echoed.
async fn serve(limits: GateLimits) -> (SocketAddr, Arc<Seen>) {
    serve_with(limits, |entrance| entrance).await
}

async fn serve_with(
    limits: GateLimits,
    change: impl FnOnce(Entrance) -> Entrance,
) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let gate = Gate::new(limits, Arc::clone(&seen) as Arc<dyn GateObserver>);
    let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let entrance = change(socket.gated(gate));
    let address = entrance.local_addr().unwrap();
    tokio::spawn(run(entrance));
    (address, seen)
}

async fn run(mut entrance: Entrance) {
    while let Some(mut gated) = entrance.accept().await {
        tokio::spawn(async move {
            let mut held = Vec::new();
            let mut call = [0];
            while let Ok(1) = gated.read(&mut call).await {
                let in_use = gated.peer().usage.begin();
                if call == *b"h" {
                    held.push(in_use);
                } else if gated.write_all(&call).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn call(stream: &mut TcpStream, what: u8) -> bool {
    let mut answer = [0];
    stream.write_all(&[what]).await.is_ok()
        && within("an answer", stream.read_exact(&mut answer)).await.is_ok()
        && answer == [what]
}

/// Waits until the other end closes the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = within("the connection is closed", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_connection_that_makes_no_request_is_closed() {
    let (address, seen) = serve(GateLimits { first_request: SOON, ..LIMITS }).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    closed(&mut silent).await;
    assert_eq!(*seen.closed.lock().unwrap(), [Closed::Silent]);
}

#[tokio::test]
async fn bytes_in_both_directions_are_counted() {
    let (address, seen) = serve(LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..7 {
        assert!(call(&mut stream, b'a').await);
    }
    stream.write_all(b"h").await.unwrap();
    stream.shutdown().await.unwrap();
    closed(&mut stream).await;
    assert_eq!(seen.received.load(Ordering::SeqCst), 8, "the last request is never answered");
    assert_eq!(seen.sent.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_an_open_call_is_not() {
    let (address, seen) = serve(GateLimits { first_request: NEVER, idle: SOON, ..LIMITS }).await;
    let mut subscriber = TcpStream::connect(address).await.unwrap();
    subscriber.write_all(b"h").await.unwrap();
    for _ in 0..5 {
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(call(&mut idle, b'a').await);
        closed(&mut idle).await;
    }
    assert_eq!(*seen.closed.lock().unwrap(), [Closed::Idle; 5]);
    assert!(call(&mut subscriber, b'a').await, "the open call outlived five idle times");
}

#[tokio::test]
async fn silent_connections_do_not_shut_out_one_that_speaks() {
    let (address, seen) = serve(GateLimits { connections: 16, ..LIMITS }).await;
    let mut good = TcpStream::connect(address).await.unwrap();
    assert!(call(&mut good, b'a').await);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut late = TcpStream::connect(address).await.unwrap();
    assert!(call(&mut late, b'b').await);
    assert!(call(&mut good, b'c').await, "a connection that spoke keeps its place");
    assert!(seen.most.load(Ordering::SeqCst) <= 16);
    assert!(seen.closed.lock().unwrap().iter().all(|why| *why == Closed::Displaced));
    closed(&mut silent[0]).await;
    drop((silent, good, late));
    let empty = async {
        while seen.open.load(Ordering::SeqCst) != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("all places are given back", empty).await;
}

#[tokio::test]
async fn a_full_gate_closes_new_connections_at_once() {
    let (address, seen) = serve(GateLimits { connections: 2, ..LIMITS }).await;
    let mut held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    for one in &mut held {
        assert!(call(one, b'a').await);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    closed(&mut third).await;
    assert_eq!(*seen.refused.lock().unwrap(), [Refused::Full]);
    drop(held);
    let again = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if call(&mut stream, b'b').await {
                return;
            }
        }
    };
    within("a place is free again", again).await;
}

#[tokio::test]
async fn a_client_that_is_not_let_in_is_told_why() {
    let refusal = |what: &str| {
        let mut status = Status::unavailable(what);
        status.metadata_mut().insert("conclave-code", "too_many_connections".parse().unwrap());
        status.into_http::<()>().into_parts().0.headers
    };
    // Longer than the prefix of a length in HPACK.
    let long = "full ".repeat(60);
    for (limits, told) in [
        (GateLimits { connections: 1, loopback: 1, ..LIMITS }, &*long),
        (GateLimits { loopback: 1, ..LIMITS }, "one address"),
    ] {
        let farewells = Farewells { full: refusal(&long), address: refusal("one address") };
        let (address, _) = serve_with(limits, |entrance| entrance.answering(farewells)).await;
        let mut held = TcpStream::connect(address).await.unwrap();
        assert!(call(&mut held, b'a').await);
        for _ in 0..3 {
            let endpoint = Net::System.endpoint(address).unwrap();
            let mut client = HealthClient::new(Net::System.channel(&endpoint, &address.to_string()));
            let asked = within("an answer", client.check(HealthCheckRequest::default())).await;
            let status = asked.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::Unavailable, told), "{status:?}");
            assert_eq!(status.metadata().get("conclave-code").unwrap(), "too_many_connections");
        }
        let mut tls = TcpStream::connect(address).await.unwrap();
        tls.write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.unwrap();
        closed(&mut tls).await;
    }
}
