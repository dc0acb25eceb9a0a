//! A server with a certificate for a public name, beside that of its cluster.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::false_server::{Relay, Way, shows};
use crate::harness::{Ran, command, free_base_port, run, until};

/// An authority that systems know, or do not know.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, in PEM.
    file: PathBuf,
}

impl Root {
    fn new(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let file = dir.join(name);
        fs::write(&file, certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate for this host name and its key.
    fn issue(&self, host: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate, key)
    }

    /// A false server with a certificate for this host name; `behind` is shown with it.
    fn shows(&self, host: &str, behind: &[CertificateDer<'static>]) -> Way {
        let (certificate, key) = self.issue(host);
        let mut chain = vec![certificate.der().clone()];
        chain.extend_from_slice(behind);
        shows(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

fn write_private(path: &Path, text: &str) {
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
}

/// A cluster of one server with a certificate of this root for `localhost`. It ends with the test.
struct Server {
    process: Child,
    base: u16,
    /// The certificate of the cluster's authority.
    authority: PathBuf,
    admin: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(scratch: &Path, root: &Root) -> Self {
        let (pki, cert, key) = (scratch.join("pki"), scratch.join("cert"), scratch.join("key"));
        let dir = pki.to_str().unwrap();
        run(&mut command(&["admin", "ca", "init", "--dir", dir]), b"").expect(0);
        run(&mut command(&["admin", "ca", "issue", "--dir", dir, "n1"]), b"").expect(0);
        let (certificate, own) = root.issue("localhost");
        fs::write(&cert, certificate.pem()).unwrap();
        write_private(&key, &own.serialize_pem());
        let admin = scratch.join("admin");
        write_private(&admin, &format!("cnva_{}", "7".repeat(64)));
        let base = free_base_port();
        let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
        let mut server =
            command(&["server", "--name", "n1", "--shards", "1", "--exit-with-stdin", "--mdns", "off"]);
        server
            .args(["--listen", &at(0), "--peer-listen", &at(1), "--http-listen", &at(2), "--dir"])
            .arg(scratch.join("data"))
            .arg("--tls-dir")
            .arg(pki.join("n1"))
            .arg("--tls-cert")
            .arg(&cert)
            .arg("--tls-key")
            .arg(&key)
            .arg("--admin-token-file")
            .arg(&admin);
        let process =
            server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { process, base, authority: pki.join("ca.pem"), admin };
        let state = scratch.join("waiting");
        until("the server answers", || {
            run(&mut client(&server.at("127.0.0.1"), &state, &root.file, &["ping"]), b"").code == Some(0)
        });
        server
    }

    fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.base)
    }
}

/// A command of a user whose system knows this root alone.
fn client(server: &str, state: &Path, root: &Path, args: &[&str]) -> Command {
    let mut command = command(&[&["--timeout", "60s", "-s", server], args].concat());
    command.env("CONCLAVE_STATE_DIR", state).env("CONCLAVE_USER", "ana");
    command.env("SSL_CERT_FILE", root).env_remove("SSL_CERT_DIR");
    command
}

#[test]
fn a_certificate_for_a_public_name_proves_the_cluster_at_the_first_contact() {
    let scratch = tempfile::tempdir().unwrap();
    let (known, unknown) = (Root::new(scratch.path(), "known"), Root::new(scratch.path(), "unknown"));
    let server = Server::start(scratch.path(), &known);
    let say = |host: &str, state: &str, root: &Root, args: &[&str]| -> Ran {
        run(&mut client(&server.at(host), &scratch.path().join(state), &root.file, args), b"")
    };
    let by_name = "as a certificate for this name says";

    let first = say("localhost", "a", &known, &["status"]).expect(0);
    assert!(first.err.contains("first contact") && first.err.contains(by_name), "{first:#?}");
    // From then on the cluster's own authority proves it, at any address.
    for host in ["localhost", "127.0.0.1"] {
        let later = say(host, "a", &unknown, &["status"]).expect(0);
        assert!(!later.err.contains("first contact"), "{later:#?}");
    }
    say("localhost", "a", &unknown, &["send", "--create", "general", "hello"]).expect(0);

    // Another system's authorities, or an address in place of the name, leave the first contact as it is without a name.
    for (host, state, root) in [("localhost", "b", &unknown), ("127.0.0.1", "c", &known)] {
        let first = say(host, state, root, &["status"]).expect(0);
        assert!(first.err.contains("first contact") && !first.err.contains(by_name), "{first:#?}");
    }

    // What the name proves may see the admin token.
    let rebalance = ["admin", "--admin-token-file", server.admin.to_str().unwrap(), "rebalance"];
    let refused = say("localhost", "d", &unknown, &rebalance).expect(1);
    assert!(refused.err.contains("was not known here before"), "{refused:#?}");
    say("localhost", "e", &known, &rebalance).expect(0);
}

#[test]
fn a_server_that_proves_no_cluster_hears_nothing_whatever_name_it_proves() {
    let scratch = tempfile::tempdir().unwrap();
    let (known, unknown) = (Root::new(scratch.path(), "known"), Root::new(scratch.path(), "unknown"));
    let server = Server::start(scratch.path(), &known);
    let relay = Relay::start(server.at("127.0.0.1").parse().unwrap());
    let address = format!("localhost:{}", relay.address.port());
    let cluster = CertificateDer::from_pem_file(&server.authority).unwrap();
    let ways = [
        ("a name of a root that nobody knows", unknown.shows("localhost", &[])),
        ("that, and the cluster's authority", unknown.shows("localhost", std::slice::from_ref(&cluster))),
        ("another name", known.shows("chat.example.org", std::slice::from_ref(&cluster))),
        ("the name without a cluster", known.shows("localhost", &[])),
        // The owner of the name, or who has stolen the name's key, is no server of the cluster.
        ("the name, and a cluster that it is not of", known.shows("localhost", &[cluster])),
    ];
    let token = server.admin.to_str().unwrap();
    for (what, way) in ways {
        for args in [
            &["--timeout", "3s", "send", "general", "secret"][..],
            &["--timeout", "3s", "admin", "--admin-token-file", token, "rebalance"],
        ] {
            relay.take(&way);
            let ask = || {
                let state = tempfile::tempdir().unwrap();
                let mut command = command(&[&["-s", &address], args].concat());
                command.env("CONCLAVE_STATE_DIR", state.path()).env("CONCLAVE_USER", "ana");
                command.env("SSL_CERT_FILE", &known.file).env_remove("SSL_CERT_DIR");
                run(&mut command, b"")
            };
            // A client waits for a handshake for 2 s only.
            until("a handshake ends in time", || {
                let ran = ask();
                assert_ne!(ran.code, Some(0), "{what}: {ran:#?}");
                let is_late = ran.err.contains("did not answer within");
                let is_refused = ran.err.contains("no message and no token was sent to it");
                assert!(is_late || is_refused, "{what}: {ran:#?}");
                is_refused
            });
            for said in relay.said() {
                assert!(said.is_empty(), "with {what} the server heard {}", String::from_utf8_lossy(&said));
            }
        }
    }
}
