//! TLS between clients and servers, as people meet it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::{Ran, Up, command, free_base_port, run};

/// A command with this state directory that knows only the address.
fn at(address: &str, state: &Path, args: &[&str]) -> Command {
    let mut command = command(&[&["-s", address], args].concat());
    command.env("CONCLAVE_STATE_DIR", state).env("CONCLAVE_USER", "ana");
    command
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_cluster_of_up_speaks_tls_and_its_users_commands_need_no_flag() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = free_base_port().to_string();
    let args = ["--dir", dir.to_str().unwrap(), "--base-port", &port, "--shards", "1"];
    let up = Up::start(scratch.path(), &args);
    let id = up.ready["cluster_id"].as_str().unwrap().to_owned();
    assert_eq!(up.ready["authority"], id.as_str(), "the cluster id is the authority's");
    assert_eq!(mode(&dir.join("pki")), 0o700);
    for key in ["pki/ca.key", "pki/node1/node.key", "pki/node3/node.key"] {
        assert_eq!(mode(&dir.join(key)), 0o600, "{key}");
    }

    // The second terminal of the same user.
    let sent = up.run(&["send", "general", "hello"]).expect(0);
    assert!(sent.out.contains("#general:") && sent.err.is_empty(), "{sent:#?}");
    for args in [&["status"][..], &["ping"], &["rooms"], &["admin", "rebalance"]] {
        up.run(args).expect(0);
        up.find(args).expect(0);
    }
    let doctor = up.run(&["doctor", "--json"]).expect(0);
    assert!(doctor.out.contains(&id), "{doctor:#?}");

    // Somebody else takes the cluster that answers first, and says so once.
    let other = scratch.path().join("other");
    let address = up.servers().split(',').next().unwrap().to_owned();
    let first = run(&mut at(&address, &other, &["send", "general", "hi"]), b"").expect(0);
    assert!(first.err.contains("first contact") && first.err.contains(&id), "{first:#?}");
    let second = run(&mut at(&address, &other, &["send", "general", "hi"]), b"").expect(0);
    assert_eq!(second.err, "");
    let wrong = format!("conclave://{address}/{}", "0".repeat(32));
    let refused = run(&mut at(&wrong, &scratch.path().join("third"), &["send", "general", "hi"]), b"");
    let refused = refused.expect(1);
    assert!(refused.err.contains("does not prove"), "{refused:#?}");
    let given = format!("conclave://{address}/{id}");
    let given =
        run(&mut at(&given, &scratch.path().join("third"), &["send", "general", "hi"]), b"").expect(0);
    assert_eq!(given.err, "");
    up.stop();

    // Another cluster at the same address, without TLS: this user knows better.
    let plain = Up::start(
        &scratch.path().join("."),
        &["--ephemeral", "--insecure", "--base-port", &port, "--shards", "1"],
    );
    let short = ["send", "general", "secret", "--timeout", "2s"];
    let queued: Ran = run(&mut at(&address, &other, &short), b"").expect(5);
    assert!(queued.err.contains("does not prove"), "{queued:#?}");
    run(&mut at(&address, &other, &["--insecure", "status"]), b"").expect(1);
    plain.run(&["send", "general", "hello"]).expect(0);
    plain.stop();

    let again = Up::start(scratch.path(), &args);
    assert_eq!(again.ready["cluster_id"], id.as_str());
    let history = again.run(&["history", "general"]).expect(0);
    assert!(history.out.contains("hello"), "{history:#?}");
    again.stop();
}
