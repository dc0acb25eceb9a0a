//! `conclave admin ca`, and servers that prove themselves to each other with what it makes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{ClusterPermit, command, free_base_port, run, signal, until};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

fn ca(args: &[&str]) -> Command {
    command(&[&["admin", "ca"], args].concat())
}

/// A server of a cluster of three, whose certificate is in this directory.
fn server(scratch: &Path, base: u16, index: u16, tls: &Path) -> Command {
    let at = |index: u16, offset: u16| format!("127.0.0.1:{}", base + 10 * index + offset);
    let initial: Vec<String> = (0..)
        .zip(NAMES)
        .map(|(index, name)| format!("{name}={},{},{}", at(index, 0), at(index, 1), at(index, 2)))
        .collect();
    let name = NAMES[usize::from(index)];
    let dir = scratch.join(format!("data-{name}"));
    let mut server =
        command(&["server", "--name", name, "--shards", "1", "--exit-with-stdin", "--mdns", "off"]);
    server
        .args(["--initial-cluster", &initial.join(";"), "--listen", &at(index, 0)])
        .args(["--peer-listen", &at(index, 1), "--http-listen", &at(index, 2)])
        .arg("--dir")
        .arg(dir)
        .arg("--tls-dir")
        .arg(tls);
    server
}

/// Processes that end with the test: closing their stdin stops them.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }
}

#[test]
fn an_authority_is_made_once_and_certificates_are_renewed_when_due() {
    let scratch = tempfile::tempdir().unwrap();
    let pki = scratch.path().join("pki");
    let pki = pki.to_str().unwrap();
    let early = run(&mut ca(&["issue", "--dir", pki, "n1"]), b"").expect(1);
    assert!(early.err.contains("conclave admin ca init"), "{early:#?}");

    let made = run(&mut ca(&["init", "--dir", pki]), b"").expect(0);
    let id = made.lines()[0].to_owned();
    assert!(id.len() == 32 && id.chars().all(|digit| digit.is_ascii_hexdigit()), "{made:#?}");
    let again = run(&mut ca(&["init", "--dir", pki]), b"").expect(0);
    assert_eq!(again.lines(), [&id]);
    assert!(again.err.contains("has an authority already; it stays as it is"), "{again:#?}");

    let all =
        ["issue", "--dir", pki, "n1=10.0.0.1;n2;n3.example.org=h:1,h:2,h:3", "--dns", "ns1=10.0.0.53;ns2"];
    let issued = run(&mut ca(&all), b"").expect(0);
    assert_eq!(issued.lines(), ["issued: n1, n2, n3.example.org, ns1, ns2"]);
    for again in [&all[..], &["renew", "--dir", pki]] {
        let nothing = run(&mut ca(again), b"").expect(0);
        assert!(nothing.out.contains("more than 30 days left"), "{nothing:#?}");
    }
    std::fs::write(scratch.path().join("pki/ns2/node.pem"), "noise").unwrap();
    let damaged = run(&mut ca(&["renew", "--dir", pki]), b"").expect(1);
    assert!(damaged.err.contains("certificate of ns2 is not renewed"), "{damaged:#?}");
    for wrong in [&["n1", "n1"][..], &["../n1"], &[""], &["--dns", "ns"], &[]] {
        run(&mut ca(&[&["issue", "--dir", pki], wrong].concat()), b"").expect(2);
    }
}

#[test]
fn renewals_go_on_until_they_are_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let pki = scratch.path().join("pki");
    let dir = pki.to_str().unwrap();
    let early = run(&mut ca(&["renew", "--dir", dir, "--every", "1h"]), b"").expect(1);
    assert!(early.err.contains("conclave admin ca init"), "{early:#?}");
    run(&mut ca(&["init", "--dir", dir]), b"").expect(0);
    run(&mut ca(&["issue", "--dir", dir, "--dns", "ns1"]), b"").expect(0);
    let mut renewing = ca(&["renew", "--dir", dir, "--every", "1s"]).stdin(Stdio::null()).spawn().unwrap();
    // A damaged key is a reason to renew as well.
    let key = pki.join("ns1/node.key");
    std::fs::write(&key, "").unwrap();
    until("the certificate is renewed", || !std::fs::read(&key).unwrap().is_empty());
    assert!(renewing.try_wait().unwrap().is_none(), "it has ended by itself");
    signal(renewing.id(), Signal::TERM);
    let mut code = None;
    until("it stops", || {
        code = renewing.try_wait().unwrap();
        code.is_some()
    });
    assert!(code.unwrap().success());
}

#[test]
fn servers_with_certificates_are_a_cluster_whose_id_is_the_authoritys() {
    let _permit = ClusterPermit::wait();
    let scratch = tempfile::tempdir().unwrap();
    let pki = scratch.path().join("pki");
    let dir = pki.to_str().unwrap();
    let id = run(&mut ca(&["init", "--dir", dir]), b"").expect(0).lines()[0].to_owned();
    // The key of n2 never leaves its machine.
    let far = scratch.path().join("n2");
    let request = run(&mut ca(&["request", "--dir", far.to_str().unwrap()]), b"").expect(0);
    let sign = ["sign", "--dir", dir, "--request", "-", "--for", "n2", "n1", "n2", "n3"];
    run(&mut ca(&sign), b"-----BEGIN CERTIFICATE REQUEST-----").expect(1);
    run(&mut ca(&sign), request.out.as_bytes()).expect(0);
    for file in ["ca.pem", "node.pem"] {
        std::fs::copy(pki.join("n2").join(file), far.join(file)).unwrap();
    }
    let issued = run(&mut ca(&["issue", "--dir", dir, "n1", "n2", "n3", "--dns", "ns1"]), b"").expect(0);
    assert_eq!(issued.lines(), ["issued: n1, n3, ns1"]);
    assert!(!pki.join("n2/node.key").exists());
    let base = free_base_port();

    let swapped = run(&mut server(scratch.path(), base, 0, &far), b"").expect(1);
    assert!(swapped.err.contains("that of node 2, and this is node 1"), "{swapped:#?}");

    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "the secret of a test, long enough").unwrap();
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
    let everywhere = format!("0.0.0.0:{}", base + 55);
    let mut name_server =
        command(&["dns", "--exit-with-stdin", "--listen", &at(53), "--grpc-listen", &at(54)]);
    name_server.args(["--http-listen", &everywhere, "--secret-file"]).arg(&secret);
    name_server.arg("--tls-dir").arg(pki.join("ns1"));
    name_server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let name_server = name_server.spawn().unwrap();
    let start = |index: u16| -> Child {
        let tls = if index == 1 { far.clone() } else { pki.join(NAMES[usize::from(index)]) };
        let mut server = server(scratch.path(), base, index, &tls);
        server.args(["--resolvers", &at(54), "--secret-file"]).arg(&secret);
        server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let _processes = Processes([0, 1, 2].map(start).into_iter().chain([name_server]).collect());
    let address = format!("127.0.0.1:{base}");
    until("the cluster is healthy", || {
        let mut status = command(&["-s", &address, "status", "--json"]);
        let status = run(status.env("CONCLAVE_STATE_DIR", scratch.path()), b"");
        let found: Value = serde_json::from_str(&status.out).unwrap_or_default();
        status.code == Some(0) && found["cluster_id"] == id.as_str()
    });

    // Its pages are for others, too, so they have TLS; a health check with the same directory sees that they do.
    let page = format!("http://{}/readyz", at(55));
    until("servers have registered", || {
        let mut health = command(&["health", "--url", &page]);
        run(health.env("CONCLAVE_TLS_DIR", pki.join("ns1")), b"").code == Some(0)
    });
    run(&mut command(&["health", "--url", &page]), b"").expect(1);
    let server_page = format!("http://{}/livez", at(2));
    run(&mut command(&["health", "--url", &server_page, "--tls-dir", far.to_str().unwrap()]), b"").expect(0);
    let (other, foreign) =
        (scratch.path().join("other"), "does not answer: the peer's certificate is not of this cluster");
    run(&mut ca(&["init", "--dir", other.to_str().unwrap()]), b"").expect(0);
    let refused =
        run(&mut command(&["health", "--url", &page, "--tls-dir", other.to_str().unwrap()]), b"").expect(1);
    assert!(refused.err.contains(foreign), "{refused:#?}");
    let mut found = command(&["--name-server", &at(53), "doctor", "--json"]);
    let found = run(found.env("CONCLAVE_STATE_DIR", scratch.path()), b"");
    let report: Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!(report["zones"][0]["name_servers"][0]["health"]["ready"], true, "{report:#}");
}
