//! Silent connections in numbers, at every port of a server: they must not shut out clients, probes or other servers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value;

use crate::harness::{DEADLINE, Up, free_base_port, signal, until};

/// Connections to an address that say nothing. Those that the server closes are made again, until this is dropped.
struct Silence {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Silence {
    /// Keeps this many silent connections to each of the addresses.
    fn keep(addresses: Vec<SocketAddr>, count: usize) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = std::thread::spawn(move || {
            let mut held: Vec<Option<TcpStream>> = (0..addresses.len() * count).map(|_| None).collect();
            while !stopped.load(Ordering::SeqCst) {
                for (place, address) in held.iter_mut().zip(addresses.iter().cycle()) {
                    if place.as_mut().is_none_or(is_closed) {
                        *place = TcpStream::connect_timeout(address, Duration::from_secs(1)).ok();
                        counter.fetch_add(usize::from(place.is_some()), Ordering::SeqCst);
                    }
                    if let Some(stream) = place {
                        let _ = stream.set_nonblocking(true);
                    }
                }
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self { stop, made, thread: Some(thread) }
    }

    /// Waits until this many connections were made.
    fn until_made(&self, count: usize) {
        until("silent connections are made", || self.made.load(Ordering::SeqCst) >= count);
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        // A gRPC server's settings.
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// The addresses of a server: client, peer and HTTP port.
fn addresses(up: &Up, name: &str) -> [SocketAddr; 3] {
    let nodes = up.ready["nodes"].as_array().expect("nodes");
    let node = nodes.iter().find(|node| node["name"] == name).expect("the node was started");
    let client: SocketAddr = node["client"].as_str().expect("an address").parse().expect("an address");
    [0, 1, 2].map(|port| SocketAddr::new(client.ip(), client.port() + port))
}

/// Whether `/livez` answers 200.
fn lives(http: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&http, DEADLINE)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Raises this process's own limit on open files, and returns how many connections it can hold beside its other files.
fn own_files() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(8_192).min(8_192);
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        .expect("the hard limit is allowed");
    usize::try_from(wanted).unwrap().saturating_sub(256)
}

#[test]
fn servers_with_256_files_survive_300_silent_connections_at_each_port() {
    own_files();
    let scratch = tempfile::tempdir().unwrap();
    let port = free_base_port().to_string();
    // Elections as for nodes far from each other: a busy machine is not what is looked for.
    let args = ["--ephemeral", "--base-port", &port, "--shards", "1"];
    let up = Up::start_with_files(scratch.path(), &args, &[("CONCLAVE_TIMING", "wan")], 256);
    up.until_healthy();
    up.run(&["send", "general", "before"]).expect(0);
    let [client, peer, http] = addresses(&up, "node1");
    let silence = Silence::keep(vec![client, peer, http], 300);
    silence.until_made(900);

    until("/livez answers", || lives(http));
    let only = client.to_string();
    let sent = up.run(&["-s", &only, "send", "general", "meanwhile", "--timeout", "60s"]);
    sent.expect(0);
    // The other two servers lose their links to node1, and make new ones.
    for name in ["node2", "node3"] {
        signal(up.pid_of(name), Signal::KILL);
        let back = up.notes.iter().find(|note| note.contains("is back"));
        assert!(back.is_some());
        up.until_healthy();
    }
    until("/livez answers again", || lives(http));
    drop(silence);
    let history = up.run(&["history", "general", "--json", "--linearizable"]).expect(0).json();
    let said: Vec<&Value> =
        history.iter().filter(|event| event["kind"] == "message").map(|event| &event["body"]).collect();
    assert_eq!(said, ["before", "meanwhile"]);
    up.stop();
}

#[test]
fn a_client_gets_in_past_thousands_of_silent_connections() {
    let count = own_files().min(3_000);
    let scratch = tempfile::tempdir().unwrap();
    let port = free_base_port().to_string();
    let args = ["--ephemeral", "--base-port", &port, "--shards", "1"];
    // Fewer files than there are silent connections.
    let up = Up::start_with_files(scratch.path(), &args, &[("CONCLAVE_TIMING", "wan")], 1_024);
    up.until_healthy();
    let [client, _, http] = addresses(&up, "node1");
    let silence = Silence::keep(vec![client], count);
    silence.until_made(count);
    let only = client.to_string();
    for number in 0..10 {
        up.run(&["-s", &only, "send", "general", &format!("message {number}"), "--timeout", "60s"]).expect(0);
        until("/livez answers", || lives(http));
    }
    drop(silence);
    up.stop();
}
