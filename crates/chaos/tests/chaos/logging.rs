//! The program itself while nobody reads its output.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

/// Deadline of every wait, which only a failure reaches.
const DEADLINE: Duration = Duration::from_secs(120);

/// A process that is killed with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// An address with a port that nobody uses, and that no connection gets meanwhile: it is below those that the system hands
/// out, and beside those of the tests of other packages.
fn free_address() -> SocketAddr {
    // Other test processes start at other ports.
    let start = u16::try_from(std::process::id() % 2_000).unwrap_or(0);
    let port = |offset: u16| 18_000 + (start + offset) % 2_000;
    let mut addresses = (0..2_000).map(|offset| SocketAddr::from(([127, 0, 0, 1], port(offset))));
    addresses.find(|&address| TcpListener::bind(address).is_ok()).expect("a free port")
}

fn metrics(address: SocketAddr) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}

#[test]
fn a_controller_whose_output_nobody_reads_serves_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let list = r#"{"allow_faults": false, "restarts": false, "children": []}"#;
    fs::write(dir.path().join("processes.json"), list).unwrap();
    // The pipe has no room for another line.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(b"x").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    let address = free_address();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_conclave-chaos"));
    serve.arg("--dir").arg(dir.path()).args(["serve", "--listen", &address.to_string()]);
    let mut serve = Process(serve.stdin(Stdio::null()).stderr(writer).spawn().unwrap());
    until("the controller answers", || {
        assert_eq!(serve.0.try_wait().unwrap(), None, "the controller ended");
        metrics(address).contains("\nconclave_log_lines_dropped_total 0\n")
    });
    let pid = i32::try_from(serve.0.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let mut status = None;
    until("the controller stops", || {
        status = serve.0.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}
