//! The output of `conclave up`.

use std::env;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use conclave_client::find::ZONE;
use conclave_proto::chat::GetServerStatusResponse;
use serde::Serialize;

use super::child::ProcessEvent;
use super::plan::{NameServerPlan, Node, Tls, UpPlan};
use crate::settings::Style;
use crate::view::paint::{Ink, paint};
use crate::view::table::{Align, Cell, render};
use crate::view::text::{count, took};

/// The note about a cluster that does not simply use TLS.
pub(super) fn tls(tls: Tls) -> Option<&'static str> {
    match tls {
        Tls::Has => None,
        Tls::ChangesOver => Some(
            "this cluster ran without TLS, and uses it from now on; version 0.1.0 cannot run it any more",
        ),
        Tls::Refused => {
            Some("this cluster runs without TLS; the next start without --insecure changes it over to TLS")
        }
        Tls::Incomplete => Some(
            "this cluster runs without TLS: some of its servers have no data yet; once all have, the next start changes to TLS",
        ),
    }
}

/// The note before the cluster is ready.
pub(super) fn starting(plan: &UpPlan) -> String {
    let servers = plan.nodes.len() - plan.lost().count();
    format!("starting {} in {}", count(servers as u64, "server"), plan.dir.display())
}

/// The note that fault injection is on.
pub(super) fn faults(style: Style) -> String {
    let what = "fault injection is on (--allow-faults): whoever has the admin token can break these servers";
    paint(style, Ink::Bad, what)
}

/// The notes about servers that are not started because their data dirs are gone.
pub(super) fn lost(plan: &UpPlan) -> Vec<String> {
    let others = plan.nodes.len() - plan.lost().count();
    let can_lose = others.saturating_sub(plan.nodes.len() / 2 + 1);
    let note = |node: &Node| {
        format!(
            "{} is not started: its data in {} is gone, and with an empty directory it would have forgotten its votes. The \
             others run, and can lose {can_lose}.\n  next: put the directory back as the server left it last, and start again; \
             docs/deploy.md, \"A lost volume\"",
            node.name,
            node.dir.display()
        )
    };
    plan.lost().map(note).collect()
}

/// The note that commands go to another cluster.
pub(super) fn not_current(status: &GetServerStatusResponse) -> String {
    let name = &status.cluster_name;
    format!(
        "your commands go to another cluster unless they name this one; to change that: conclave use {name}"
    )
}

/// The table of processes, once the cluster is ready.
pub(super) fn table(style: Style, plan: &UpPlan, pids: &[Option<u32>]) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("PID", Align::Right),
        ("CLIENTS", Align::Left),
        ("PEERS", Align::Left),
        ("HTTP", Align::Left),
    ];
    let row = |name: &str, client: String, peer: SocketAddr, http: SocketAddr| -> Vec<Cell> {
        vec![name.into(), "".into(), client.into(), peer.to_string().into(), format!("http://{http}").into()]
    };
    let node = |node: &Node| row(&node.name, node.client.to_string(), node.peer, node.http);
    // Clients use its DNS address, and servers register at its gRPC address.
    let resolver = |r: &NameServerPlan| row("resolver", format!("{} (DNS)", r.dns), r.grpc, r.http);
    let mut rows: Vec<_> = plan.nodes.iter().map(node).chain(plan.resolver.as_ref().map(resolver)).collect();
    for (row, pid) in rows.iter_mut().zip(pids) {
        row[1] = pid.map_or_else(String::new, |pid| pid.to_string()).into();
    }
    render(style, &columns, &rows)
}

/// The command that starts this executable from the user's shell.
pub(super) fn executable(file: &Path, here: &Path, path: Option<&OsStr>) -> String {
    let on_path =
        path.is_some_and(|path| env::split_paths(path).any(|dir| Some(dir.as_path()) == file.parent()));
    if on_path {
        return "conclave".to_owned();
    }
    match file.strip_prefix(here) {
        // Without a slash the shell would search PATH.
        Ok(name) if name.components().count() == 1 => format!("./{}", name.display()),
        Ok(below) => below.display().to_string(),
        Err(_) => file.display().to_string(),
    }
}

/// How a command for this cluster begins.
pub(super) fn command(executable: &str, plan: &UpPlan) -> String {
    match &plan.resolver {
        Some(resolver) if resolver.zone != ZONE => {
            format!("{executable} --name-server {} --zone {}", resolver.dns, resolver.zone)
        }
        _ if plan.at_default_ports() => executable.to_owned(),
        Some(resolver) => format!("{executable} --name-server {}", resolver.dns),
        None => format!("{executable} -s {}", plan.servers()),
    }
}

/// Commands to try next.
pub(super) fn hints(executable: &str, plan: &UpPlan, cluster_id: &str, after: Duration) -> String {
    let name = command(executable, plan);
    let dig = plan.resolver.as_ref().map_or_else(String::new, |resolver| {
        let (ip, port, zone) = (resolver.dns.ip(), resolver.dns.port(), &resolver.zone);
        format!("\n  dig +short @{ip} -p {port} _conclave._tcp.leader.{zone} SRV")
    });
    let web: Vec<String> =
        plan.nodes.iter().filter(|node| !node.is_lost).map(|node| format!("http://{}", node.web)).collect();
    let web = web.join("  or  ");
    format!(
        "
ready after {}; {} in {}.
The cluster is {}, with the id {cluster_id}. In another terminal:

  {name} chat
  {name} send general hello
  {name} status --watch{dig}

In a browser:

  {web}

Kill a server (kill -9 PID) and continue to chat. Ctrl-C stops all servers.",
        took(after),
        count(u64::from(plan.shards()), "shard"),
        plan.dir.display(),
        plan.cluster(),
    )
}

/// The note about the admin token, at the first start of a cluster.
pub(super) fn admin_token(token: &str, plan: &UpPlan) -> String {
    format!("\nadmin token (shown once, kept in {}): {token}", plan.admin_token.display())
}

/// The note about a process that died or came back.
pub(super) fn happened(name: &str, event: &ProcessEvent, restart: bool) -> String {
    match event {
        ProcessEvent::Started { process, again: true } => format!("{name} is back (pid {})", process.pid),
        ProcessEvent::Started { process, again: false } => format!("{name} runs (pid {})", process.pid),
        ProcessEvent::Ended { cause, last_words } => {
            let then = if restart { "; starting it again in 3 s" } else { "" };
            let why = match cause {
                // A signal comes from outside, and the log has nothing about it.
                super::child::ExitCause::Signal(_) => String::new(),
                // It was asked to stop; the last line of its log is not the reason.
                super::child::ExitCause::Code(0) => String::new(),
                super::child::ExitCause::Code(_) | super::child::ExitCause::NotStarted(_) => {
                    format!(": {last_words}")
                }
            };
            format!("{name} {cause}{why}{then}")
        }
    }
}

/// The JSON object that is printed once the cluster is ready. Its keys never change their meaning.
#[derive(Debug, Serialize)]
pub(super) struct Json<'a> {
    cluster: &'a str,
    cluster_id: &'a str,
    /// The id of the certificate authority; `null` for a cluster without TLS.
    authority: Option<String>,
    dir: String,
    admin_token_file: String,
    shards: u32,
    /// Who may make accounts; `null` if the cluster does not say.
    registration: Option<&'static str>,
    nodes: Vec<JsonNode<'a>>,
    resolver: Option<JsonResolver<'a>>,
}

#[derive(Debug, Serialize)]
struct JsonNode<'a> {
    name: &'a str,
    node_id: Option<u64>,
    pid: Option<u32>,
    client: String,
    peer: String,
    http: String,
    /// The address of the web client and of the HTTP API.
    web: String,
}

#[derive(Debug, Serialize)]
struct JsonResolver<'a> {
    pid: Option<u32>,
    dns: String,
    grpc: String,
    http: String,
    zone: &'a str,
}

/// The JSON object for programs.
pub(super) fn json<'a>(
    plan: &'a UpPlan,
    pids: &[Option<u32>],
    status: &'a GetServerStatusResponse,
    registration: Option<&'static str>,
) -> Json<'a> {
    let id = |name: &str| status.nodes.iter().find(|node| node.name == name).map(|node| node.node_id);
    let node = |(node, pid): (&'a Node, &Option<u32>)| JsonNode {
        name: &node.name,
        node_id: id(&node.name),
        pid: *pid,
        client: node.client.to_string(),
        peer: node.peer.to_string(),
        http: node.http.to_string(),
        web: format!("http://{}", node.web),
    };
    Json {
        cluster: plan.cluster(),
        cluster_id: &status.cluster_id,
        authority: plan.authority().map(|authority| authority.to_string()),
        dir: plan.dir.display().to_string(),
        admin_token_file: plan.admin_token.display().to_string(),
        shards: plan.shards(),
        registration,
        nodes: plan.nodes.iter().zip(pids).map(node).collect(),
        resolver: plan.resolver.as_ref().map(|resolver| JsonResolver {
            pid: pids.last().copied().flatten(),
            dns: resolver.dns.to_string(),
            grpc: resolver.grpc.to_string(),
            http: resolver.http.to_string(),
            zone: &resolver.zone,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_shown_only_as_the_cause_of_a_failure() {
        let said = |cause| {
            let event = ProcessEvent::Ended { cause, last_words: "ERROR lost".to_owned() };
            happened("node1", &event, false)
        };
        use super::super::child::ExitCause;
        assert_eq!(said(ExitCause::Code(0)), "node1 has stopped");
        assert!(said(ExitCause::Code(1)).contains("ERROR lost"));
    }

    #[test]
    fn hints_are_valid_commands() {
        let file = Path::new("/src/conclave/target/release/conclave");
        let path = Some(OsStr::new("/usr/bin:/src/conclave/target/release"));
        assert_eq!(executable(file, Path::new("/"), path), "conclave");
        assert_eq!(executable(file, Path::new("/src/conclave"), None), "target/release/conclave");
        assert_eq!(executable(file, Path::new("/src/conclave/target/release"), None), "./conclave");
        assert_eq!(executable(file, Path::new("/home/ana"), None), "/src/conclave/target/release/conclave");
    }
}
