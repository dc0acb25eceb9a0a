//! The resolvers of the simulation. They keep nothing, so all that can be done to one is to end it, to cut it off, to hold it
//! up, and to make it say what is old or late.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_client::find::{PRIORITY_LAST, srv};
use conclave_dns::config::NameServer as Named;
use conclave_dns::metrics::Metrics;
use conclave_dns::{Config, DnsServer, Faults, Listeners};
use conclave_net::Net;
use conclave_proto::seal::Secret;
use conclave_server::Member;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::{Cluster, State, lock};
use crate::net::Host;

const ZONE: &str = "conclave.internal";
const DNS: u16 = 7453;
const REGISTER: u16 = 7454;
const HTTP: u16 = 7455;
/// A resolver that is well has heard of everybody by then.
const KNOWN_DEADLINE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);

/// What one resolver did, in all of its lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    /// Questions that it answered.
    pub(crate) answers: u64,
    /// What nodes told it of themselves.
    pub(crate) registrations: u64,
}

/// One resolver.
#[derive(Debug)]
pub(crate) struct NameServer {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) faults: Faults,
    pub(crate) stop: Notify,
    pub(crate) state: Mutex<State>,
    pub(crate) served: Mutex<Served>,
    config: Config,
}

impl NameServer {
    /// So many resolvers that have not started, of the cluster that begins with these nodes.
    pub(crate) fn all(ips: &[IpAddr], nodes: &[Member], secret: &Secret) -> Vec<Self> {
        let named = |(number, ip): (usize, &IpAddr)| Named { name: format!("ns{number}"), ips: vec![*ip] };
        let name_servers: Vec<Named> = (1..).zip(ips).map(named).collect();
        let at = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let server = |(named, ip): (&Named, &IpAddr)| {
            let faults = Faults::default();
            let config = Config {
                zone: ZONE.to_owned(),
                listen: vec![at(DNS)],
                grpc_listen: at(REGISTER),
                http_listen: at(HTTP),
                name_servers: name_servers.clone(),
                secret: secret.clone(),
                nodes: nodes.iter().map(|node| node.client.clone()).collect(),
                transfer_to: Vec::new(),
                forward_for: Vec::new(),
                forward_to: Vec::new(),
                export: None,
                faults: Some(faults.clone()),
            };
            Self {
                name: named.name.clone(),
                ip: *ip,
                faults,
                stop: Notify::new(),
                state: Mutex::new(State::up()),
                served: Mutex::default(),
                config,
            }
        };
        name_servers.iter().zip(ips).map(server).collect()
    }

    /// Where nodes register.
    pub(crate) fn registry(ip: IpAddr) -> String {
        SocketAddr::new(ip, REGISTER).to_string()
    }

    fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.ip, DNS)
    }
}

/// How clients find the cluster by name.
pub(crate) fn zone(servers: &[NameServer]) -> Option<String> {
    let mut zone = format!("conclave+srv://{ZONE}");
    for (number, server) in servers.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(zone, "{}{}", if number == 0 { "?ns=" } else { "," }, server.dns());
    }
    (!servers.is_empty()).then_some(zone)
}

/// One life of a resolver.
pub(crate) async fn live(cluster: Arc<Cluster>, number: usize) {
    let server = &cluster.resolvers[number];
    let host = Host { me: server.ip, cuts: cluster.cuts.clone() };
    let started = async {
        let listeners = Listeners::bind_on(Arc::new(host), &server.config).await?;
        DnsServer::start(server.config.clone(), listeners)
    };
    let resolver = match started.await {
        Ok(resolver) => resolver,
        Err(error) => return cluster.find(format!("{} does not start: {error}", server.name)),
    };
    let _counting = Counting { served: &server.served, metrics: Arc::clone(resolver.metrics()) };
    lock(&server.state).started = true;
    server.stop.notified().await;
    resolver.stop().await;
}

/// A resolver's numbers end with it, also when it is killed: what it did is added up when this is dropped.
struct Counting<'a> {
    served: &'a Mutex<Served>,
    metrics: Arc<Metrics>,
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let mut served = lock(self.served);
        served.answers += self.metrics.answers();
        served.registrations += self.metrics.registrations();
    }
}

/// Whether each resolver names every node again, now that nothing is done to anybody any more. A finding if one does not.
pub(crate) async fn know_everybody(cluster: &Cluster, net: &Net) {
    let deadline = Instant::now() + KNOWN_DEADLINE;
    for server in &cluster.resolvers {
        let mut last = String::new();
        while let Err(why) = knows_everybody(cluster, net, server).await {
            if Instant::now() >= deadline {
                last = why;
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        if !last.is_empty() {
            cluster.find(format!("{} does not name everybody in the end: {last}", server.name));
        }
    }
}

async fn knows_everybody(cluster: &Cluster, net: &Net, server: &NameServer) -> Result<(), String> {
    let asked = srv::ask(net, &[server.dns()], &srv::clients(ZONE)).await;
    let mut found = asked.map_err(|notes| notes.join("; "))?.candidates;
    found.retain(|candidate| candidate.priority < PRIORITY_LAST);
    let named = |name: &String| found.iter().any(|candidate| candidate.name == *name);
    let missing: Vec<_> =
        cluster.machines.iter().map(|machine| &machine.config.name).filter(|name| !named(name)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("it does not name {missing:?}")) }
}
