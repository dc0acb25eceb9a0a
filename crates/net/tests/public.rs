//! A certificate for a public name beside that of the cluster: who is shown which.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use conclave_net::{
    Callers, Expect, Gate, GateLimits, Identity, Net, Plain, PublicFiles, TlsClient, TlsDir, TlsError,
    TlsServer, Trust,
};
use conclave_pki::{Ca, Subject};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

#[expect(clippy::disallowed_methods, reason = "verifiers compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Accepts everything: these tests look at what is shown.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What a server shows to a client that asks for this name.
async fn shown(tls: &TlsServer, name: &str) -> Vec<CertificateDer<'static>> {
    let never = Duration::from_secs(3_600);
    let limits =
        GateLimits { connections: 9, per_address: 9, loopback: 9, first_request: never, idle: never };
    let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut socket = socket.secured(tls.clone()).unwrap().gated(Gate::new(limits, Arc::new(())));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config =
        config.dangerous().with_custom_certificate_verifier(Arc::new(Anything)).with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connecting =
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream);
    let (connected, _accepted) = tokio::join!(connecting, socket.accept());
    connected.unwrap().get_ref().1.peer_certificates().unwrap().to_vec()
}

/// Writes a certificate for these names, issued by nobody.
fn write(files: &PublicFiles, names: &[&str]) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    certificate.der().clone()
}

fn in_dir(dir: &Path) -> PublicFiles {
    PublicFiles { certificate: dir.join("public.pem"), key: dir.join("public.key") }
}

fn issue(ca: &Ca, dir: &Path) {
    let subject = Subject { identity: Identity::Node(1), hosts: Vec::new() };
    ca.issue(&subject, now()).unwrap().write(dir).unwrap();
}

#[tokio::test]
async fn who_asks_for_a_public_name_is_shown_its_certificate() {
    let (ca, dir) = (Ca::create(now()).unwrap(), tempfile::tempdir().unwrap());
    issue(&ca, dir.path());
    let files = in_dir(dir.path());
    let public = write(&files, &["chat.example.org", "*.chat.example.org", "localhost"]);
    let followed = TlsDir::read_with_public(dir.path(), Some(files)).unwrap();
    let tls = followed.server(Callers::Anybody, Plain::Refuse).unwrap();
    let authority = CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap();
    let own = CertificateDer::from_pem_file(dir.path().join("node.pem")).unwrap();

    for name in ["chat.example.org", "n1.chat.example.org", "localhost"] {
        assert_eq!(shown(&tls, name).await, [public.clone(), authority.clone()], "{name}");
    }
    for name in ["example.org", "other.example.org", "127.0.0.1", &ca.id().pages_name()] {
        assert_eq!(shown(&tls, name).await, [own.clone(), authority.clone()], "{name}");
    }
    // Pages and other nodes have nothing to do with public names.
    let pages = followed.server(Callers::Readers, Plain::Refuse).unwrap();
    assert_eq!(shown(&pages, "localhost").await, [own.clone(), authority.clone()]);
    let browsers = followed.server(Callers::Browsers, Plain::Refuse).unwrap();
    assert_eq!(shown(&browsers, "localhost").await, [public, authority.clone()]);
    assert_eq!(shown(&browsers, "127.0.0.1").await, [own, authority]);

    // Whoever knows the cluster, or none, is shown what proves the cluster, by any name.
    let never = Duration::from_secs(3_600);
    let limits =
        GateLimits { connections: 9, per_address: 9, loopback: 9, first_request: never, idle: never };
    let socket = Net::System.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = format!("localhost:{}", socket.local_addr().unwrap().port());
    let mut socket = socket.secured(tls).unwrap().gated(Gate::new(limits, Arc::new(())));
    for trust in [Trust::Cluster(ca.id(), Expect::AnyNode), Trust::FirstUse(Expect::AnyNode)] {
        let client = TlsClient::new(trust, None).unwrap();
        let net = Net::System.secured(client.clone());
        let mut connecting = std::pin::pin!(net.connect(&address));
        let connected = loop {
            // Nothing is accepted where the client refuses what it is shown.
            tokio::select! {
                connected = &mut connecting => break connected,
                _ = socket.accept() => {}
            }
        };
        assert_eq!(connected.unwrap().identity(), Identity::Node(1), "{trust:?}");
        assert_eq!(client.ca(), Some(ca.id()));
    }
}

#[tokio::test]
async fn renewed_files_of_either_certificate_are_used_and_damaged_ones_are_not() {
    let (ca, dir) = (Ca::create(now()).unwrap(), tempfile::tempdir().unwrap());
    issue(&ca, dir.path());
    let files = in_dir(dir.path());
    let first = write(&files, &["chat.example.org"]);
    let followed = TlsDir::read_with_public(dir.path(), Some(files.clone())).unwrap();
    let tls = followed.server(Callers::Anybody, Plain::Refuse).unwrap();
    assert!(!followed.reload_public().unwrap(), "nothing has changed");
    let second = write(&files, &["chat.example.org"]);
    assert!(followed.reload_public().unwrap());
    assert_ne!(first, second);
    assert_eq!(shown(&tls, "chat.example.org").await[0], second);

    // The cluster's certificate is renewed without a change of the other one.
    let before = shown(&tls, "127.0.0.1").await;
    issue(&ca, dir.path());
    assert!(followed.reload().unwrap());
    assert_ne!(shown(&tls, "127.0.0.1").await, before);
    assert_eq!(shown(&tls, "chat.example.org").await[0], second);

    let read = || TlsDir::read_with_public(dir.path(), Some(files.clone())).unwrap_err();
    std::fs::set_permissions(&files.key, Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(followed.reload_public(), Err(TlsError::Exposed(_))));
    assert!(matches!(read(), TlsError::Exposed(_)));
    std::fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let other_key = followed.reload_public().unwrap_err().to_string();
    assert!(other_key.contains("public.key"), "{other_key}");
    std::fs::write(&files.certificate, "noise").unwrap();
    let noise = read().to_string();
    assert!(noise.contains("public.pem") && noise.contains("0 certificates"), "{noise}");
    let nameless = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    std::fs::write(&files.certificate, nameless.pem()).unwrap();
    assert!(read().to_string().contains("no host name"));
    assert_eq!(shown(&tls, "chat.example.org").await[0], second);
}
