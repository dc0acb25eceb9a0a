//! DNS-SD over multicast DNS: who on the local network says that it is a node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conclave_core::limits::{MDNS_SETTLED_AFTER, NODES_MAX};
use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::time::Instant;

use super::{Candidate, PRIORITY_LAST};

/// What nodes announce.
pub const SERVICE: &str = "_conclave._tcp.local.";
/// The TXT key of the cluster's name.
pub const CLUSTER: &str = "cluster";

/// A node that announces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its name.
    pub name: String,
    /// Its cluster's name; empty where it does not say.
    pub cluster: String,
    /// The addresses of its client API, the likeliest first; at least one.
    pub addresses: Vec<SocketAddr>,
}

impl Announced {
    /// What to try.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.addresses.iter().enumerate().map(|(at, address)| Candidate {
            name: self.name.clone(),
            priority: if at == 0 { 0 } else { PRIORITY_LAST + 1 },
            ..Candidate::at(address.to_string())
        })
    }
}

/// Asks the local network for nodes, of one cluster if a name is given. Returns early once some have answered and
/// nobody else does for a moment.
///
/// # Errors
/// A sentence, if the network cannot be asked.
pub async fn browse(within: Duration, cluster: Option<&str>) -> Result<Vec<Announced>, String> {
    let daemon = Daemon(ServiceDaemon::new().map_err(|error| cannot(&error))?);
    collect(&daemon, within, cluster).await
}

/// Its thread ends with this.
struct Daemon(ServiceDaemon);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It fails only where the thread has already ended.
        let _ = self.0.shutdown();
    }
}

async fn collect(daemon: &Daemon, within: Duration, cluster: Option<&str>) -> Result<Vec<Announced>, String> {
    let events = daemon.0.browse(SERVICE).map_err(|error| cannot(&error))?;
    let deadline = Instant::now() + within;
    let mut settled = deadline;
    let mut found: BTreeMap<String, Announced> = BTreeMap::new();
    while let Ok(Ok(event)) = tokio::time::timeout_at(settled, events.recv_async()).await {
        let ServiceEvent::ServiceResolved(service) = event else { continue };
        let Some(node) = announced(&service) else { continue };
        if cluster.is_some_and(|wanted| wanted != node.cluster) || found.len() >= NODES_MAX {
            continue;
        }
        found.insert(service.fullname, node);
        settled = deadline.min(Instant::now() + MDNS_SETTLED_AFTER);
    }
    Ok(found.into_values().collect())
}

fn announced(service: &ResolvedService) -> Option<Announced> {
    // An IPv6 address that holds on one link only cannot be written as host:port.
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let mut ips: Vec<IpAddr> =
        service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).filter(usable).collect();
    ips.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6(), *ip));
    if ips.is_empty() || service.port == 0 {
        return None;
    }
    let instance = service.fullname.split('.').next().unwrap_or_default();
    let text = |key| service.get_property_val_str(key).unwrap_or_default().to_owned();
    Some(Announced {
        name: instance.to_owned(),
        cluster: text(CLUSTER),
        addresses: ips.into_iter().map(|ip| SocketAddr::new(ip, service.port)).collect(),
    })
}

fn cannot(error: &mdns_sd::Error) -> String {
    format!("the local network cannot be asked (mDNS): {error}")
}
