//! `conclave doctor` and `conclave health`.

use std::path::Path;
use std::process::{Child, Stdio};

use conclave_core::version::VERSION;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    ClusterPermit, DEADLINE, Ran, Up, command, free_base_port, lines_of, run, signal, until, until_says,
};

fn health(address: &str, page: &str) -> Ran {
    run(&mut command(&["health", "--url", &format!("http://{address}{page}")]), b"")
}

fn said(report: &Value, list: &str) -> String {
    report[list].as_array().expect("a list").iter().map(|one| format!("{one}\n")).collect()
}

#[test]
fn a_healthy_cluster_has_no_problems_and_a_broken_one_has() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "1", "--no-restart"]);
    up.until_healthy();
    let node = up.ready["nodes"][0]["http"].as_str().unwrap();
    for address in [node, &up.resolver().http] {
        health(address, "/livez").expect(0);
        health(address, "/readyz").expect(0);
        let ran = health(address, "/nothing").expect(1);
        assert!(ran.err.contains("answers 404"), "{ran:#?}");
    }

    let parts =
        ["not stale", "_conclave._tcp.leader.conclave.internal.", "node3", "can lose 1", "no problems found"];
    until_says(0, &parts, || up.find(&["doctor"]));
    let report = until_says(0, &[], || up.find(&["doctor", "--json"])).json().remove(0);
    assert_eq!((&report["ok"], report["servers"].as_array().unwrap().len()), (&Value::from(true), 3));
    for server in report["servers"].as_array().unwrap() {
        assert_eq!(server["version"], VERSION, "{server:#}");
        assert_eq!(server["health"]["ready"], true, "{server:#}");
        // The offset is known to within half of the round trip.
        assert!(server["clock_offset_ms"].as_i64().is_some_and(|ms| ms.abs() < 10_000), "{server:#}");
    }
    let name_server = &report["zones"][0]["name_servers"][0];
    assert_eq!(name_server["services"][0]["targets"].as_array().unwrap().len(), 3, "{name_server:#}");
    assert!(name_server["serial"].as_u64().is_some() && name_server["health"]["ready"] == true);

    // A server and the name server die.
    let (dead, address) = (up.pids()[2], up.ready["nodes"][2]["client"].as_str().unwrap());
    signal(dead, Signal::KILL);
    until("the others notice", || up.status()["healthy"] == false);
    signal(up.resolver().pid, Signal::KILL);
    let ran = up.find(&["doctor"]).expect(1);
    let dns = up.resolver().dns.to_string();
    for part in
        [&format!("! the name server {dns}"), &format!("! node3 ({address}): no connection"), "next: "]
    {
        assert!(ran.out.contains(part), "{part:?} is missing in\n{}", ran.out);
    }
    let report = up.find(&["doctor", "--json"]).expect(1).json().remove(0);
    assert!(report["ok"] == false && said(&report, "problems").contains("node3"), "{report:#}");
    let node = up.ready["nodes"][2]["http"].as_str().unwrap();
    assert!(health(node, "/readyz").expect(1).err.contains("does not answer"));
}

#[test]
fn without_any_server_the_doctor_exits_with_6() {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = command(&["-s", "127.0.0.1:1", "doctor"]);
    let ran = run(command.env("CONCLAVE_STATE_DIR", scratch.path()).env("CONCLAVE_HIDDEN", "hunter2"), b"");
    let ran = ran.expect(6);
    for part in ["asked for 127.0.0.1:1", "! no server answers", "CONCLAVE_HIDDEN", "no connection"] {
        assert!(ran.out.contains(part), "{part:?} is missing in\n{}", ran.out);
    }
    assert!(!ran.out.contains("hunter2"), "{ran:#?}");
}

/// A cluster of one server.
struct Single {
    server: Child,
    at: String,
    http: String,
}

impl Single {
    /// A server that is reached at one address, and advertises another one, at which nobody is.
    fn start(scratch: &Path) -> Self {
        Self::start_at(scratch, 5, &[])
    }

    /// With this offset of the advertised port from the one that it listens at.
    fn start_at(scratch: &Path, advertised: u16, more: &[&str]) -> Self {
        let base = free_base_port();
        let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
        let mut server =
            command(&["server", "--name", "n1", "--shards", "1", "--exit-with-stdin", "--mdns", "off"]);
        server
            .args([
                "--initial-cluster",
                &format!("n1={},{},{}", at(advertised), at(1), at(2)),
                "--listen",
                &at(0),
            ])
            .args(["--peer-listen", &at(1), "--http-listen", &at(2), "--dir"])
            .arg(scratch.join("n1"))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { server: server.spawn().unwrap(), at: at(0), http: at(2) }
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

#[test]
fn servers_behind_a_proxy_are_well_and_the_proxy_of_the_environment_is_not_asked() {
    let _permit = ClusterPermit::wait();
    let scratch = tempfile::tempdir().unwrap();
    let relayed = Single::start(scratch.path());
    let ask = |args: &[&str]| {
        let mut command = command(args);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY"] {
            // At port 1 is nobody.
            command.env(name, "http://127.0.0.1:1").env(name.to_ascii_lowercase(), "http://127.0.0.1:1");
        }
        command.env("CONCLAVE_STATE_DIR", scratch.path().join("state"));
        run(&mut command, b"")
    };
    let url = format!("http://{}/readyz", relayed.http);
    until_says(0, &[], || ask(&["health", "--url", &url]));
    ask(&["-s", &relayed.at, "send", "general", "hello", "--create"]).expect(0);
    let ran = until_says(0, &["no problems found"], || ask(&["-s", &relayed.at, "doctor"]));
    for part in
        [&format!("the servers answer at {}", relayed.at), "stands in between", "not at the addresses"]
    {
        assert!(ran.out.contains(part), "{part:?} is missing in\n{}", ran.out);
    }
    let report = ask(&["-s", &relayed.at, "doctor", "--json"]).expect(0).json().remove(0);
    let relays = report["servers"].as_array().unwrap().iter().filter(|server| server["relayed"] == true);
    assert_eq!(relays.map(|server| server["address"].as_str().unwrap()).collect::<Vec<_>>(), [&relayed.at]);
}

/// A `conclave tail` that runs until the test ends.
struct Tail(Child);

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn full_servers_say_that_they_are_full() {
    let _permit = ClusterPermit::wait();
    let scratch = tempfile::tempdir().unwrap();
    let server = Single::start_at(scratch.path(), 0, &["--max-clients", "1"]);
    let of = |user: &str, args: &[&str]| {
        let mut command = command(&["-s", &server.at, "-u", user, "--timeout", "3s"]);
        command.args(args).env("CONCLAVE_STATE_DIR", scratch.path().join(user));
        command
    };
    until_says(0, &[], || run(&mut of("ana", &["send", "general", "hello", "--create"]), b""));
    let mut tail = of("ana", &["tail", "general"]).spawn().unwrap();
    // What it prints shows that it has the only place; another one could be faster.
    let printed = lines_of(tail.stdout.take().unwrap());
    let mut tails = vec![Tail(tail)];
    printed.recv_timeout(DEADLINE).unwrap();
    let told = |code: i32, why: &str, user: &str, args: &[&str]| {
        until(why, || {
            let ran = run(&mut of(user, args), b"");
            ran.code == Some(code) && ran.err.contains(&format!("every server that answers is full: {why}"))
        });
    };
    told(6, "this node has its maximum number of clients", "bo", &["tail", "general"]);
    // A server takes two connections for each client. The others wait for a place, and keep their connections.
    for user in ["kim", "lu", "mo"] {
        let resume = scratch.path().join(format!("{user}.position"));
        let args = ["tail", "general", "--resume-file", resume.to_str().unwrap()];
        tails.push(Tail(of(user, &args).spawn().unwrap()));
    }
    let full = "this server has its maximum number of connections";
    told(6, full, "bo", &["status"]);
    told(6, full, "bo", &["tail", "general"]);
    told(5, full, "ana", &["send", "general", "waits"]);
    drop(tails);
    until_says(0, &[], || run(&mut of("ana", &["send", "general", "sent"]), b""));
}
