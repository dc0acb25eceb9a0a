//! What the doctor found out. With `--json` it is printed as it is; these keys never change their meaning.

use std::net::SocketAddr;

use serde::Serialize;

/// Everything.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    /// Of this program.
    pub(crate) version: &'static str,
    pub(crate) os: String,
    pub(crate) time: String,
    pub(crate) configuration: Configuration,
    pub(crate) zones: Vec<Zone>,
    pub(crate) network: Option<Network>,
    pub(crate) members: Vec<String>,
    pub(crate) servers: Vec<Server>,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) problems: Vec<Problem>,
    /// Worth knowing, and nothing to do about.
    pub(crate) notes: Vec<String>,
}

/// Where servers are looked for, and who said so.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Configuration {
    /// What was asked for, as text.
    pub(crate) asked: String,
    /// Whether that was the default.
    pub(crate) default: bool,
    pub(crate) state_dir: String,
    pub(crate) timeout_ms: u64,
    /// Environment variables that are set: with their values where these say where something is, otherwise without.
    pub(crate) environment: Vec<String>,
}

/// A zone that was asked for.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Zone {
    pub(crate) zone: String,
    pub(crate) name_servers: Vec<NameServer>,
}

/// What one name server said.
#[derive(Debug, Serialize)]
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    /// It is one that this machine asks for everything, and need not know the zone.
    pub(crate) usual: bool,
    pub(crate) took_us: u64,
    /// Why there is no answer.
    pub(crate) error: Option<String>,
    pub(crate) serial: Option<u32>,
    /// It says that it is cut off from the servers.
    pub(crate) stale: Option<bool>,
    pub(crate) services: Vec<Service>,
    pub(crate) health: Option<Page>,
}

/// The targets of one name.
#[derive(Debug, Serialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) targets: Vec<Target>,
    pub(crate) error: Option<String>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) priority: u16,
    pub(crate) weight: u16,
}

/// What the local network said.
#[derive(Debug, Serialize)]
pub(crate) struct Network {
    /// Name, cluster and addresses of each.
    pub(crate) announced: Vec<String>,
    pub(crate) error: Option<String>,
}

/// One server, asked on its own.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: String,
    /// What its host's name stands for.
    pub(crate) ips: Vec<String>,
    pub(crate) connect_us: Option<u64>,
    pub(crate) ping_us: Option<u64>,
    pub(crate) node_id: Option<u64>,
    pub(crate) version: Option<String>,
    /// How far its clock is ahead of the one here.
    pub(crate) clock_offset_ms: Option<i64>,
    /// Of what failed first.
    pub(crate) error: Option<String>,
    pub(crate) http: Option<String>,
    pub(crate) health: Option<Page>,
}

/// A health page.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    pub(crate) address: String,
    pub(crate) ready: bool,
    /// What is not as it should be, or why there is no page.
    pub(crate) failing: Vec<String>,
    /// There was no page.
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
    /// Of the meta shard.
    pub(crate) leader: Option<String>,
    pub(crate) leaderless: Vec<u32>,
    /// In the servers' words.
    pub(crate) problems: Vec<String>,
}

/// Something to do something about.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) next: String,
}
