//! An `up` that runs in another terminal: stops it, and restarts its servers.
//!
//! There is no channel to it. The lock of its directory says that it runs, and the file has its process id; its list names
//! its servers. It starts a server again that has stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use conclave_client::{CaId, Net};
use conclave_proto::admin::DrainRequest;
use conclave_proto::admin::admin_service_client::AdminServiceClient;
use conclave_proto::admin_token::WithAdminToken;
use conclave_proto::status::from_status;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::LOCK;
use super::leftovers::{Leftover, Listed, start_of};
use super::plan::{Node, saved_nodes};
use crate::args::server::{StopArgs, UpRestartArgs, WhichUp};
use crate::command::admin::refused;
use crate::exit::{Exit, Failed};
use crate::http::Pages;
use crate::limits::{
    UP_DRAIN_PATIENCE, UP_KILL_PATIENCE, UP_POLL_INTERVAL, UP_READY_DEADLINE, UP_STOP_DEADLINE,
};
use crate::settings::{Environment, Settings};
use crate::view::text::took;
use crate::{admin_token, output};

/// The directory of the `up` that is meant.
pub(in crate::command) fn dir_of(which: &WhichUp, environment: &Environment) -> Result<PathBuf, Failed> {
    match &which.dir {
        Some(dir) => Ok(dir.clone()),
        None => Ok(environment.data_dir()?.join("up")),
    }
}

/// The process of the `up` that runs in this directory; `None` if none runs.
pub(in crate::command) fn running_in(dir: &Path) -> Option<u32> {
    let path = dir.join(LOCK);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(fs::TryLockError::WouldBlock) => fs::read_to_string(&path).ok()?.trim().parse().ok(),
        // Nobody runs. The lock ends with the file, and an `up` that begins just now waits for it.
        _ => None,
    }
}

/// The servers of the `up` that runs in this directory; none if none runs.
pub(in crate::command) fn pages_of_running(dir: &Path) -> Vec<(String, String)> {
    if running_in(dir).is_none() {
        return Vec::new();
    }
    let nodes = saved_nodes(dir).unwrap_or_default();
    nodes.into_iter().map(|node| (node.name, node.http.to_string())).collect()
}

/// Whether this may be the directory of an `up`, as opposed to that of a server.
pub(in crate::command) fn is_of_up(dir: &Path) -> bool {
    !dir.exists() || dir.join(LOCK).exists()
}

fn none_runs(dir: &Path) -> Failed {
    let what = format!("no `conclave up` of this user runs in {}", dir.display());
    Failed::new(Exit::NotFound, what, "give --dir the directory that `up` prints when it starts")
}

#[derive(Debug, Serialize)]
struct Stopped {
    dir: String,
    pid: u32,
}

/// Stops an `up` with all of its servers, as Ctrl-C does.
///
/// # Errors
/// If none runs, or it does not end in time.
pub(in crate::command) async fn stop(
    args: &StopArgs,
    json: bool,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let dir = dir_of(&args.which, environment)?;
    let pid = running_in(&dir).ok_or_else(|| none_runs(&dir))?;
    let up = Leftover::new("up", pid, start_of(pid));
    // The process that has the id now is the one that holds the lock.
    if running_in(&dir) != Some(pid) {
        return Err(none_runs(&dir).into());
    }
    up.terminate().map_err(|error| {
        let what = format!("`conclave up` (pid {pid}) cannot be stopped: {error}");
        Failed::new(Exit::Refused, what, "stop it as the user that started it")
    })?;
    let deadline = Instant::now() + UP_STOP_DEADLINE + UP_KILL_PATIENCE;
    while running_in(&dir) == Some(pid) {
        if Instant::now() > deadline {
            let what = format!("`conclave up` (pid {pid}) was asked to stop and still runs");
            return Err(
                Failed::new(Exit::Refused, what, "see its terminal; ask again to stop it at once").into()
            );
        }
        sleep(UP_POLL_INTERVAL).await;
    }
    let text = format!("stopped: the cluster in {}", dir.display());
    output::done(json, &Stopped { dir: dir.display().to_string(), pid }, &text);
    Ok(Exit::Ok)
}

#[derive(Debug, Serialize)]
struct Restarted<'a> {
    node: &'a str,
    pid_before: Option<u32>,
    pid: u32,
    took_ms: u64,
}

/// Drains and stops one server of an `up`, and waits until the `up` has started it again and it is ready.
///
/// # Errors
/// If no `up` runs there, it has no such server or restarts none, the drain is refused, or the server does not come back.
pub(super) async fn restart(
    args: &UpRestartArgs,
    settings: &Settings,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let dir = dir_of(&args.which, environment)?;
    running_in(&dir).ok_or_else(|| none_runs(&dir))?;
    let nodes = saved_nodes(&dir)?;
    let node = nodes.iter().find(|node| node.name == args.node).ok_or_else(|| {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let what = format!("there is no server {:?}; there are {}", args.node, names.join(", "));
        Failed::new(Exit::NotFound, what, "")
    })?;
    let listed = Listed::read(&dir).ok_or_else(|| {
        let what = format!("the list of processes in {} cannot be read", dir.display());
        Failed::new(Exit::Refused, what, "wait until `up` is ready")
    })?;
    if !listed.restarts {
        let what = "this `up` was started with --no-restart, so it would not start the server again";
        return Err(Failed::new(Exit::Refused, what, "stop all of it: conclave stop").into());
    }
    let begun = Instant::now();
    let before = listed.find(&node.name).and_then(Leftover::pid);
    if let Some(server) = listed.find(&node.name).filter(|server| server.runs()) {
        output::note(settings.quiet, &format!("draining {}", node.name));
        drain(&dir, &nodes, node, args.force, &listed).await?;
        // A server that ended by itself comes back all the same.
        let _ = server.terminate();
    }
    let pid = come_back(&dir, node, before).await?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let text = format!("{} is back (pid {pid}) and ready after {}", node.name, took(begun.elapsed()));
    output::done(settings.json, &Restarted { node: &node.name, pid_before: before, pid, took_ms }, &text);
    Ok(Exit::Ok)
}

/// Drains a server, asked at the server itself: it knows best whether the others are ready.
async fn drain(dir: &Path, nodes: &[Node], node: &Node, force: bool, listed: &Listed) -> anyhow::Result<()> {
    let authority: Option<CaId> = listed.authority.as_deref().map(str::parse).transpose()?;
    let net = match authority {
        Some(ca) => Net::System.to_cluster(ca)?,
        None => Net::System,
    };
    let token = admin_token::read(&dir.join(super::plan::ADMIN_TOKEN))?;
    let mut last = String::new();
    // A server that hangs is restarted with the permission of the others: they know whether they are ready.
    let asked = std::iter::once(node).chain(nodes.iter().filter(|other| other.name != node.name));
    for one in asked {
        let address = one.client.to_string();
        let endpoint = net.endpoint(&address)?;
        let channel = net.channel(&endpoint, &address);
        let mut admin = AdminServiceClient::with_interceptor(channel, WithAdminToken(Some(token.clone())));
        let request = DrainRequest { node: node.name.clone(), force };
        match tokio::time::timeout(UP_DRAIN_PATIENCE, admin.drain(request)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => {
                let failure = from_status(&status);
                if failure.code == "last_ready_node" || failure.code == "no_ready_majority" {
                    let failed = refused(&failure.code, &status, true);
                    return Err(failed.advising("--force restarts it all the same").into());
                }
                last = failure.message;
            }
            Err(_) => last = format!("{address} does not answer"),
        }
    }
    if force {
        return Ok(());
    }
    let what = format!("{} cannot be drained: {last}", node.name);
    Err(Failed::new(Exit::Refused, what, "--force restarts it without").into())
}

/// Waits until the `up` has started the server again and the server is ready. Returns its process id.
async fn come_back(dir: &Path, node: &Node, before: Option<u32>) -> Result<u32, Failed> {
    let deadline = Instant::now() + UP_READY_DEADLINE;
    loop {
        let pid = Listed::read(dir).and_then(|listed| {
            listed.find(&node.name).filter(|server| server.runs()).and_then(Leftover::pid)
        });
        if let Some(pid) = pid.filter(|pid| Some(*pid) != before) {
            let page = Pages::default().get(&node.http.to_string(), "/readyz", UP_DRAIN_PATIENCE).await;
            if page.is_ok_and(|page| page.status == 200) {
                return Ok(pid);
            }
        }
        if running_in(dir).is_none() {
            return Err(Failed::new(Exit::Refused, "`conclave up` has ended meanwhile", "start it again"));
        }
        if Instant::now() > deadline {
            let what = format!("{} is not ready after {UP_READY_DEADLINE:?}", node.name);
            return Err(Failed::new(Exit::Refused, what, format!("see {}", node.log.display())));
        }
        sleep(UP_POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_up_runs_while_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(running_in(dir.path()), None);
        let held = super::super::lock(dir.path()).unwrap().unwrap();
        assert_eq!(running_in(dir.path()), Some(std::process::id()));
        drop(held);
        assert_eq!(running_in(dir.path()), None, "the file stays, and says nothing");
        assert!(super::super::lock(dir.path()).unwrap().is_ok(), "asking does not lock");
    }

    #[test]
    fn no_page_is_known_without_a_running_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(pages_of_running(dir.path()), []);
        fs::write(
            dir.path().join("up.json"),
            r#"{"format":1,"cluster":"c","nodes":2,"shards":1,"base_port":9000}"#,
        )
        .unwrap();
        assert_eq!(pages_of_running(dir.path()), []);
        let _held = super::super::lock(dir.path()).unwrap().unwrap();
        let page = |name: &str, port| (name.to_owned(), format!("127.0.0.1:{port}"));
        assert_eq!(pages_of_running(dir.path()), [page("node1", 9002), page("node2", 9012)]);
    }
}
