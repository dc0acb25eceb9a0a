//! Configurations with which a server or a cluster refuses to start: one sentence, and an exit code that is not 0.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Ran, command, finish, free_base_port, lines_of, run, signal, until};

/// The last line of stderr that is not advice.
fn sentence(ran: &Ran) -> &str {
    let mut lines = ran.err.lines().rev().filter(|line| !line.starts_with("  next: "));
    lines.next().unwrap_or_default()
}

/// Writes a secret for its owner only.
fn write_secret(path: &Path, secret: &str) {
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.unwrap().write_all(secret.as_bytes()).unwrap();
}

fn server(dir: &str, base: u16) -> Command {
    let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
    command(&[
        "server",
        "--dir",
        dir,
        "--shards",
        "1",
        "--listen",
        &at(0),
        "--peer-listen",
        &at(1),
        "--http-listen",
        &at(2),
    ])
}

#[test]
fn a_port_in_use() {
    let scratch = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let busy = TcpListener::bind(("127.0.0.1", base)).unwrap();
    let dir = scratch.path().join("data");
    let ran = run(&mut server(dir.to_str().unwrap(), base), b"").expect(1);
    assert!(sentence(&ran).contains("in use"), "{ran:#?}");
    assert!(sentence(&ran).contains(&base.to_string()), "{ran:#?}");
    drop(busy);
}

#[test]
fn a_directory_that_cannot_be_used() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let inside = file.join("data");
    let ran = run(&mut server(inside.to_str().unwrap(), free_base_port()), b"").expect(1);
    assert!(sentence(&ran).contains(inside.to_str().unwrap()), "{ran:#?}");
    for args in [["up", "--dir", inside.to_str().unwrap()], ["up", "--dir", "/proc/no-such-place"]] {
        let ran = run(&mut command(&args), b"").expect(1);
        assert!(ran.err.contains("cannot be used") && ran.err.contains("next: "), "{ran:#?}");
    }
}

#[test]
fn a_directory_that_is_locked() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("data");
    let dir = dir.to_str().unwrap();
    let base = free_base_port();
    let mut first = server(dir, base).stdin(Stdio::piped()).arg("--exit-with-stdin").spawn().unwrap();
    let address = format!("127.0.0.1:{base}");
    until("the server answers", || run(&mut command(&["-s", &address, "ping"]), b"").code == Some(0));
    let second = run(&mut server(dir, base + 10), b"").expect(1);
    assert!(sentence(&second).contains(dir), "{second:#?}");
    assert!(sentence(&second).contains("lock") || sentence(&second).contains("in use"), "{second:#?}");
    // With --exit-with-stdin the server stops when its stdin closes.
    drop(first.stdin.take());
    finish(first).expect(0);
}

#[test]
fn a_foreign_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("data");
    let dir = dir.to_str().unwrap();
    let base = free_base_port();
    let mut first = server(dir, base).spawn().unwrap();
    let log = lines_of(first.stderr.take().unwrap());
    let address = format!("127.0.0.1:{base}");
    until("the server answers", || run(&mut command(&["-s", &address, "ping"]), b"").code == Some(0));
    signal(first.id(), Signal::TERM);
    finish(first).expect(0);
    drop(log);
    let foreign = run(server(dir, base).args(["--cluster", "other"]), b"").expect(1);
    assert!(sentence(&foreign).contains("other"), "{foreign:#?}");
}

#[test]
fn a_resolver_without_a_secret() {
    let scratch = tempfile::tempdir().unwrap();
    let ran = run(&mut command(&["dns"]), b"").expect(2);
    assert!(ran.err.contains("needs the cluster's secret") && ran.err.contains("--secret-file"), "{ran:#?}");
    let file = scratch.path().join("secret");
    let path = file.to_str().unwrap();
    let ran = run(&mut command(&["dns", "--secret-file", path]), b"").expect(2);
    assert!(sentence(&ran).contains(path) && sentence(&ran).contains("cannot be read"), "{ran:#?}");
    write_secret(&file, "short");
    for command_line in [vec!["dns"], vec!["server", "--resolvers", "127.0.0.1:1"]] {
        let ran = run(&mut command(&[&command_line[..], &["--secret-file", path]].concat()), b"").expect(2);
        assert!(sentence(&ran).contains("5 bytes"), "{ran:#?}");
        assert!(ran.err.contains("next: make one with"), "{ran:#?}");
    }
    // A secret that others can read is none.
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let ran = run(&mut command(&["dns", "--secret-file", path]), b"").expect(2);
    assert!(sentence(&ran).contains("other users") && ran.err.contains("chmod 600"), "{ran:#?}");
    // A server that registers with a name server needs the secret as well.
    let ran = run(&mut command(&["server", "--resolvers", "127.0.0.1:1"]), b"").expect(2);
    assert!(sentence(&ran).contains("secret"), "{ran:#?}");
}

#[test]
fn fault_injection_beyond_loopback_without_an_admin_token() {
    for args in [
        vec!["server", "--allow-faults", "--listen", "0.0.0.0:7400"],
        vec!["dns", "--allow-faults", "--grpc-listen", "0.0.0.0:7454"],
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let secret = scratch.path().join("secret");
        write_secret(&secret, "0123456789abcdef");
        let ran = run(command(&args).arg("--secret-file").arg(&secret), b"").expect(2);
        assert!(sentence(&ran).contains("--admin-token-file"), "{ran:#?}");
    }
}

#[test]
fn ports_beyond_loopback_without_tls() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("secret");
    write_secret(&secret, "0123456789abcdef");
    for args in [
        ["server", "--listen", "0.0.0.0:7400"],
        ["server", "--peer-listen", "[::]:7401"],
        ["server", "--http-listen", "0.0.0.0:7480"],
        ["dns", "--grpc-listen", "0.0.0.0:7454"],
        ["dns", "--http-listen", "[::]:7455"],
    ] {
        let ran = run(command(&args).arg("--secret-file").arg(&secret), b"").expect(2);
        assert!(sentence(&ran).contains(&format!("{}: give --tls-dir", args[2])), "{ran:#?}");
        assert!(sentence(&ran).contains("--listen-insecure"), "{ran:#?}");
    }
    // With --listen-insecure they listen: the next thing that is wrong is the directory.
    let file = scratch.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let (dir, base) = (file.join("data"), free_base_port());
    let at = |host: &str, offset: u16| format!("{host}:{}", base + offset);
    let (client, peer, http) = (at("127.0.0.1", 0), at("127.0.0.1", 1), at("0.0.0.0", 2));
    let args =
        ["server", "--listen-insecure", "--listen", &client, "--peer-listen", &peer, "--http-listen", &http];
    let ran = run(command(&args).arg("--dir").arg(&dir), b"").expect(1);
    assert!(sentence(&ran).contains(file.to_str().unwrap()), "{ran:#?}");
    assert!(ran.err.contains("without TLS (--listen-insecure)"), "{ran:#?}");
}

#[test]
fn a_resolver_whose_port_is_taken() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("secret");
    write_secret(&secret, "0123456789abcdef");
    let base = free_base_port();
    let busy = UdpSocket::bind(("127.0.0.1", base)).unwrap();
    let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
    let file = secret.to_str().unwrap();
    let (dns, grpc, http) = (at(0), at(1), at(2));
    let args =
        ["dns", "--secret-file", file, "--listen", &dns, "--grpc-listen", &grpc, "--http-listen", &http];
    let ran = run(&mut command(&args), b"").expect(1);
    assert!(sentence(&ran).contains(&dns) && sentence(&ran).contains("in use"), "{ran:#?}");
    drop(busy);
}

#[test]
fn a_wrong_configuration_is_a_usage_error() {
    for args in [
        vec!["server", "--name", "a", "--initial-cluster", "b=h1;c=h2"],
        vec!["server", "--listen", "nowhere"],
        vec!["server", "--shards", "0"],
        vec!["server", "--log", "info,[[["],
        vec!["up", "--base-port", "65530", "--ephemeral"],
        vec!["-s", "conclave+srv://", "status"],
        vec!["--name-server", "nowhere", "status"],
        vec!["health", "--url", "https://127.0.0.1/"],
    ] {
        let ran = run(&mut command(&args), b"").expect(2);
        assert!(!ran.err.is_empty(), "{args:?}");
    }
}
