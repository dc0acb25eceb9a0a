//! A listener whose process has no file descriptor left. Alone in its process, because the limit is the process's.

#![cfg(unix)]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conclave_net::{Closed, Gate, GateLimits, GateObserver, Net, Refused};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_secs(3_600);
/// The limit of the test.
const FILES: u64 = 64;

#[derive(Debug, Default)]
struct Refusals(AtomicUsize);

impl GateObserver for Refusals {
    fn open(&self, _connections: usize) {}

    fn refused(&self, why: Refused) {
        assert_eq!(why, Refused::Descriptors);
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self, _why: Closed) {}

    fn received(&self, _bytes: usize) {}

    fn sent(&self, _bytes: usize) {}
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

#[tokio::test]
async fn without_descriptors_connections_are_closed_at_once_and_later_ones_are_served() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), maximum }).unwrap();
    let refusals = Arc::new(Refusals::default());
    let limits =
        GateLimits { connections: 100, per_address: 100, loopback: 100, first_request: NEVER, idle: NEVER };
    let gate = Gate::new(limits, Arc::clone(&refusals) as Arc<dyn GateObserver>);
    let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let mut entrance = socket.gated(gate);
    let address = entrance.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut gated = entrance.accept().await.unwrap();
        gated.write_all(b"served").await.unwrap();
    });

    // The clients' sockets are opened before the rest of the descriptors is used up.
    let early: Vec<TcpSocket> = (0..8).map(|_| TcpSocket::new_v4().unwrap()).collect();
    let late = TcpSocket::new_v4().unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    for (number, socket) in early.into_iter().enumerate() {
        let mut client = within("connecting", socket.connect(address)).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the connection is closed", client.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"", "client {number} is not served");
        // The descriptor that the client gives back must not serve the next one.
        drop(client);
        taken.push(File::open("/dev/null").unwrap());
    }
    assert_eq!(refusals.0.load(Ordering::SeqCst), 8);

    drop(taken);
    let mut client = within("connecting", late.connect(address)).await.unwrap();
    let mut rest = Vec::new();
    within("an answer", client.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"served");
    server.await.unwrap();
}
