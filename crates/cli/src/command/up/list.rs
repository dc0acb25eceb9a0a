//! The list of running processes, as a file: `conclave-chaos` finds its targets there.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use conclave_client::find::Seed;
use serde::Serialize;

use super::child::Running;
use super::plan::UpPlan;
use crate::private;

/// Its name in the cluster's directory.
const FILE: &str = "processes.json";

/// The list in this directory. An `up` that was killed leaves it behind.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The file with the list. Dropping this removes it.
#[derive(Debug)]
pub(super) struct List {
    path: PathBuf,
    allow_faults: bool,
    restarts: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    /// Whether the servers accept injected faults.
    allow_faults: bool,
    /// Whether dead processes are restarted.
    restarts: bool,
    /// The id of the cluster's certificate authority, if its servers speak TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    children: Vec<Child<'a>>,
}

#[derive(Serialize)]
struct Child<'a> {
    name: &'a str,
    /// `server` or `resolver`.
    kind: &'static str,
    /// `null` while it is not running.
    pid: Option<u32>,
    /// The start of the process `pid`, which tells it from later ones with the same id.
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<&'a str>,
    /// `host:port` of the server's client API, or of the name server's gRPC API.
    client: String,
    /// Only for the name server: the zone as clients write it for `--server`.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

impl List {
    pub(super) fn new(dir: &Path, allow_faults: bool, restarts: bool) -> Self {
        Self { path: file(dir), allow_faults, restarts }
    }

    /// Writes the list. `running` are the servers, then the name server.
    pub(super) fn write(&self, plan: &UpPlan, running: &[Option<Running>]) -> io::Result<()> {
        let servers = plan.nodes.iter().map(|node| (node.name.as_str(), "server", node.client, None));
        let resolver = plan.resolver.iter().map(|it| {
            let zone = Seed::Zone { zone: it.zone.clone(), name_servers: vec![it.dns] };
            ("resolver", "resolver", it.grpc, Some(zone.to_string()))
        });
        let children =
            servers.chain(resolver).zip(running).map(|((name, kind, client, zone), running)| Child {
                name,
                kind,
                pid: running.as_ref().map(|process| process.pid),
                started: running.as_ref().and_then(|process| process.start.as_deref()),
                client: client.to_string(),
                zone,
            });
        let children = children.collect();
        let authority = plan.authority().map(|authority| authority.to_string());
        let listed = Listed { allow_faults: self.allow_faults, restarts: self.restarts, authority, children };
        let temporary = self.path.with_extension("json.new");
        private::create(&temporary)?.write_all(&serde_json::to_vec_pretty(&listed)?)?;
        // A reader sees the old list or the new one.
        fs::rename(&temporary, &self.path)
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // If the file cannot be removed, its processes are gone all the same.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::args;
    use super::*;

    #[test]
    fn the_list_has_all_processes_and_is_removed_with_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let plan = UpPlan::make(dir.path(), &args(None, None, None), "z", true).unwrap();
        let list = List::new(dir.path(), true, true);
        let running = |pid| Some(Running { pid, start: Some(format!("boot/{pid}")) });
        list.write(&plan, &[running(7), None, running(9), running(11)]).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["allow_faults"], true);
        assert_eq!(json["children"][0]["pid"], 7);
        // As it was at the spawn: the process may have ended, and another one have got its id.
        assert_eq!(json["children"][0]["started"], "boot/7");
        assert_eq!(json["children"][1]["pid"], serde_json::Value::Null);
        assert_eq!(json["children"][2]["client"], "127.0.0.1:7420");
        assert_eq!(json["children"][3]["kind"], "resolver");
        drop(list);
        assert!(!dir.path().join(FILE).exists());
    }
}
