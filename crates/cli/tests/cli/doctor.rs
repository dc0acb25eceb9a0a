//! `conclave doctor` and `conclave health`.

use conclave_core::version::VERSION;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Ran, Up, command, run, signal, until, until_says};

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
