//! TLS over real sockets of the loopback interface.

#![cfg(test)]

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use conclave_net::tls::HANDSHAKES_MAX;
use conclave_net::{
    Callers, Credentials, Entrance, Expect, Gate, GateLimits, Gated, Identity, Net, Plain, PublicFiles,
    TlsClient, TlsDir, TlsError, TlsServer, Trust, Wire, speaks_no_tls,
};
use conclave_pki::{Ca, Subject, Validity};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For conditions that come true at once, or never.
const SOON: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "verifiers compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn ca() -> Ca {
    Ca::create(now()).unwrap()
}

fn credentials(ca: &Ca, identity: Identity) -> Credentials {
    let subject = Subject { identity, hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()] };
    let issued = ca.issue(&subject, now()).unwrap();
    Credentials::from_pem(
        issued.ca_pem.as_bytes(),
        issued.certificate_pem.as_bytes(),
        issued.key_pem.as_bytes(),
    )
    .unwrap()
}

fn server(ca: &Ca, callers: Callers) -> TlsServer {
    TlsServer::new(&credentials(ca, Identity::Node(1)), callers, Plain::Refuse).unwrap()
}

/// A network with this trust, as node 2 of a cluster or as nobody.
fn net(trust: Trust, member_of: Option<&Ca>) -> Net {
    let own = member_of.map(|ca| credentials(ca, Identity::Node(2)));
    Net::System.secured(TlsClient::new(trust, own.as_ref()).unwrap())
}

fn of(ca: &Ca) -> Trust {
    Trust::Cluster(ca.id(), Expect::AnyNode)
}

/// A gate that never closes a connection during a test.
fn gate() -> Gate {
    let limits = GateLimits {
        connections: 1_000,
        per_address: 1_000,
        loopback: 1_000,
        first_request: Duration::from_secs(3_600),
        idle: Duration::from_secs(3_600),
    };
    Gate::new(limits, Arc::new(()))
}

async fn listen(tls: &TlsServer) -> (Entrance, String) {
    let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let socket = socket.secured(tls.clone()).unwrap().gated(gate());
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

async fn accept(socket: &mut Entrance) -> Gated {
    timeout(SOON, socket.accept()).await.expect("a connection within the deadline").unwrap()
}

async fn echo(near: &mut (impl AsyncWrite + Unpin), far: &mut (impl AsyncRead + Unpin)) {
    near.write_all(b"hello").await.unwrap();
    near.flush().await.unwrap();
    let mut said = [0; 5];
    far.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
}

/// Reads until the peer closes, whether it says goodbye or not.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut read)).await.expect("closed within the deadline");
    read
}

#[tokio::test]
async fn members_of_a_cluster_know_each_other() {
    let ca = ca();
    let (mut socket, address) = listen(&server(&ca, Callers::Members)).await;
    let net = net(Trust::Cluster(ca.id(), Expect::Node(1)), Some(&ca));
    let (near, mut far) = tokio::join!(net.connect(&address), accept(&mut socket));
    let mut near = near.unwrap();
    assert_eq!(near.identity(), Identity::Node(1));
    assert_eq!((far.peer().encrypted, far.peer().identity), (true, Identity::Node(2)));
    assert!(far.peer().address.ip().is_loopback());
    echo(&mut near, &mut far).await;
    echo(&mut far, &mut near).await;
    // A second connection resumes the session, and carries the same identity.
    let (near, far) = tokio::join!(net.connect(&address), accept(&mut socket));
    assert_eq!(near.unwrap().identity(), Identity::Node(1));
    assert_eq!(far.peer().identity, Identity::Node(2));
}

#[tokio::test]
async fn a_false_server_gets_no_byte() {
    let (own, other) = (ca(), ca());
    let (mut socket, address) = listen(&server(&other, Callers::Anybody)).await;
    let client = net(of(&own), None);
    tokio::select! {
        connected = client.connect(&address) => {
            let error = connected.unwrap_err();
            assert!(error.to_string().contains("not of this cluster"), "{error}");
            assert!(error.to_string().contains(&format!("shows the authority {}", other.id())), "{error}");
            assert!(!speaks_no_tls(&error));
        }
        far = accept(&mut socket) => panic!("accepted {far:?}"),
    }
    // What the server accepts next is the second connection, so the first one came to nothing.
    let fine = net(of(&other), None);
    let (near, mut far) = tokio::join!(fine.connect(&address), accept(&mut socket));
    echo(&mut near.unwrap(), &mut far).await;
}

#[tokio::test]
async fn another_peer_than_the_expected_one_is_refused() {
    let ca = ca();
    let as_name_server = credentials(&ca, Identity::NameServer(1));
    let name_server = TlsServer::new(&as_name_server, Callers::Anybody, Plain::Refuse).unwrap();
    for (tls, expect) in [
        (server(&ca, Callers::Anybody), Expect::Node(2)),
        (server(&ca, Callers::Anybody), Expect::NameServer),
        (name_server, Expect::AnyNode),
    ] {
        let (socket, address) = listen(&tls).await;
        let error = refused(&net(Trust::Cluster(ca.id(), expect), None), &address, socket).await;
        assert!(error.to_string().contains("expected was"), "{error}");
    }
}

/// Connects to a listener that serves meanwhile, and is to be refused by the client.
async fn refused(net: &Net, address: &str, mut socket: Entrance) -> io::Error {
    tokio::select! {
        connected = net.connect(address) => connected.unwrap_err(),
        far = accept(&mut socket) => panic!("accepted {far:?}"),
    }
}

#[tokio::test]
async fn only_members_are_let_in_where_members_are_expected() {
    let (own, other) = (ca(), ca());
    let (mut socket, address) = listen(&server(&own, Callers::Members)).await;
    let serve = async {
        let far = accept(&mut socket).await;
        assert_eq!(far.peer().identity, Identity::Node(2));
    };
    let knock = async {
        for stranger in [net(of(&own), None), net(of(&own), Some(&other))] {
            // With TLS 1.3 a client learns of the refusal when it reads.
            let refused = async {
                closed(&mut stranger.connect(&address).await?).await;
                Ok::<_, io::Error>(())
            };
            let _ = timeout(SOON, refused).await.expect("refused within the deadline");
        }
        net(of(&own), Some(&own)).connect(&address).await.unwrap()
    };
    // The first connection that the server sees is the member's.
    tokio::join!(serve, knock);
}

#[tokio::test]
async fn a_client_without_a_certificate_is_nobody_and_a_foreign_one_is_refused() {
    let (own, other) = (ca(), ca());
    let (mut socket, address) = listen(&server(&own, Callers::Anybody)).await;
    let (near, far) = {
        let client = net(of(&own), None);
        tokio::join!(async move { client.connect(&address).await }, accept(&mut socket))
    };
    near.unwrap();
    assert!(far.peer().encrypted);
    assert_eq!(far.peer().identity, Identity::None);

    let address = socket.local_addr().unwrap().to_string();
    let foreign = net(of(&own), Some(&other));
    let knock = async {
        if let Ok(mut wire) = foreign.connect(&address).await {
            assert!(closed(&mut wire).await.is_empty());
        }
        net(of(&own), Some(&own)).connect(&address).await.unwrap()
    };
    let (_, far) = tokio::join!(knock, accept(&mut socket));
    assert_eq!(far.peer().identity, Identity::Node(2));
}

#[tokio::test]
async fn a_client_without_tls_is_refused_and_harms_nobody() {
    let ca = ca();
    let (mut socket, address) = listen(&server(&ca, Callers::Anybody)).await;
    let knock = async {
        let mut plain = TcpStream::connect(&address).await.unwrap();
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let answer = closed(&mut plain).await;
        // At most an alert.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
        net(of(&ca), None).connect(&address).await.unwrap()
    };
    let (mut near, mut far) = tokio::join!(knock, accept(&mut socket));
    echo(&mut near, &mut far).await;
}

#[tokio::test]
async fn silent_connections_delay_nobody_and_are_closed() {
    let ca = ca();
    let (mut socket, address) = listen(&server(&ca, Callers::Anybody)).await;
    let client = net(of(&ca), None);
    let knock = async {
        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES_MAX + 8 {
            silent.push(TcpStream::connect(&address).await.unwrap());
        }
        let near = client.connect(&address).await.unwrap();
        (silent, near)
    };
    let ((mut silent, mut near), mut far) = tokio::join!(knock, accept(&mut socket));
    echo(&mut near, &mut far).await;
    // The first ones had to make room; the last one is closed at its deadline.
    assert!(closed(&mut silent[0]).await.is_empty());
    let last = silent.last_mut().unwrap();
    tokio::select! {
        read = closed(last) => assert!(read.is_empty()),
        _ = socket.accept() => panic!("a silent connection was accepted"),
    }
}

#[tokio::test]
async fn new_connections_see_new_credentials_and_old_ones_go_on() {
    let ca = ca();
    let tls = server(&ca, Callers::Members);
    let (mut socket, address) = listen(&tls).await;
    let client = TlsClient::new(of(&ca), Some(&credentials(&ca, Identity::Node(2)))).unwrap();
    let net = Net::System.secured(client.clone());
    let (near, mut far) = tokio::join!(net.connect(&address), accept(&mut socket));
    let mut near = near.unwrap();

    tls.reload(&credentials(&ca, Identity::Node(7))).unwrap();
    client.reload(&credentials(&ca, Identity::Node(8))).unwrap();
    let (second, second_far) = tokio::join!(net.connect(&address), accept(&mut socket));
    assert_eq!(second.unwrap().identity(), Identity::Node(7));
    assert_eq!(second_far.peer().identity, Identity::Node(8));
    echo(&mut near, &mut far).await;
    assert_eq!(near.identity(), Identity::Node(1));
}

/// The certificate that a listener shows.
async fn shown(socket: &mut Entrance, net: &Net) -> Vec<u8> {
    let address = socket.local_addr().unwrap().to_string();
    let (near, _far) = tokio::join!(net.connect(&address), accept(socket));
    let Wire::Tls(stream, _) = near.unwrap() else { panic!("no TLS") };
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_in_a_directory_is_taken_over_and_that_of_another_is_not() {
    let (ca, other) = (ca(), ca());
    let dir = tempfile::tempdir().unwrap();
    let issue = |ca: &Ca, identity| {
        let subject = Subject { identity, hosts: Vec::new() };
        ca.issue(&subject, now()).unwrap().write(dir.path()).unwrap();
    };
    issue(&ca, Identity::NameServer(1));
    let followed = TlsDir::read(dir.path()).unwrap();
    let tls = followed.server(Callers::Readers, Plain::Refuse).unwrap();
    let (mut socket, _) = listen(&tls).await;
    let client = followed.client(Expect::NameServer).unwrap();
    let net = Net::System.secured(client);
    let first = shown(&mut socket, &net).await;
    assert!(!followed.reload().unwrap(), "nothing has changed");

    issue(&ca, Identity::NameServer(1));
    assert!(followed.reload().unwrap());
    let second = shown(&mut socket, &net).await;
    assert_ne!(second, first, "the listener shows the old certificate");
    for (ca, identity, why) in [
        (&ca, Identity::NameServer(2), "that of name server 2 now, and was that of name server 1"),
        (&other, Identity::NameServer(1), "take both from one directory"),
    ] {
        issue(ca, identity);
        let refused = followed.reload().unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    std::fs::write(dir.path().join("node.key"), "noise").unwrap();
    followed.reload().unwrap_err();
    assert_eq!(shown(&mut socket, &net).await, second);
}

#[test]
fn credentials_say_when_they_expire() {
    let (ca, now) = (ca(), now());
    let subject = Subject { identity: Identity::Node(1), hosts: Vec::new() };
    let issued = ca.issue(&subject, now).unwrap();
    let [ca_pem, own, key] =
        [&issued.ca_pem, &issued.certificate_pem, &issued.key_pem].map(|text| text.as_bytes());
    let expiry = Credentials::from_pem(ca_pem, own, key).unwrap().expiry();
    let wanted = Validity::of_pem(own).unwrap().not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(expiry, Some(wanted.as_secs()));
}

#[test]
fn a_public_certificate_says_when_it_expires_without_its_authority() {
    let (own, public) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let day = Duration::from_secs(24 * 60 * 60);
    let subject = |hosts: &[&str]| Subject {
        identity: Identity::Node(1),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    };
    ca().issue(&subject(&[]), now()).unwrap().write(own.path()).unwrap();
    let issued = ca().issue(&subject(&["chat.example.org"]), now() - day).unwrap();
    issued.write(public.path()).unwrap();
    assert_eq!(TlsDir::read(own.path()).unwrap().public_expiry(), None);
    let files =
        PublicFiles { certificate: public.path().join("node.pem"), key: public.path().join("node.key") };
    let both = TlsDir::read_with_public(own.path(), Some(files)).unwrap();
    let end = Validity::of_pem(issued.certificate_pem.as_bytes()).unwrap().not_after;
    let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(both.public_expiry(), Some(end));
    assert_eq!(both.expiry().unwrap() - end, day.as_secs());
}

#[tokio::test]
async fn a_client_that_knows_no_cluster_stays_with_the_first() {
    let (first, second) = (ca(), ca());
    let client = TlsClient::new(Trust::FirstUse(Expect::AnyNode), None).unwrap();
    let net = Net::System.secured(client.clone());
    assert_eq!(client.ca(), None);
    let (mut socket, address) = listen(&server(&first, Callers::Anybody)).await;
    let (near, _) = tokio::join!(net.connect(&address), accept(&mut socket));
    near.unwrap();
    assert_eq!(client.ca(), Some(first.id()));
    let (other, address) = listen(&server(&second, Callers::Anybody)).await;
    let error = refused(&net, &address, other).await;
    assert!(error.to_string().contains("not of this cluster"), "{error}");
}

#[tokio::test]
async fn during_the_changeover_both_kinds_of_callers_are_served() {
    let ca = ca();
    let both = TlsServer::new(&credentials(&ca, Identity::Node(1)), Callers::Members, Plain::Accept).unwrap();
    let (mut socket, address) = listen(&both).await;
    let mut plain = Net::System.connect(&address).await.unwrap();
    plain.write_all(b"hello").await.unwrap();
    let mut far = accept(&mut socket).await;
    assert_eq!((far.peer().encrypted, far.peer().identity), (false, Identity::None));
    let mut said = [0; 5];
    far.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");

    let member = net(of(&ca), Some(&ca));
    let (near, mut far) = tokio::join!(member.connect(&address), accept(&mut socket));
    assert_eq!((far.peer().encrypted, far.peer().identity), (true, Identity::Node(2)));
    echo(&mut near.unwrap(), &mut far).await;
}

#[tokio::test]
async fn credentials_that_do_not_fit_together_are_refused() {
    let (ca, other) = (ca(), ca());
    let subject = Subject { identity: Identity::Node(1), hosts: Vec::new() };
    let one = ca.issue(&subject, now()).unwrap();
    let two = other.issue(&subject, now()).unwrap();
    let from = |ca: &str, certificate: &str, key: &str| {
        Credentials::from_pem(ca.as_bytes(), certificate.as_bytes(), key.as_bytes())
    };
    assert!(matches!(from(&two.ca_pem, &one.certificate_pem, &one.key_pem), Err(TlsError::Foreign(_))));
    let wrong_key = from(&one.ca_pem, &one.certificate_pem, &two.key_pem).unwrap();
    let made = TlsServer::new(&wrong_key, Callers::Members, Plain::Refuse);
    assert!(matches!(made, Err(TlsError::Unusable(_))));
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(matches!(from(text, &one.certificate_pem, &one.key_pem), Err(TlsError::Damaged { .. })));
        assert!(matches!(from(&one.ca_pem, text, &one.key_pem), Err(TlsError::Damaged { .. })));
        assert!(matches!(from(&one.ca_pem, &one.certificate_pem, text), Err(TlsError::Damaged { .. })));
    }

    let dir = tempfile::tempdir().unwrap();
    one.write(dir.path()).unwrap();
    assert_eq!(Credentials::read(dir.path()).unwrap().identity(), Identity::Node(1));
    std::fs::set_permissions(dir.path().join("node.key"), Permissions::from_mode(0o644)).unwrap();
    let error = Credentials::read(dir.path()).unwrap_err();
    assert!(matches!(error, TlsError::Exposed(_)), "{error}");
}

mod grpc {
    //! Identities reach the handlers, and channels reconnect.

    use conclave_net::Peer;
    use futures::FutureExt as _;
    use tokio::sync::{mpsc, oneshot};
    use tonic::transport::Server;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::health_server::HealthServer;
    use tonic_health::server::{HealthReporter, HealthService};

    use super::*;

    #[tokio::test]
    async fn a_handler_sees_the_verified_name_of_its_caller() {
        let ca = ca();
        let (socket, address) = listen(&server(&ca, Callers::Members)).await;
        let (seen, mut peers) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel::<()>();
        let health = HealthService::from_health_reporter(HealthReporter::new());
        let health = HealthServer::with_interceptor(health, move |request: tonic::Request<()>| {
            let peer: &Peer = request.extensions().get().unwrap();
            let _ = seen.try_send(peer.clone());
            Ok(request)
        });
        let serve = Server::builder()
            .add_service(health)
            .serve_with_incoming_shutdown(socket.incoming(), stopped.map(drop));
        let ask = async {
            let net = net(of(&ca), Some(&ca));
            let endpoint = net.endpoint(&address).unwrap();
            assert_eq!(endpoint.uri().scheme_str(), Some("https"));
            for channel in
                [net.channel(&endpoint, &address), net.connected(&endpoint, &address).await.unwrap()]
            {
                let request = HealthCheckRequest { service: String::new() };
                HealthClient::new(channel).check(request).await.unwrap();
                let peer = peers.recv().await.unwrap();
                assert_eq!((peer.encrypted, peer.identity), (true, Identity::Node(2)));
                assert!(peer.address.ip().is_loopback());
            }
            stop.send(()).unwrap();
        };
        let (served, ()) = tokio::join!(serve, ask);
        served.unwrap();
    }
}

/// The environment variable with the address that the inner process of the next test connects to.
const INNER: &str = "CONCLAVE_TEST_PUBLIC_ADDRESS";

/// Runs itself in a process whose system authorities are the cluster's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_name_is_checked_against_the_authorities_of_the_system() {
    if let Ok(address) = std::env::var(INNER) {
        let net = net(Trust::System, None);
        net.connect(&address).await.unwrap();
        let (_, port) = address.split_once(':').unwrap();
        // The certificate names localhost and 127.0.0.1 only.
        let error = net.connect(&format!("127.0.0.2:{port}")).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{error}");
        return;
    }
    let ca = ca();
    let dir = tempfile::tempdir().unwrap();
    let socket = Net::System.listen("0.0.0.0:0".parse().unwrap()).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut socket = socket.secured(server(&ca, Callers::Anybody)).unwrap().gated(gate());
    let (right, wrong) = (dir.path().join("right.pem"), dir.path().join("wrong.pem"));
    std::fs::write(&right, ca.pem()).unwrap();
    std::fs::write(&wrong, self::ca().pem()).unwrap();
    for (roots, passes) in [(right, true), (wrong, false)] {
        let mut inner = tokio::process::Command::new(std::env::current_exe().unwrap());
        inner
            .args(["--exact", "a_public_name_is_checked_against_the_authorities_of_the_system"])
            .env(INNER, format!("localhost:{port}"))
            .env("SSL_CERT_FILE", roots)
            .env_remove("SSL_CERT_DIR");
        let ended = inner.output();
        tokio::pin!(ended);
        let output = loop {
            tokio::select! {
                output = &mut ended => break output.unwrap(),
                _ = socket.accept() => {}
            }
        };
        assert_eq!(output.status.success(), passes, "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test]
async fn an_error_says_what_the_server_presents() {
    let ca = ca();
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    for (issued_at, says) in [(now() - year, "has expired"), (now() + year, "not valid yet")] {
        let subject = Subject { identity: Identity::Node(1), hosts: Vec::new() };
        let issued = ca.issue(&subject, issued_at).unwrap();
        let [ca_pem, certificate, key] =
            [&issued.ca_pem, &issued.certificate_pem, &issued.key_pem].map(|pem| pem.as_bytes());
        let credentials = Credentials::from_pem(ca_pem, certificate, key).unwrap();
        let tls = TlsServer::new(&credentials, Callers::Anybody, Plain::Refuse).unwrap();
        let (mut socket, address) = listen(&tls).await;
        let client = net(Trust::FirstUse(Expect::AnyNode), None);
        tokio::select! {
            connected = client.connect(&address) => {
                let error = connected.unwrap_err();
                assert!(error.to_string().contains(says) && error.to_string().contains("clock"), "{error}");
                assert!(!speaks_no_tls(&error), "{error}");
            }
            far = accept(&mut socket) => panic!("accepted {far:?}"),
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = net(of(&ca), None);
    let plain = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        stream
    };
    let (connected, _stream) = tokio::join!(client.connect(&address), plain);
    let error = connected.unwrap_err();
    assert!(speaks_no_tls(&error) && error.to_string().contains("speaks no TLS"), "{error}");
}
