//! A name server with a certificate: who registers, whom it asks, and who reads its pages.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use conclave_dns::config::Config;
use conclave_dns::{DnsServer, Listeners, NameServerTls, Plain, RunError};
use conclave_net::{
    Callers, Credentials, Expect, Gate, GateLimits, Identity, Net, Peer, TlsClient, TlsServer, Trust, Wire,
};
use conclave_pki::{Ca, Subject};
use conclave_proto::admin::admin_service_server::AdminServiceServer;
use conclave_proto::dns::LookupRequest;
use conclave_proto::dns::dns_service_client::DnsServiceClient;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};

use crate::nodes::{
    RecordsService, RegistrationStream, ask, config, record, secret, servers, start, until, within,
};

const HEALTHY: &str = "_conclave._tcp";

#[expect(clippy::disallowed_methods, reason = "verifiers compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// An authority with a directory for each certificate.
struct Authority {
    ca: Ca,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        Self { ca: Ca::create(now()).unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn issue(&self, name: &str, identity: Identity) -> PathBuf {
        let dir = self.dir.path().join(name);
        let subject = Subject { identity, hosts: vec!["localhost".to_owned()] };
        self.ca.issue(&subject, now()).unwrap().write(&dir).unwrap();
        dir
    }

    fn credentials(&self, identity: Identity) -> Credentials {
        Credentials::read(&self.issue("somebody", identity)).unwrap()
    }

    /// The network of somebody who expects a name server of this cluster.
    fn net(&self, identity: Identity) -> Net {
        let own = (identity != Identity::None).then(|| self.credentials(identity));
        let trust = Trust::Cluster(self.ca.id(), Expect::NameServer);
        Net::System.secured(TlsClient::new(trust, own.as_ref()).unwrap())
    }

    fn config(&self, plain: Plain) -> Config {
        let dir = self.issue("ns1", Identity::NameServer(1));
        Config { tls: Some(NameServerTls { dir, plain }), ..config() }
    }
}

fn dns(server: &DnsServer, net: &Net) -> DnsServiceClient<Channel> {
    let address = server.addresses().grpc;
    let endpoint = net.endpoint(address).unwrap();
    DnsServiceClient::new(net.channel(&endpoint, &address.to_string()))
}

async fn register(server: &DnsServer, net: &Net, node: u64) -> Result<RegistrationStream, Status> {
    let mut stream = RegistrationStream::open(dns(server, net), secret()).await?;
    stream.register(&record(node, 10)).await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_register_over_tls_and_each_for_itself() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = start(authority.config(Plain::Refuse)).await;
    let _n1 = register(&server, &authority.net(Identity::Node(1)), 1).await.unwrap();
    until("the node is in the zone", async || servers(&server, HEALTHY).await == ["n1"]).await;

    // Everybody here knows the secret.
    let refused = register(&server, &authority.net(Identity::Node(2)), 3).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("that of node 2, and the record that of node 3"), "{refused}");
    for identity in [Identity::None, Identity::Tool, Identity::NameServer(2)] {
        let refused = register(&server, &authority.net(identity), 2).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{identity}: {refused}");
        assert!(refused.message().contains("only a node may register"), "{refused}");
    }
    let foreign = other.credentials(Identity::Node(2));
    let foreign =
        TlsClient::new(Trust::Cluster(authority.ca.id(), Expect::NameServer), Some(&foreign)).unwrap();
    for net in [Net::System, Net::System.secured(foreign)] {
        register(&server, &net, 2).await.expect_err("a stranger registered");
    }
    assert_eq!(servers(&server, HEALTHY).await, ["n1"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_looks_up_names_over_tls() {
    let authority = Authority::new();
    let server = start(authority.config(Plain::Refuse)).await;
    let _n1 = register(&server, &authority.net(Identity::Node(1)), 1).await.unwrap();
    let mut nobody = dns(&server, &authority.net(Identity::None));
    until("an answer", async || within("an answer", nobody.lookup(LookupRequest::default())).await.is_ok())
        .await;
    dns(&server, &Net::System).lookup(LookupRequest::default()).await.expect_err("it answered without TLS");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_changeover_nodes_register_with_and_without_tls() {
    let authority = Authority::new();
    let server = start(authority.config(Plain::Accept)).await;
    let _n1 = register(&server, &authority.net(Identity::Node(1)), 1).await.unwrap();
    let _n2 = register(&server, &Net::System, 2).await.unwrap();
    until("both are in the zone", async || servers(&server, HEALTHY).await == ["n1", "n2"]).await;
    let refused = register(&server, &authority.net(Identity::Node(2)), 3).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_is_refused_at_the_start() {
    let authority = Authority::new();
    let tls = |dir| Some(NameServerTls { dir, plain: Plain::Refuse });
    let node = Config { tls: tls(authority.issue("n1", Identity::Node(1))), ..config() };
    let error = Listeners::bind(&node).await.unwrap_err();
    assert!(matches!(error, RunError::OtherOwner { .. }), "{error}");
    assert!(error.to_string().contains("that of node 1, and this is a name server"), "{error}");
    let missing = Config { tls: tls(PathBuf::from("/nowhere")), ..config() };
    let error = Listeners::bind(&missing).await.unwrap_err();
    assert!(matches!(error, RunError::Tls { .. }), "{error}");
}

/// A node that tells who calls it, in TLS with these credentials.
async fn node(credentials: &Credentials) -> (String, mpsc::Receiver<Identity>) {
    let limits = GateLimits {
        connections: 100,
        per_address: 100,
        loopback: 100,
        first_request: Duration::from_secs(600),
        idle: Duration::from_secs(600),
    };
    let tls = TlsServer::new(credentials, Callers::Anybody, Plain::Refuse).unwrap();
    let listener = Net::System.listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let entrance = listener.secured(tls).unwrap().gated(Gate::new(limits, Arc::new(())));
    let (seen, callers) = mpsc::channel(16);
    let (_, records) = watch::channel(BTreeMap::new());
    let records = RecordsService { secret: Some(secret()), records };
    let service = AdminServiceServer::with_interceptor(records, move |request: Request<()>| {
        let peer: &Peer = request.extensions().get().unwrap();
        let _ = seen.try_send(peer.identity);
        Ok(request)
    });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(entrance.incoming()));
    (address, callers)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_proves_itself_to_nodes_and_asks_no_false_ones() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, mut callers) = node(&authority.credentials(Identity::Node(1))).await;
    let (false_address, mut fooled) = node(&other.credentials(Identity::Node(1))).await;
    let nodes = vec![address, false_address];
    let server = start(Config { nodes, ..authority.config(Plain::Refuse) }).await;
    let caller = within("a call of the name server", callers.recv()).await;
    assert_eq!(caller, Some(Identity::NameServer(1)));
    let again = within("another call", callers.recv()).await;
    assert_eq!(again, Some(Identity::NameServer(1)));
    assert!(fooled.try_recv().is_err(), "a node of another cluster was asked");
    server.stop().await;
}

/// The first line of the answer to a request for a page.
async fn page(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // A server without TLS that is spoken to in TLS, or the reverse, ends the connection in any way.
    let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_tls_unless_they_are_for_this_machine_alone() {
    let authority = Authority::new();
    let here = start(authority.config(Plain::Refuse)).await;
    let page_of =
        async |server: &DnsServer, net: &Net| match net.connect(&at(server.addresses().http.port())).await {
            Ok(wire) => page(wire).await,
            Err(error) => error.to_string(),
        };
    assert!(page_of(&here, &Net::System).await.contains("200 OK"));
    here.stop().await;

    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let server = start(Config { http_listen: everywhere, ..authority.config(Plain::Refuse) }).await;
    let reader = authority.net(Identity::None);
    assert!(page_of(&server, &reader).await.contains("200 OK"));
    let Wire::Tls(_, identity) = reader.connect(&at(server.addresses().http.port())).await.unwrap() else {
        panic!("no TLS");
    };
    assert_eq!(identity, Identity::NameServer(1));
    assert!(!page_of(&server, &Net::System).await.contains("200"), "a page was served without TLS");
    server.stop().await;

    let both = start(Config { http_listen: everywhere, ..authority.config(Plain::Accept) }).await;
    for net in [&Net::System, &reader] {
        assert!(page_of(&both, net).await.contains("200 OK"));
    }
    both.stop().await;
    let refused = Config { http_listen: everywhere, ..config() };
    let error = conclave_dns::run(refused.clone(), std::future::ready(())).await.unwrap_err();
    assert!(matches!(&error, RunError::Config(wrong) if wrong[0].contains("--tls-dir")), "{error}");
    let without = start(Config { insecure: true, ..refused }).await;
    assert!(page_of(&without, &Net::System).await.contains("200 OK"));
    let _ = ask(&without, "conclave.internal.", RecordType::SOA).await;
    without.stop().await;
}
