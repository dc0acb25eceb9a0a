//! `conclave doctor`: examines name servers, network and servers, and reports problems with advice.

mod diagnose;
mod names;
mod servers;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::time::Duration;

use conclave_client::Client;
use conclave_client::find::{Candidate, Examined, Seed};
use conclave_core::limits::NODES_MAX;
use conclave_proto::chat::GetServerStatusResponse;
use futures::future::join_all;

use crate::diagnosis::{Configuration, LocalNetwork, Problem, Report, Server};
use crate::exit::{Exit, Failed};
use crate::http::Pages;
use crate::identify::{Identified, Other, identify};
use crate::known::short;
use crate::settings::Settings;
use crate::view::doctor::page;
use crate::view::status::leaderless;
use crate::{output, session};

/// The environment variables whose values are printed: addresses and paths. Others may be private.
const SHOWN: [&str; 5] =
    ["CONCLAVE_SERVERS", "CONCLAVE_NAME_SERVER", "CONCLAVE_ZONE", "CONCLAVE_STATE_DIR", "CONCLAVE_TIMEOUT"];
const PREFIX: &str = "CONCLAVE_";
/// Timeout for the status of the cluster, and for each call to a server.
const PATIENCE: Duration = Duration::from_secs(3);
/// Delay before a second status request if a shard has no leader.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);

/// Examines everything and prints the report.
///
/// # Errors
/// If stdout is closed.
pub(super) async fn run(settings: &Settings) -> anyhow::Result<Exit> {
    let (mut report, refused) = examine(settings).await;
    diagnose::diagnose(&mut report);
    if settings.json {
        output::json(&report)?;
    } else {
        output::block(&page(settings.style, &report, output::columns()))?;
    }
    Ok(if refused { Exit::Refused } else { diagnose::exit(&report) })
}

/// The report, and whether a server answers that must not be believed.
async fn examine(settings: &Settings) -> (Report, bool) {
    let (examined, found) = futures::join!(settings.search.examine(), settings.search.found());
    let candidates = found.map(|found| found.candidates).unwrap_or_default();
    let members = examined.members.clone().unwrap_or_default();
    let network = network(&examined);
    let usual = usual(settings);
    // Why there is no answer is in the answers of the servers.
    let cluster = identify(settings).await;
    let authority = cluster.as_ref().ok().and_then(|cluster| cluster.authority);
    let pages = Pages::of(authority).unwrap_or_default();
    let zones = examined.zones.into_iter().map(|(zone, answers)| names::zone(&pages, zone, answers, usual));
    let (zones, (refused, servers, status)) = futures::join!(join_all(zones), async {
        match refusal(cluster) {
            // No byte more goes to servers that must not be believed, and none without TLS.
            Some(refused) => (Some(refused), Vec::new(), None),
            None => {
                let (servers, status) = servers(settings, &pages, candidates).await;
                (None, servers, status)
            }
        }
    });
    let is_refused = refused.is_some();
    let problems = refused.into_iter().chain(others(settings)).collect();
    let report = Report {
        ok: false,
        version: conclave_core::version::VERSION,
        os: os(),
        time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        configuration: configuration(settings),
        zones,
        network,
        members,
        servers,
        cluster: status.as_ref().map(servers::cluster),
        problems,
        notes: Vec::new(),
    };
    (report, is_refused)
}

/// The clusters that were found in place of the one that is meant.
fn others(settings: &Settings) -> Vec<Problem> {
    let Some(cluster) = settings.identified.get() else { return Vec::new() };
    let problem = |other: &Other| Problem {
        what: format!(
            "{} belongs to another cluster, {} ({}); yours is {}, and no server of it answers",
            other.address,
            other.name,
            short(&other.id),
            cluster.name
        ),
        next: format!("start your cluster, or go over to the other one with: conclave use {}", other.address),
    };
    cluster.others.iter().map(problem).collect()
}

/// Why a server that answers must not be believed; every other command would be refused for this reason.
fn refusal(cluster: anyhow::Result<&Identified>) -> Option<Problem> {
    let failed = match cluster {
        Ok(cluster) if cluster.answered.is_none() => cluster.refused.clone()?,
        Ok(_) => return None,
        Err(error) => match error.downcast::<Failed>() {
            Ok(failed) => failed,
            Err(error) => Failed::new(Exit::Refused, format!("{error:#}"), ""),
        },
    };
    Some(Problem { what: failed.what, next: failed.next })
}

/// Whether the name servers are the system's, and none was given.
fn usual(settings: &Settings) -> bool {
    let named = |seed: &Seed| matches!(seed, Seed::Zone { name_servers, .. } if !name_servers.is_empty());
    settings.find.name_servers.is_empty() && !settings.find.seeds.iter().any(named)
}

fn network(examined: &Examined) -> Option<LocalNetwork> {
    Some(match examined.network.as_ref()? {
        Ok(announced) => {
            let line = |node: &conclave_client::find::mdns::Announced| {
                let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
                format!("{} of {} at {}", node.name, node.cluster, addresses.join(", "))
            };
            LocalNetwork { announced: announced.iter().map(line).collect(), error: None }
        }
        Err(error) => LocalNetwork { announced: Vec::new(), error: Some(error.clone()) },
    })
}

/// Examines every server that was found, and every other member of their cluster. Returns also the status of the
/// cluster.
async fn servers(
    settings: &Settings,
    pages: &Pages,
    candidates: Vec<Candidate>,
) -> (Vec<Server>, Option<GetServerStatusResponse>) {
    let mut names: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    let status = status(settings, &candidates).await;
    for node in status.iter().flat_map(|status| &status.nodes).filter(|node| !node.address.is_empty()) {
        let http = node.record.as_ref().map(|record| record.http.clone()).filter(|http| !http.is_empty());
        names.insert(node.address.clone(), (node.name.clone(), http));
    }
    // Fallback addresses of a server that has a better one are not examined, unless no better one answers.
    let found = candidates.into_iter().filter(|one| !names.contains_key(&one.address));
    let mut found: BTreeMap<_, _> = found.map(|one| (one.address, (one.name, None))).collect();
    if names.is_empty() {
        names = std::mem::take(&mut found);
    }
    let Ok(cluster) = identify(settings).await else { return (Vec::new(), status) };
    let Ok(client) = Client::builder()
        .network(cluster.net.clone())
        .cluster(cluster.id.clone().unwrap_or_default())
        .servers(names.keys().chain(found.keys()).cloned())
        .patience(settings.timeout.min(PATIENCE))
        .observe()
        .await
    else {
        return (Vec::new(), status);
    };
    let looks = |addresses: BTreeMap<String, (String, Option<String>)>| {
        let client = &client;
        let look = move |(address, (name, http))| servers::server(client, pages, name, address, http);
        join_all(addresses.into_iter().take(NODES_MAX).map(look))
    };
    let mut servers = looks(names).await;
    let reported = status.iter().flat_map(|status| &status.nodes).filter(|node| node.disk_size_bytes > 0);
    for node in reported {
        let examined = servers.iter_mut().filter(|server| server.address == node.address);
        examined.for_each(|server| server.disk_free_bytes = Some(node.disk_free_bytes));
    }
    servers.sort_by(|a, b| a.name.cmp(&b.name));
    if servers.iter().all(|server| server.ping_us.is_none()) {
        let relayed = looks(found).await.into_iter().filter(|server| server.ping_us.is_some());
        servers.extend(relayed.map(|server| Server { relayed: true, ..server }));
    }
    client.close().await;
    (servers, status)
}

async fn status(settings: &Settings, candidates: &[Candidate]) -> Option<GetServerStatusResponse> {
    if candidates.is_empty() {
        return None;
    }
    let observer = session::observer(settings, settings.timeout.min(PATIENCE)).await.ok()?;
    let mut status = observer.status().await.ok();
    if status.as_ref().is_some_and(|status| !leaderless(status).is_empty()) {
        // A running election is no problem, if it ends.
        tokio::time::sleep(SECOND_LOOK_AFTER).await;
        status = observer.status().await.ok().or(status);
    }
    observer.close().await;
    status
}

fn configuration(settings: &Settings) -> Configuration {
    let name = |key: std::ffi::OsString| key.into_string().ok().filter(|key| key.starts_with(PREFIX));
    let mut environment: Vec<String> = env::vars_os()
        .filter_map(|(key, value)| {
            let key = name(key)?;
            let shown = SHOWN.contains(&key.as_str());
            Some(if shown { format!("{key}={}", value.to_string_lossy()) } else { key })
        })
        .collect();
    environment.sort();
    Configuration {
        asked: settings.asked(),
        default: settings.find.seeds.is_empty(),
        state_dir: settings.state_dir.display().to_string(),
        timeout_ms: u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX),
        environment,
    }
}

/// For example `Debian GNU/Linux 12 (bookworm), linux 6.1.0, x86_64`, as far as it is known.
fn os() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = format!("{} {}", env::consts::OS, kernel.trim());
    let parts = [
        name.map(|name| name.trim_matches('"').to_owned()),
        Some(system),
        Some(env::consts::ARCH.to_owned()),
    ];
    parts.into_iter().flatten().map(|part| part.trim().to_owned()).collect::<Vec<_>>().join(", ")
}
