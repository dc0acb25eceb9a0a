//! Processes whose log nobody takes, or whose log cannot be written: they serve on, and count the lines that are lost.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::Signal;

use crate::harness::{ClusterPermit, DEADLINE, command, free_base_port, run, signal, until};

/// A process that is killed with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Asks the process to stop, and returns its exit code.
    fn stop(mut self) -> Option<i32> {
        signal(self.0.id(), Signal::TERM);
        let mut status = None;
        until("the process stops", || {
            status = self.0.try_wait().expect("it is our child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

/// The only server of a cluster, which logs everything that it does.
fn server(scratch: &Path, base: u16) -> Command {
    let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
    let mut server = command(&["server", "--name", "n1", "--shards", "1", "--mdns", "off", "--log", "trace"]);
    server
        .args(["--listen", &at(0), "--peer-listen", &at(1), "--http-listen", &at(2)])
        .args(["--initial-cluster", &format!("n1={},{},{}", at(0), at(1), at(2))])
        .arg("--dir")
        .arg(scratch.join("data"));
    server
}

fn name_server(scratch: &Path, base: u16) -> Command {
    let secret = scratch.join("secret");
    fs::write(&secret, "0123456789abcdef").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
    let mut dns = command(&["dns", "--log", "trace", "--name-servers", "ns1=127.0.0.1"]);
    dns.args(["--listen", &at(0), "--grpc-listen", &at(1), "--http-listen", &at(2)])
        .arg("--secret-file")
        .arg(&secret);
    dns
}

/// The page of metrics; empty if the process does not answer.
fn metrics(base: u16) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", base + 2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}

fn dropped_lines(base: u16) -> u64 {
    let page = metrics(base);
    let mut lines = page.lines().filter_map(|line| line.strip_prefix("conclave_log_lines_dropped_total "));
    lines.next().and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn send(scratch: &Path, base: u16, text: &str) {
    let server = format!("127.0.0.1:{base}");
    let state = scratch.join("state");
    let mut send = command(&["-s", &server, "-u", "ana", "send", "--create", "logs", text]);
    run(send.env("CONCLAVE_STATE_DIR", &state), b"").expect(0);
}

/// Sends until lines of the server's log were dropped, and then once more.
fn serves_on(scratch: &Path, base: u16) {
    send(scratch, base, "first");
    until("lines are dropped", || {
        send(scratch, base, "again");
        dropped_lines(base) > 0
    });
    send(scratch, base, "last");
}

#[test]
fn a_server_serves_on_while_its_log_cannot_be_written() {
    let _permit = ClusterPermit::wait();
    let scratch = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let server = Process(server(scratch.path(), base).stderr(full).spawn().unwrap());
    until("the server answers", || metrics(base).contains("conclave_build_info"));
    serves_on(scratch.path(), base);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_serves_on_after_the_reader_of_its_log_has_gone() {
    let _permit = ClusterPermit::wait();
    let scratch = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let mut server = Process(server(scratch.path(), base).stderr(Stdio::piped()).spawn().unwrap());
    until("the server answers", || metrics(base).contains("conclave_build_info"));
    drop(server.0.stderr.take());
    serves_on(scratch.path(), base);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_whose_log_nobody_reads_serves_on_and_stops() {
    let _permit = ClusterPermit::wait();
    let scratch = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let mut server = Process(server(scratch.path(), base).stderr(Stdio::piped()).spawn().unwrap());
    // Never read, but open.
    let _pipe = server.0.stderr.take();
    until("the server answers", || metrics(base).contains("conclave_build_info"));
    serves_on(scratch.path(), base);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_that_cannot_start_ends_although_nobody_reads_why() {
    let scratch = tempfile::tempdir().unwrap();
    let base = free_base_port();
    // The pipe has no room for another line.
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", base)).unwrap();
    let mut server = Process(server(scratch.path(), base).stderr(writer).spawn().unwrap());
    let mut status = None;
    until("the server ends", || {
        status = server.0.try_wait().expect("it is our child");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    drop((reader, taken));
}

#[test]
fn a_name_server_serves_on_while_its_log_cannot_be_written() {
    let scratch = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let dns = Process(name_server(scratch.path(), base).stderr(full).spawn().unwrap());
    until("the name server has dropped lines", || dropped_lines(base) > 0);
    let mut client = TcpStream::connect(("127.0.0.1", base)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    // id.server CH TXT, over TCP.
    let question =
        b"\x00\x1b\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02id\x06server\x00\x00\x10\x00\x03";
    client.write_all(question).unwrap();
    client.read_exact(&mut [0; 14]).unwrap();
    assert_eq!(dns.stop(), Some(0));
}
