//! Servers that claim to belong to a cluster which is not their own get nothing of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use conclave_client::{Client, Content, Outbox};
use conclave_pki::Ca;

use crate::harness::{command, run};
use crate::impostor::Impostor;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const TOKEN: &str = "cnva_0123456789abcdef0123456789abcdef";

fn ids() -> [String; 2] {
    ["ab", "cd"].map(|digits| digits.repeat(16))
}

/// A command with this state directory that knows only the address.
fn at(address: &str, state: &Path, args: &[&str]) -> Command {
    let mut command = command(&[&["-s", address, "--timeout", "30s"], args].concat());
    command.env("CONCLAVE_STATE_DIR", state).env("CONCLAVE_USER", "ana");
    command
}

/// Writes a file for its owner only.
fn private(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// What the server heard that is a secret of somebody.
fn secrets(server: &Impostor) -> Vec<String> {
    server.heard().into_iter().filter(|heard| !heard.ends_with(" -")).collect()
}

#[test]
fn a_kept_admin_token_is_for_the_cluster_that_was_identified() {
    let scratch = tempfile::tempdir().unwrap();
    let [victim, own] = ids();
    private(&scratch.path().join(&victim).join(".tls"), &victim);
    private(&scratch.path().join(&victim).join(".admin-token"), TOKEN);
    // It names its own cluster to those who ask whose it is, and the victim's to operators.
    let server = Impostor::plain(&own, &victim);
    let ran = run(&mut at(&server.address, scratch.path(), &["admin", "rebalance"]), b"");
    assert!(!server.heard().is_empty(), "the operator did not come: {ran:#?}");
    assert_eq!(secrets(&server), Vec::<String>::new());
    // It claims the victim's id from the start.
    let server = Impostor::plain(&victim, &victim);
    let refused = run(&mut at(&server.address, scratch.path(), &["admin", "rebalance"]), b"").expect(1);
    assert!(refused.err.contains("does not prove"), "{refused:#?}");
    assert_eq!(server.heard(), Vec::<String>::new());
    // A kept token of a cluster without TLS is for the servers that `conclave up` started.
    fs::remove_file(scratch.path().join(&victim).join(".tls")).unwrap();
    run(&mut at(&server.address, scratch.path(), &["admin", "rebalance"]), b"").expect(0);
    assert_eq!(secrets(&server), Vec::<String>::new());
    private(&scratch.path().join("known-servers"), &format!("{} plain\n", server.address));
    run(&mut at(&server.address, scratch.path(), &["admin", "rebalance"]), b"").expect(0);
    assert_eq!(secrets(&server), [format!("Rebalance Bearer {TOKEN}")]);
    // Nobody keeps another account of this machine from serving TLS in that cluster's name.
    let server = Impostor::tls_claiming(&Ca::create(now()).unwrap(), now(), &victim);
    run(&mut at(&server.address, scratch.path(), &["admin", "rebalance"]), b"").expect(0);
    assert!(!server.heard().is_empty() && secrets(&server).is_empty(), "{:?}", server.heard());
}

/// Leaves an unsent message of ana for this cluster.
fn leave_unsent(state: &Path, cluster: &str) {
    let server = Impostor::plain(cluster, cluster);
    let outbox = Outbox::Durable(state.join(cluster).join("ana/0"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = Client::builder().servers([server.address.clone()]).user("ana").outbox(outbox);
        let client = builder.connect().await.unwrap();
        client.submit("general", Content::Text("secret".into())).await.unwrap();
        client.close().await;
    });
}

#[test]
fn sessions_and_unsent_messages_are_for_the_cluster_that_was_identified() {
    let scratch = tempfile::tempdir().unwrap();
    let [victim, own] = ids();
    leave_unsent(scratch.path(), &victim);
    // It names its own cluster to those who ask whose it is, and the victim's once it is asked for a session.
    let server = Impostor::plain(&own, &victim);
    let refused = run(&mut at(&server.address, scratch.path(), &["send", "general", "hello"]), b"").expect(1);
    assert!(refused.err.contains("of another cluster"), "{refused:#?}");
    assert_eq!(server.heard(), ["OpenSession -"]);
}

#[expect(clippy::disallowed_methods, reason = "commands compare certificates with the system's clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[test]
fn a_given_admin_token_is_for_clusters_that_are_known_or_named() {
    let scratch = tempfile::tempdir().unwrap();
    let [own, _] = ids();
    let file = scratch.path().join("token");
    private(&file, TOKEN);
    let rebalance = ["admin", "rebalance", "--admin-token-file", file.to_str().unwrap()];
    let plain = Impostor::plain(&own, &own);
    let refused = run(&mut at(&plain.address, &scratch.path().join("a"), &rebalance), b"").expect(1);
    assert!(refused.err.contains("speaks no TLS") && refused.err.contains("--insecure"), "{refused:#?}");
    assert_eq!(secrets(&plain), Vec::<String>::new());
    let insecure = [&["--insecure"], &rebalance[..]].concat();
    run(&mut at(&plain.address, &scratch.path().join("a"), &insecure), b"").expect(0);
    assert_eq!(secrets(&plain).len(), 1);

    let ca = Ca::create(now()).unwrap();
    let server = Impostor::tls(&ca, now());
    let refused = run(&mut at(&server.address, &scratch.path().join("b"), &rebalance), b"").expect(1);
    assert!(refused.err.contains("was not known here before"), "{refused:#?}");
    assert_eq!(secrets(&server), Vec::<String>::new());
    let named = format!("conclave://{}/{}", server.address, ca.id());
    run(&mut at(&named, &scratch.path().join("c"), &rebalance), b"").expect(0);
    run(&mut at(&server.address, &scratch.path().join("b"), &rebalance), b"").expect(0);
    assert_eq!(secrets(&server).len(), 2);
}

#[test]
fn a_server_with_a_bad_certificate_is_not_asked_without_tls() {
    let scratch = tempfile::tempdir().unwrap();
    let ca = Ca::create(now()).unwrap();
    for (issued_at, says) in [(now() - YEAR, "has expired"), (now() + YEAR, "not valid yet")] {
        let server = Impostor::tls(&ca, issued_at);
        let refused = run(&mut at(&server.address, scratch.path(), &["--insecure", "status"]), b"").expect(1);
        assert!(refused.err.contains(says) && refused.err.contains("clock"), "{refused:#?}");
        let doctor = run(&mut at(&server.address, scratch.path(), &["doctor"]), b"").expect(1);
        assert!(doctor.out.contains(says), "{doctor:#?}");
        assert_eq!(server.heard(), Vec::<String>::new());
    }
}

#[test]
fn another_cluster_at_known_addresses_is_named_and_can_be_gone_over_to() {
    let scratch = tempfile::tempdir().unwrap();
    let [old, new] = ids();
    let server = Impostor::plain(&new, &new);
    let known = scratch.path().join("known-servers");
    private(&known, &format!("127.0.0.1:1 {old}\n{} {old}\n", server.address));
    let line = format!("{}, line 2", known.display());
    let port = server.address.rsplit_once(':').unwrap().1;
    for address in [server.address.clone(), format!("localhost:{port}")] {
        let refused = run(&mut at(&address, scratch.path(), &["--insecure", "status"]), b"").expect(1);
        for part in ["speaks no TLS", &line, &format!("conclave use {address}")] {
            assert!(refused.err.contains(part), "{part}: {refused:#?}");
        }
        let doctor = run(&mut at(&address, scratch.path(), &["doctor"]), b"").expect(1);
        assert!(doctor.out.contains("speaks no TLS") && doctor.out.contains("conclave use"), "{doctor:#?}");
    }
    assert_eq!(server.heard(), Vec::<String>::new());
    run(&mut at(&server.address, scratch.path(), &["use", &server.address]), b"").expect(0);
    let status = run(&mut at(&server.address, scratch.path(), &["status"]), b"");
    assert!(status.out.contains(&new), "{status:#?}");
}
