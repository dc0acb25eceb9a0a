//! The simulated nodes and name servers, and the faults that are in force.
//!
//! The [`crate::backend`] and the loop in [`crate::drive`] share this state: the backend applies the engine's faults to it, and
//! the loop, which alone can crash and start hosts, acts on it between two ticks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_chaos::backend::inside::{desired, desired_of_resolver};
use conclave_chaos::fault::{Fault, Grudge};
use conclave_chaos::journal::Applied;
use conclave_chaos::schedule::cuts;
use conclave_proto::admin_token::AdminToken;
use conclave_proto::mac::Secret;
use conclave_server::{Clock, Config, Faults, Listeners, Member, Node, RunError, StoreOptions};
use conclave_store::Work;
use conclave_store::simulated::SimDisk;
use tokio::sync::Notify;

use crate::life::{Death, HostState, Life, lock};
use crate::name_server::NameServer;
use crate::net::{Cuts, Host};

/// The ports of every node.
const CLIENT: u16 = 7400;
const PEER: u16 = 7401;
const HTTP: u16 = 7402;
/// The secret that nodes and name servers share.
const SECRET: &[u8] = b"the secret of the simulation";
/// The admin token, without which nothing listens beyond loopback with fault injection.
const ADMIN_TOKEN: &[u8] = b"cnva_the-admin-token-of-the-simulation";
/// The host number of the first name server.
const FIRST_NAME_SERVER_HOST: u8 = 50;
/// One node.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) config: Config,
    pub(crate) ip: IpAddr,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    pub(crate) stop: Notify,
    pub(crate) state: Mutex<HostState>,
}

/// How many faults were applied, by kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultCounts {
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) restarts: u64,
    pub(crate) partitions: u64,
    pub(crate) pauses: u64,
    pub(crate) disk_faults: u64,
    pub(crate) clock_steps: u64,
    pub(crate) network_faults: u64,
    pub(crate) resolver_faults: u64,
}

/// The whole cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) machines: Vec<Machine>,
    pub(crate) name_servers: Vec<NameServer>,
    pub(crate) clients: IpAddr,
    pub(crate) cuts: Cuts,
    /// The faults that are in force.
    pub(crate) open: Mutex<Vec<Applied>>,
    pub(crate) fault_counts: Mutex<FaultCounts>,
    /// Failures that the history does not show.
    pub(crate) findings: Mutex<Vec<String>>,
}

/// The wanted state of the links between hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// Directed pairs whose bytes are lost.
    pub(crate) cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Pairs (smaller address first) whose bytes are delayed until released.
    pub(crate) held: BTreeSet<(IpAddr, IpAddr)>,
}

fn ip(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, number))
}

impl Cluster {
    /// A cluster of nodes that have not started. Their identity files, which are on a real disk, are in `dir`.
    pub(crate) fn new(nodes: u8, seed: u64, shape: &Shape, dir: &Path) -> anyhow::Result<Self> {
        let secret = Secret::new(SECRET)?;
        let admin_token = AdminToken::parse(ADMIN_TOKEN)?;
        let at = |number: u8, port| SocketAddr::new(ip(number), port).to_string();
        let member = |number| Member {
            name: format!("n{number}"),
            peer: at(number, PEER),
            client: at(number, CLIENT),
            http: at(number, HTTP),
        };
        let members: Vec<Member> = (1..=nodes).map(member).collect();
        let name_servers: Vec<IpAddr> =
            (0..shape.name_servers).map(|number| ip(FIRST_NAME_SERVER_HOST + number)).collect();
        let machine = |number: u8| {
            let name = format!("n{number}");
            let any =
                [CLIENT, PEER, HTTP].map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
            let faults = Faults::default();
            let mut config = Config::new(name.clone(), dir.join(name), members.clone(), any);
            config.shards = shape.shards;
            config.log_tail_bytes = shape.log_tail_bytes;
            config.faults = Some(faults.clone());
            config.insecure = true;
            config.name_servers = name_servers.iter().copied().map(NameServer::registry).collect();
            config.secret = Some(secret.clone());
            config.admin_token = Some(admin_token.clone());
            Machine {
                config,
                ip: ip(number),
                disk: SimDisk::new(seed.wrapping_add(u64::from(number))),
                clock: Clock::default(),
                faults,
                stop: Notify::new(),
                state: Mutex::new(HostState::up()),
            }
        };
        Ok(Self {
            machines: (1..=nodes).map(machine).collect(),
            name_servers: NameServer::all(&name_servers, &members, &secret, &admin_token),
            clients: ip(100),
            cuts: Cuts::default(),
            open: Mutex::default(),
            fault_counts: Mutex::default(),
            findings: Mutex::default(),
        })
    }

    pub(crate) fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.config.name == name)
    }

    pub(crate) fn name_server(&self, name: &str) -> Option<&NameServer> {
        self.name_servers.iter().find(|name_server| name_server.name == name)
    }

    /// Records a failure that the history does not show.
    pub(crate) fn record_finding(&self, finding: String) {
        tracing::warn!(finding, "finding recorded");
        lock(&self.findings).push(finding);
    }

    /// Applies the open faults to disks, clocks, delays and name servers.
    pub(crate) fn apply_open_faults(&self) {
        let open = lock(&self.open).clone();
        let names: Vec<String> = self.machines.iter().map(|machine| machine.config.name.clone()).collect();
        // Cuts are applied to the links instead, see `links`.
        let inside: Vec<Applied> = open
            .into_iter()
            .filter(|applied| !matches!(applied.fault, Fault::Isolate | Fault::Partition { .. }))
            .collect();
        for (name, wanted) in desired(&inside, &names) {
            let Some(machine) = self.machine(&name) else { continue };
            machine.faults.set_network(&wanted.peers);
            machine.clock.set_offset_ms(wanted.clock_offset_ms);
            machine.clock.set_rate_ppm(wanted.clock_rate_ppm);
            let disk = wanted.disk.unwrap_or_default();
            machine.disk.set_faults(
                Duration::from_millis(disk.sync_delay_ms.into()),
                disk.fail_sync,
                disk.full,
            );
        }
        for name_server in &self.name_servers {
            name_server.faults.set(desired_of_resolver(&inside, &name_server.name));
        }
    }

    /// The wanted state of the links, by the open faults.
    pub(crate) fn links(&self) -> Links {
        let mut links = Links::default();
        let address = |name: &String| {
            let machine = self.machine(name).map(|machine| machine.ip);
            machine.or_else(|| self.name_server(name).map(|name_server| name_server.ip))
        };
        let name_servers = self.name_servers.iter().map(|name_server| name_server.ip);
        let all: Vec<IpAddr> = self
            .machines
            .iter()
            .map(|machine| machine.ip)
            .chain(name_servers)
            .chain([self.clients])
            .collect();
        for applied in lock(&self.open).iter() {
            let grudge = match applied.fault {
                Fault::Isolate => Some(Grudge::Both),
                Fault::Partition { grudge } => Some(grudge),
                _ => None,
            };
            // A name server is not in `all`, but can be cut off from all nodes.
            let mut hosts = applied.all.clone();
            hosts.extend(applied.nodes.iter().filter(|name| !applied.all.contains(name)).cloned());
            for (from, to) in grudge.map(|grudge| cuts(grudge, &applied.nodes, &hosts)).into_iter().flatten()
            {
                links.cut.extend(address(&from).zip(address(&to)));
            }
            if applied.fault == Fault::Pause {
                for ip in applied.nodes.iter().filter_map(address) {
                    links.held.extend(all.iter().filter(|other| **other != ip).map(|other| pair(ip, *other)));
                }
            }
        }
        let machines = self.machines.iter().map(|machine| (machine.ip, &machine.state));
        let name_servers = self.name_servers.iter().map(|name_server| (name_server.ip, &name_server.state));
        for (ip, state) in machines.chain(name_servers) {
            if let Life::Dead(Death::Unpowered(_)) = lock(state).life {
                for other in all.iter().filter(|other| **other != ip) {
                    links.cut.extend([(ip, *other), (*other, ip)]);
                }
            }
        }
        let cut: BTreeMap<_, _> = links.cut.iter().map(|(a, b)| (pair(*a, *b), ())).collect();
        links.held.retain(|pair| !cut.contains_key(pair));
        links
    }

    /// Whether an open fault makes the node's disk fail, so that the node may stop.
    fn may_fail(&self, machine: &Machine) -> bool {
        let name = &machine.config.name;
        machine.disk.is_dead()
            || lock(&self.open).iter().any(|applied| {
                applied.nodes.contains(name) && matches!(applied.fault, Fault::FailSync | Fault::FullDisk)
            })
    }
}

pub(crate) fn pair(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    (a.min(b), a.max(b))
}

/// The parameters of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) shards: u32,
    pub(crate) log_tail_bytes: u64,
    pub(crate) name_servers: u8,
}

/// Runs a node from its start to its end, as a server's process would.
pub(crate) async fn run_node(cluster: Arc<Cluster>, number: usize) {
    let machine = &cluster.machines[number];
    let name = &machine.config.name;
    let options = StoreOptions {
        log_tail_bytes: machine.config.log_tail_bytes,
        disk: Arc::new(machine.disk.clone()),
        work: Work::Tasks,
        ..StoreOptions::default()
    };
    let host = Host { me: machine.ip, cuts: cluster.cuts.clone() };
    let started = async {
        let listeners = Listeners::bind_on(Arc::new(host), &machine.config).await?;
        Node::start(machine.config.clone(), listeners, options, machine.clock.clone()).await
    };
    let node = match Box::pin(started).await {
        Ok(node) => node,
        Err(error) => {
            if !cluster.may_fail(machine) {
                cluster.record_finding(format!("{name} failed to start: {error}"));
            }
            return;
        }
    };
    lock(&machine.state).started = true;
    tokio::select! {
        error = node.failed() => {
            let excused = matches!(error, RunError::Storage(_)) && cluster.may_fail(machine);
            if !excused {
                cluster.record_finding(format!("{name} stopped: {error}"));
            }
        }
        () = machine.stop.notified() => Box::pin(node.drain()).await,
    }
    Box::pin(node.stop()).await;
}
