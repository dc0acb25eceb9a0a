//! Runs the simulated name servers, and checks at the end that each names every node.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use conclave_client::find::{PRIORITY_LAST, srv};
use conclave_dns::metrics::Metrics;
use conclave_dns::{DnsServer, Listeners};
use conclave_net::Net;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::life::lock;
use crate::name_server::{NameServer, Served, ZONE};
use crate::net::Host;

/// Timeout for a name server to name every node again after all faults are healed.
const KNOWN_DEADLINE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a name server from its start to its end.
pub(crate) async fn run_name_server(cluster: Arc<Cluster>, number: usize) {
    let server = &cluster.name_servers[number];
    let host = Host { me: server.ip, cuts: cluster.cuts.clone() };
    let started = async {
        let listeners = Listeners::bind_on(Arc::new(host), &server.config).await?;
        DnsServer::start(server.config.clone(), listeners)
    };
    let name_server = match started.await {
        Ok(name_server) => name_server,
        Err(error) => return cluster.record_finding(format!("{} failed to start: {error}", server.name)),
    };
    let _counting = Counting { served: &server.served, metrics: Arc::clone(name_server.metrics()) };
    lock(&server.state).started = true;
    server.stop.notified().await;
    name_server.stop().await;
}

/// Adds the name server's counters to the totals when dropped, which also happens when its host is killed.
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

/// Checks that each name server names every node again, after all faults are healed. Records a finding for each that does not.
pub(crate) async fn check_all_nodes_named(cluster: &Cluster, net: &Net) {
    let deadline = Instant::now() + KNOWN_DEADLINE;
    for server in &cluster.name_servers {
        let mut last = String::new();
        while let Err(why) = names_all_nodes(cluster, net, server).await {
            if Instant::now() >= deadline {
                last = why;
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        if !last.is_empty() {
            cluster.record_finding(format!("{} does not name every node at the end: {last}", server.name));
        }
    }
}

async fn names_all_nodes(cluster: &Cluster, net: &Net, server: &NameServer) -> Result<(), String> {
    let asked = srv::ask(net, &[server.dns()], &srv::clients(ZONE)).await;
    let mut found = asked.map_err(|notes| notes.join("; "))?.candidates;
    found.retain(|candidate| candidate.priority < PRIORITY_LAST);
    let named = |name: &String| found.iter().any(|candidate| candidate.name == *name);
    let missing: Vec<_> =
        cluster.machines.iter().map(|machine| &machine.config.name).filter(|name| !named(name)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are missing")) }
}
