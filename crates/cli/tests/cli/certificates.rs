//! `conclave admin ca`, and servers that prove themselves to each other with what it makes.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{command, free_base_port, one_cluster, run, until};

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
    let again = run(&mut ca(&["init", "--dir", pki]), b"").expect(1);
    assert!(again.err.contains("--if-missing"), "{again:#?}");
    let kept = run(&mut ca(&["init", "--dir", pki, "--if-missing"]), b"").expect(0);
    assert_eq!(kept.lines(), [&id]);

    let issued = run(&mut ca(&["issue", "--dir", pki, "n1", "n2", "n3"]), b"").expect(0);
    assert_eq!(issued.lines(), ["issued: n1, n2, n3"]);
    let nothing = run(&mut ca(&["issue", "--dir", pki, "n1", "n2", "n3"]), b"").expect(0);
    assert!(nothing.out.contains("more than 30 days left"), "{nothing:#?}");
    for wrong in [&["n1", "n1"][..], &["../n1"], &[""]] {
        run(&mut ca(&[&["issue", "--dir", pki], wrong].concat()), b"").expect(2);
    }
}

#[test]
fn servers_with_certificates_are_a_cluster_whose_id_is_the_authoritys() {
    let _one = one_cluster();
    let scratch = tempfile::tempdir().unwrap();
    let pki = scratch.path().join("pki");
    let dir = pki.to_str().unwrap();
    let id = run(&mut ca(&["init", "--dir", dir]), b"").expect(0).lines()[0].to_owned();
    run(&mut ca(&["issue", "--dir", dir, "n1", "n2", "n3"]), b"").expect(0);
    let base = free_base_port();

    let swapped = run(&mut server(scratch.path(), base, 0, &pki.join("n2")), b"").expect(1);
    assert!(swapped.err.contains("that of node 2, and this is node 1"), "{swapped:#?}");

    let start = |index: u16| -> Child {
        let mut server = server(scratch.path(), base, index, &pki.join(NAMES[usize::from(index)]));
        server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    // Closing their stdin at the end of the test stops them.
    let _servers = [0, 1, 2].map(start);
    let address = format!("127.0.0.1:{base}");
    until("the cluster is healthy", || {
        let mut status = command(&["-s", &address, "status", "--json"]);
        let status = run(status.env("CONCLAVE_STATE_DIR", scratch.path()), b"");
        let found: Value = serde_json::from_str(&status.out).unwrap_or_default();
        status.code == Some(0) && found["cluster_id"] == id.as_str()
    });
}
