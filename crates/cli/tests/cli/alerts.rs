//! Webhooks of an Alertmanager: each change of an alert is one message, whatever is repeated or killed.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::slice;
use std::sync::mpsc::Receiver;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Up, command, lines_of, run, signal, until};

/// A running `conclave alerts`.
struct Receives {
    child: Child,
    address: String,
    _out: Receiver<String>,
}

impl Receives {
    fn start(up: &Up, more: &[&str]) -> Self {
        let args = ["alerts", "--json", "--listen", "127.0.0.1:0", "--log", "warn"];
        let mut command = up.command(&[&args[..], more].concat());
        command.env("CONCLAVE_USER", "alertmanager").stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let out = lines_of(child.stdout.take().unwrap());
        let ready: Value = serde_json::from_str(&out.recv_timeout(DEADLINE).unwrap()).unwrap();
        let url = ready["url"].as_str().unwrap();
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/alerts")).unwrap();
        Self { child, address: address.to_owned(), _out: out }
    }

    fn kill(mut self) {
        signal(self.child.id(), Signal::KILL);
        self.child.wait().unwrap();
    }

    /// The answer's status and body.
    fn post(&self, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        exchange(
            &self.address,
            &format!("POST /alerts HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"),
            body,
        )
        .unwrap()
    }

    fn webhook(&self, alerts: &[Value]) -> (u16, String) {
        self.post("content-type: application/json\r\n", &webhook(alerts))
    }
}

impl Drop for Receives {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exchange(address: &str, head: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(head.as_bytes())?;
    // A server that refuses a body need not read it.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok()).expect(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").expect(&answer);
    Ok((status, body.to_owned()))
}

fn alert(node: &str, status: &str, began: &str) -> Value {
    json!({
        "status": status, "startsAt": began, "endsAt": began,
        "labels": {"alertname": "ConclaveNodeDown", "severity": "critical", "node": node},
        "annotations": {"summary": format!("{node} does not answer")},
    })
}

fn webhook(alerts: &[Value]) -> String {
    json!({"version": "4", "groupKey": "{}:{alertname=\"ConclaveNodeDown\"}", "status": "firing", "alerts": alerts})
        .to_string()
}

fn posted(up: &Up, room: &str) -> Vec<String> {
    let history = up.run(&["history", room, "--json", "--linearizable"]);
    let messages = history.json().into_iter().filter(|event| event["kind"] == "message");
    messages.map(|event| event["body"].as_str().unwrap().to_owned()).collect()
}

const BEGAN: &str = "2026-07-27T10:00:00Z";
const AGAIN: &str = "2026-07-27T12:00:00Z";

fn queued() -> (u16, String) {
    (200, "queued\n".to_owned())
}

fn nothing_new() -> (u16, String) {
    (200, "nothing new\n".to_owned())
}

#[test]
fn each_change_of_an_alert_is_one_message_whatever_is_repeated_or_killed() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    up.until_healthy();
    let receives = Receives::start(&up, &["--create", "ops"]);
    let page = |path: &str| exchange(&receives.address, &format!("GET {path} HTTP/1.0\r\n\r\n"), "").unwrap();
    until("it is ready", || page("/readyz").0 == 200);
    assert!(page("/metrics").1.contains("process_start_time_seconds"));

    let (one, two) = (alert("n1", "firing", BEGAN), alert("n2", "firing", BEGAN));
    assert_eq!(receives.webhook(slice::from_ref(&one)), queued());
    assert_eq!(receives.webhook(slice::from_ref(&one)), nothing_new());
    assert_eq!(receives.webhook(&[one.clone(), two.clone()]), queued());
    assert_eq!(receives.webhook(&[alert("n1", "resolved", BEGAN), two.clone()]), queued());
    let mut expected = vec![
        "FIRING ConclaveNodeDown (critical): n1 does not answer".to_owned(),
        "FIRING ConclaveNodeDown (critical): n2 does not answer | 2 firing in this group".to_owned(),
        "RESOLVED ConclaveNodeDown (critical): n1 does not answer | 1 firing in this group".to_owned(),
    ];
    until("the lines are there", || posted(&up, "ops") == expected);

    // What is no webhook is answered, and says nothing to the room.
    let (status, why) = receives.post("", "{\"version\": \"4\"");
    assert_eq!(status, 400, "{why}");
    let (status, why) = receives.post("", &" ".repeat(1024 * 1024 + 1));
    assert!(status == 413 && why.contains("max_alerts"), "{status} {why}");
    assert_eq!(receives.post("origin: http://a\r\n", &webhook(&[one])).0, 403);
    assert_eq!(page("/alerts").0, 405);
    assert_eq!(page("/elsewhere").0, 404);

    // A majority is gone: the line is queued, on disk.
    let pids = up.pids();
    pids[1..].iter().for_each(|pid| signal(*pid, Signal::STOP));
    let again = alert("n1", "firing", AGAIN);
    assert_eq!(receives.webhook(&[again.clone(), two.clone()]), queued());
    receives.kill();
    let receives = Receives::start(&up, &["ops"]);
    assert_eq!(receives.webhook(&[again.clone(), two.clone()]), nothing_new());
    receives.kill();
    pids[1..].iter().for_each(|pid| signal(*pid, Signal::CONT));
    let receives = Receives::start(&up, &["ops"]);
    expected
        .push("FIRING ConclaveNodeDown (critical): n1 does not answer | 2 firing in this group".to_owned());
    until("what was queued is there", || posted(&up, "ops").len() >= expected.len());
    assert_eq!(receives.webhook(&[again, two]), nothing_new());
    assert_eq!(receives.webhook(&[alert("n2", "resolved", BEGAN)]), queued());
    expected.push("RESOLVED ConclaveNodeDown (critical): n2 does not answer".to_owned());
    until("the last line is there", || posted(&up, "ops").len() >= expected.len());
    assert_eq!(posted(&up, "ops"), expected);

    // One receiver of a name at a time, and only for a room that exists.
    let mut second = up.command(&["alerts", "--listen", "127.0.0.1:0", "--timeout", "1s", "ops"]);
    let refused = run(second.env("CONCLAVE_USER", "alertmanager"), b"").expect(1);
    assert!(refused.err.contains("runs already") && refused.err.contains("--name"), "{refused:#?}");
    let unknown = up.run(&["alerts", "--listen", "127.0.0.1:0", "nowhere"]).expect(4);
    assert!(unknown.err.contains("there is no room #nowhere"), "{unknown:#?}");
}

#[test]
fn beyond_loopback_a_receiver_wants_a_token_and_its_own_certificate() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = |name: &str| scratch.path().join(name).display().to_string();
    let alerts = |more: &[&str]| {
        let mut command = command(&[&["alerts", "--listen", "0.0.0.0:0", "ops"], more].concat());
        run(command.env("CONCLAVE_STATE_DIR", dir("state")).env("CONCLAVE_USER", "ana"), b"").expect(2).err
    };
    let refused = alerts(&["--listen-insecure"]);
    assert!(refused.contains("without a token") && refused.contains("--token-file"), "{refused}");
    write_token(&scratch.path().join("token"));
    let token = dir("token");
    let refused = alerts(&["--token-file", &token]);
    assert!(refused.contains("--tls-dir") && refused.contains("--listen-insecure"), "{refused}");
    run(&mut command(&["admin", "ca", "init", "--dir", &dir("pki")]), b"").expect(0);
    let issue = ["admin", "ca", "issue", "--dir", &dir("pki"), "--chaos", "chaos", "--alerts", "alerts"];
    run(&mut command(&issue), b"").expect(0);
    let refused = alerts(&["--token-file", &token, "--tls-dir", &dir("pki/chaos")]);
    assert!(refused.contains("that of a chaos controller") && refused.contains("--alerts"), "{refused}");
}

fn write_token(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
    file.write_all(b"0123456789abcdef\n").unwrap();
}
