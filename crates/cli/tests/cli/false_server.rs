//! Somebody on the way between a client and its cluster, who has everything but the cluster's keys: the certificate of its
//! authority, a certificate with the right names from an authority of their own, and the true answers of the cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use conclave_client::CaId;
use conclave_net::{Expect, Identity, Net, TlsClient, Trust, Wire};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, copy_bidirectional, split,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Ran, Up, command, run};

/// What the one on the way does.
#[derive(Clone)]
pub(crate) enum Way {
    /// Passes on what the two say, which is encrypted.
    Through,
    /// Speaks TLS with the client in the cluster's place, and TLS with the cluster in the client's.
    Tls(TlsAcceptor),
    /// Speaks no TLS with the client, as a server without TLS, and TLS with the cluster.
    Plain,
}

/// What the one on the way has heard.
#[derive(Default)]
struct Heard {
    connections: usize,
    /// What clients said, without the encryption, one after the other.
    said: Vec<Vec<u8>>,
}

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    way: Arc<Mutex<Way>>,
    heard: Arc<Mutex<Heard>>,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// Between a client and the server at this address.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (way, heard) = (Arc::new(Mutex::new(Way::Through)), Arc::new(Mutex::new(Heard::default())));
        let (ways, hears) = (Arc::clone(&way), Arc::clone(&heard));
        runtime.spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let way = ways.lock().unwrap().clone();
                let index = {
                    let mut heard = hears.lock().unwrap();
                    heard.connections += 1;
                    heard.said.push(Vec::new());
                    heard.said.len() - 1
                };
                tokio::spawn(serve(near, server, way, Arc::clone(&hears), index));
            }
        });
        Self { address, way, heard, _runtime: runtime }
    }

    /// From now on this way; what was heard before is forgotten.
    pub(crate) fn take(&self, way: &Way) {
        *self.way.lock().unwrap() = way.clone();
        *self.heard.lock().unwrap() = Heard::default();
    }

    /// What clients said since, each connection for itself.
    pub(crate) fn said(&self) -> Vec<Vec<u8>> {
        let heard = self.heard.lock().unwrap();
        assert!(heard.connections > 0, "no client came");
        heard.said.clone()
    }
}

/// Serves one connection. It ends in any way: clients and servers leave when they see that something is wrong.
async fn serve(mut near: TcpStream, server: SocketAddr, way: Way, heard: Arc<Mutex<Heard>>, index: usize) {
    match way {
        Way::Through => {
            let mut far = TcpStream::connect(server).await.unwrap();
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
        Way::Tls(acceptor) => {
            if let Ok(near) = acceptor.accept(near).await {
                relay(near, server, &heard, index).await;
            }
        }
        Way::Plain => relay(near, server, &heard, index).await,
    }
}

/// Passes on what the two say, and writes down what the client says.
async fn relay(near: impl AsyncRead + AsyncWrite, server: SocketAddr, heard: &Mutex<Heard>, index: usize) {
    let anybody = TlsClient::new(Trust::FirstUse(Expect::AnyNode), None).unwrap();
    let far: Wire = Net::System.secured(anybody).connect(&server.to_string()).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (split(near), split(far));
    let up = async {
        let mut bytes = vec![0; 4_096];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            if let Some(said) = heard.lock().unwrap().said.get_mut(index) {
                said.extend_from_slice(&bytes[..count]);
            }
            if to_server.write_all(&bytes[..count]).await.is_err() || to_server.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}

/// The TLS of somebody who makes an authority of their own, and a certificate with the names of a node of this cluster.
/// `shown` are certificates of others that are sent with it.
fn self_made(cluster: CaId, shown: &[CertificateDer<'static>]) -> Way {
    let key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority.self_signed(&key).unwrap();
    let own = CaId::of_certificate(certificate.der()).unwrap();
    let issuer = Issuer::new(authority, key);
    let names = [cluster, own].map(|ca| Identity::Node(1).name(ca).unwrap());
    let names = names.into_iter().chain([cluster.pages_name(), "127.0.0.1".to_owned()]);
    let node_key = KeyPair::generate().unwrap();
    let node =
        CertificateParams::new(names.collect::<Vec<_>>()).unwrap().signed_by(&node_key, &issuer).unwrap();
    let mut chain = vec![node.der().clone()];
    chain.extend_from_slice(shown);
    chain.push(certificate.der().clone());
    let key = PrivateKeyDer::try_from(node_key.serialize_der()).unwrap();
    shows(chain, key)
}

/// TLS with this certificate.
pub(crate) fn shows(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Way {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Way::Tls(TlsAcceptor::from(Arc::new(config)))
}

/// The headers of the question take fewer bytes. Those of a call with a token take 40 more.
const QUESTION_HEADERS_MAX: usize = 100;

/// Whether these bytes of HTTP/2 are at most the question which cluster it is: one call, without room for a token in its
/// headers or for a message in its body. (What false servers get of tokens and messages is in `impostors`, too.)
fn is_only_the_question(said: &[u8]) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    if said.is_empty() {
        return true;
    }
    let Some(mut rest) = said.strip_prefix(PREFACE) else { return false };
    let (mut headers, mut data) = (0, 0);
    while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        match *kind {
            HEADERS => headers += length,
            DATA => data += length,
            _ => {}
        }
        rest = more.get(length..).unwrap_or_default();
    }
    headers <= QUESTION_HEADERS_MAX && data <= 8
}

/// Whether these bytes are handshakes and alerts of TLS and nothing else.
fn is_handshake(mut bytes: &[u8]) -> bool {
    while let [kind, 3, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !matches!(kind, 0x15 | 0x16) || rest.len() < length {
            return false;
        }
        bytes = &rest[length..];
    }
    bytes.is_empty()
}

pub(crate) fn send(server: &str, state: &Path, timeout: &str) -> Ran {
    let mut command = command(&["--timeout", timeout, "-s", server, "send", "general", "secret"]);
    run(command.env("CONCLAVE_STATE_DIR", state).env("CONCLAVE_USER", "ana"), b"")
}

#[test]
fn a_false_server_gets_no_byte_of_a_call_or_token_of_a_known_cluster() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = crate::harness::free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1"];
    let up = Up::start(scratch.path(), &args);
    let id = up.ready["cluster_id"].as_str().unwrap().to_owned();
    let server = up.ready["nodes"][0]["client"].as_str().unwrap().parse().unwrap();
    let cluster: CaId = id.parse().unwrap();
    let true_authority = CertificateDer::from_pem_file(dir.join("pki/ca.pem")).unwrap();
    let relay = Relay::start(server);
    let address = relay.address.to_string();
    let (pinned, kept) = (scratch.path().join("pinned"), scratch.path().join("kept"));

    // Both users have a session of the cluster, over the same address.
    let given = format!("conclave://{address}/{id}");
    send(&given, &pinned, "60s").expect(0);
    let first = send(&address, &kept, "60s").expect(0);
    assert!(first.err.contains("first contact"), "{first:#?}");

    let ways = [
        ("an authority of its own", self_made(cluster, &[])),
        ("the true authority's certificate as well", self_made(cluster, &[true_authority])),
        ("no TLS", Way::Plain),
    ];
    for (what, way) in &ways {
        for (server, state) in [(&given, &pinned), (&address, &kept)] {
            relay.take(way);
            let ran = send(server, state, "3s");
            // Whoever has used the cluster before may know another way to it, past the false server.
            assert!(matches!(ran.code, Some(0 | 5)), "{what}: {ran:#?}");
            assert!(
                ran.code == Some(0) || ran.err.contains("no message and no token was sent to it"),
                "{what}: {ran:#?}"
            );
            for said in relay.said() {
                let nothing = match way {
                    Way::Plain => is_handshake(&said),
                    Way::Tls(_) | Way::Through => is_only_the_question(&said),
                };
                assert!(nothing, "with {what} the server heard {}", String::from_utf8_lossy(&said));
            }
        }
    }
    relay.take(&Way::Through);
    for (server, state) in [(&given, &pinned), (&address, &kept)] {
        send(server, state, "60s").expect(0);
    }

    // Those who know nothing believe the first who answers: so the one on the way is able to listen.
    relay.take(&ways[0].1);
    send(&address, &scratch.path().join("new"), "3s");
    assert!(relay.said().iter().any(|said| said.starts_with(b"PRI * HTTP/2.0")));
    up.stop();
}
