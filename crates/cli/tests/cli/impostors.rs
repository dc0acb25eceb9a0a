//! Servers that claim to belong to a cluster which is not their own get nothing of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

use conclave_client::{Client, Content, Outbox};

use crate::harness::{command, run};
use crate::impostor::Impostor;

const TOKEN: &str = "cnva_0123456789abcdef0123456789abcdef";

fn ids() -> [String; 2] {
    ["ab", "cd"].map(|digits| digits.repeat(16))
}

/// A command with this state directory that knows only the address.
fn at(address: &str, state: &Path, args: &[&str]) -> Command {
    let mut command = command(&[&["-s", address, "--timeout", "2s"], args].concat());
    command.env("CONCLAVE_STATE_DIR", state).env("CONCLAVE_USER", "ana");
    command
}

/// Writes a file for its owner only.
fn private(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::OpenOptions::new().write(true).create(true).mode(0o600).open(path).unwrap();
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
