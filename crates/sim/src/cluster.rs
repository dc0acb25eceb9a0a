//! The nodes of the simulation, and what is done to them.
//!
//! Two sides share what is here: the [`crate::backend`], which is told by the engine what to break, and the loop in
//! [`crate::drive`], which alone can crash and start hosts, between two ticks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_chaos::backend::inside::{desired, desired_of_resolver};
use conclave_chaos::fault::{Fault, Grudge};
use conclave_chaos::journal::Applied;
use conclave_chaos::schedule::cuts;
use conclave_proto::seal::Secret;
use conclave_server::{Clock, Config, Faults, Listeners, Member, Node, RunError, StoreOptions};
use conclave_store::Work;
use conclave_store::simulated::SimDisk;
use tokio::sync::Notify;

use crate::life::{Death, Life, State, lock};
use crate::name_server::NameServer;
use crate::net::{Cuts, Host};

/// Ports of every node.
const CLIENT: u16 = 7400;
const PEER: u16 = 7401;
const HTTP: u16 = 7402;
/// Between nodes and resolvers.
const SECRET: &[u8] = b"the secret of the simulation";
/// The first resolver is at this number.
const RESOLVERS_AT: u8 = 50;
/// One node.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) config: Config,
    pub(crate) ip: IpAddr,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
    pub(crate) stop: Notify,
    pub(crate) state: Mutex<State>,
}

/// What was done, summed up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
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
    pub(crate) resolvers: Vec<NameServer>,
    pub(crate) clients: IpAddr,
    pub(crate) cuts: Cuts,
    /// What is in force.
    pub(crate) open: Mutex<Vec<Applied>>,
    pub(crate) done: Mutex<Done>,
    /// What went wrong that no history shows.
    pub(crate) findings: Mutex<Vec<String>>,
}

/// What the links between two hosts should do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// From the first to the second nothing arrives, ever.
    pub(crate) cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Between these (smaller first), everything arrives later.
    pub(crate) held: BTreeSet<(IpAddr, IpAddr)>,
}

fn ip(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, number))
}

impl Cluster {
    /// Nodes that have not started; what they keep on a real disk (their identity) is in this directory.
    pub(crate) fn new(nodes: u8, seed: u64, shape: &Shape, dir: &Path) -> anyhow::Result<Self> {
        let secret = Secret::new(SECRET)?;
        let at = |number: u8, port| SocketAddr::new(ip(number), port).to_string();
        let member = |number| Member {
            name: format!("n{number}"),
            peer: at(number, PEER),
            client: at(number, CLIENT),
            http: at(number, HTTP),
        };
        let members: Vec<Member> = (1..=nodes).map(member).collect();
        let resolvers: Vec<IpAddr> = (0..shape.resolvers).map(|number| ip(RESOLVERS_AT + number)).collect();
        let machine = |number: u8| {
            let name = format!("n{number}");
            let any =
                [CLIENT, PEER, HTTP].map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
            let faults = Faults::default();
            let mut config = Config::new(name.clone(), dir.join(name), members.clone(), any);
            config.shards = shape.shards;
            config.log_tail_bytes = shape.log_tail_bytes;
            config.faults = Some(faults.clone());
            config.resolvers = resolvers.iter().copied().map(NameServer::registry).collect();
            config.secret = Some(secret.clone());
            Machine {
                config,
                ip: ip(number),
                disk: SimDisk::new(seed.wrapping_add(u64::from(number))),
                clock: Clock::default(),
                faults,
                stop: Notify::new(),
                state: Mutex::new(State::up()),
            }
        };
        Ok(Self {
            machines: (1..=nodes).map(machine).collect(),
            resolvers: NameServer::all(&resolvers, &members, &secret),
            clients: ip(100),
            cuts: Cuts::default(),
            open: Mutex::default(),
            done: Mutex::default(),
            findings: Mutex::default(),
        })
    }

    pub(crate) fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.config.name == name)
    }

    pub(crate) fn resolver(&self, name: &str) -> Option<&NameServer> {
        self.resolvers.iter().find(|resolver| resolver.name == name)
    }

    pub(crate) fn find(&self, finding: String) {
        tracing::warn!(finding, "found");
        lock(&self.findings).push(finding);
    }

    /// Makes disks, clocks and delays what the open faults say.
    pub(crate) fn suffer(&self) {
        let open = lock(&self.open).clone();
        let names: Vec<String> = self.machines.iter().map(|machine| machine.config.name.clone()).collect();
        // What cuts is done by the links themselves.
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
            machine.disk.suffer(Duration::from_millis(disk.sync_delay_ms.into()), disk.fail_sync, disk.full);
        }
        for resolver in &self.resolvers {
            resolver.faults.set(desired_of_resolver(&inside, &resolver.name));
        }
    }

    /// What the links should do now.
    pub(crate) fn links(&self) -> Links {
        let mut links = Links::default();
        let address = |name: &String| {
            let machine = self.machine(name).map(|machine| machine.ip);
            machine.or_else(|| self.resolver(name).map(|resolver| resolver.ip))
        };
        let resolvers = self.resolvers.iter().map(|resolver| resolver.ip);
        let all: Vec<IpAddr> =
            self.machines.iter().map(|machine| machine.ip).chain(resolvers).chain([self.clients]).collect();
        for applied in lock(&self.open).iter() {
            let grudge = match applied.fault {
                Fault::Isolate => Some(Grudge::Both),
                Fault::Partition { grudge } => Some(grudge),
                _ => None,
            };
            // A resolver is none of the nodes, and can be cut off from all of them.
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
        let resolvers = self.resolvers.iter().map(|resolver| (resolver.ip, &resolver.state));
        for (ip, state) in machines.chain(resolvers) {
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

    /// Whether a node's disk is made to fail, so that the node may, too.
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

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) shards: u32,
    pub(crate) log_tail_bytes: u64,
    pub(crate) resolvers: u8,
}

/// One life of a node, as the process of a server would live it.
pub(crate) async fn live(cluster: Arc<Cluster>, number: usize) {
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
                cluster.find(format!("{name} does not start: {error}"));
            }
            return;
        }
    };
    lock(&machine.state).started = true;
    tokio::select! {
        error = node.failed() => {
            let excused = matches!(error, RunError::Storage(_)) && cluster.may_fail(machine);
            if !excused {
                cluster.find(format!("{name} stops: {error}"));
            }
        }
        () = machine.stop.notified() => Box::pin(node.drain()).await,
    }
    Box::pin(node.stop()).await;
}
