//! The report of `conclave doctor`. `--json` prints it as it is; its keys never change their meaning.

use std::net::SocketAddr;

use serde::Serialize;

/// The whole report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    /// Version of this program.
    pub(crate) version: &'static str,
    pub(crate) os: String,
    pub(crate) time: String,
    pub(crate) configuration: Configuration,
    pub(crate) zones: Vec<Zone>,
    pub(crate) network: Option<LocalNetwork>,
    pub(crate) members: Vec<String>,
    pub(crate) servers: Vec<Server>,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) problems: Vec<Problem>,
    /// Findings that need no action.
    pub(crate) notes: Vec<String>,
}

/// Where servers were searched, and by which settings.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Configuration {
    /// The searched servers, as text.
    pub(crate) asked: String,
    /// Whether the search is the default one.
    pub(crate) default: bool,
    pub(crate) state_dir: String,
    pub(crate) timeout_ms: u64,
    /// Environment variables of conclave that are set; with values only for those that contain addresses or paths.
    pub(crate) environment: Vec<String>,
}

/// A zone that was looked up.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Zone {
    pub(crate) zone: String,
    pub(crate) name_servers: Vec<NameServer>,
}

/// The answers of one name server.
#[derive(Debug, Serialize)]
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    /// Whether it is a system name server, which need not know the zone.
    pub(crate) usual: bool,
    pub(crate) took_us: u64,
    /// The reason why there is no answer.
    pub(crate) error: Option<String>,
    pub(crate) serial: Option<u32>,
    /// Whether it reports that it is cut off from the servers.
    pub(crate) stale: Option<bool>,
    pub(crate) services: Vec<Service>,
    pub(crate) health: Option<HealthPage>,
}

/// The SRV targets of one name.
#[derive(Debug, Serialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) targets: Vec<Target>,
    pub(crate) error: Option<String>,
}

/// One SRV target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

/// The nodes announced on the local network.
#[derive(Debug, Serialize)]
pub(crate) struct LocalNetwork {
    /// Name, cluster and addresses of each node.
    pub(crate) announced: Vec<String>,
    pub(crate) error: Option<String>,
}

/// One server, examined on its own.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Whether no server advertises this address: a proxy or an address translation leads from there to a server.
    pub(crate) relayed: bool,
    /// The IP addresses of its host name.
    pub(crate) ips: Vec<String>,
    pub(crate) connect_us: Option<u64>,
    pub(crate) ping_us: Option<u64>,
    pub(crate) node_id: Option<u64>,
    pub(crate) version: Option<String>,
    /// The offset of its clock from the one here; positive if it is ahead.
    pub(crate) clock_offset_ms: Option<i64>,
    /// The first failure.
    pub(crate) error: Option<String>,
    pub(crate) http: Option<String>,
    pub(crate) health: Option<HealthPage>,
    /// The bytes that it may still write, as it told the cluster.
    pub(crate) disk_free_bytes: Option<u64>,
}

/// A health page.
#[derive(Debug, Serialize)]
pub(crate) struct HealthPage {
    pub(crate) address: String,
    pub(crate) ready: bool,
    /// The failed checks, or why there is no page.
    pub(crate) failing: Vec<String>,
    /// Whether there was no page.
    pub(crate) unreachable: bool,
}

/// The cluster, as its servers see it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) healthy: bool,
    pub(crate) can_lose: i32,
    pub(crate) nodes: usize,
    pub(crate) reachable: usize,
    pub(crate) shards: u32,
    /// The leader of the meta shard.
    pub(crate) leader: Option<String>,
    pub(crate) leaderless: Vec<u32>,
    /// The problems that the servers report.
    pub(crate) problems: Vec<String>,
    /// A sentence for each server that hears its leaders late.
    pub(crate) late_heartbeats: Vec<String>,
}

/// A problem and what to do about it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) next: String,
}
