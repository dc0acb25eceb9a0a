//! Browses the local network for nodes (DNS-SD over multicast DNS).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::time::Instant;

use super::{Candidate, PRIORITY_LAST};
use crate::limits::MDNS_SETTLED_AFTER;

/// The service type that nodes announce.
pub const SERVICE: &str = "_conclave._tcp.local.";
/// The TXT key of the cluster's name.
pub const CLUSTER: &str = "cluster";

/// A node that announces itself on the local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its name.
    pub name: String,
    /// Its cluster's name; empty if not announced.
    pub cluster: String,
    /// The addresses of its client API, the likeliest to be reachable first; at least one.
    pub addresses: Vec<SocketAddr>,
}

impl Announced {
    /// The candidates: its first address, and the others as fallbacks.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Candidate> + '_ {
        self.addresses.iter().enumerate().map(|(at, address)| Candidate {
            name: self.name.clone(),
            priority: if at == 0 { 0 } else { PRIORITY_LAST + 1 },
            ..Candidate::at(address.to_string())
        })
    }
}

/// Browses the local network for nodes, of one cluster if a name is given. Returns early once some have answered and no
/// other one does for `MDNS_SETTLED_AFTER`.
///
/// # Errors
/// A sentence, if the network cannot be browsed.
pub async fn browse(within: Duration, cluster: Option<&str>) -> Result<Vec<Announced>, String> {
    let daemon = Daemon(ServiceDaemon::new().map_err(|error| cannot(&error))?);
    collect(&daemon, within, cluster).await
}

/// The mDNS daemon. Dropping it ends its thread.
struct Daemon(ServiceDaemon);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It fails only if the thread has already ended.
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
    // A link-local IPv6 address cannot be written as host:port.
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
    format!("the local network cannot be browsed (mDNS): {error}")
}

#[cfg(test)]
mod tests {
    use crate::limits::MDNS_TIMEOUT;
    use mdns_sd::ServiceInfo;

    use super::*;

    /// Only a failure reaches it, even on a busy machine.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn announce(daemon: &Daemon, name: &str, cluster: &str, ips: &str, port: u16) {
        let properties = [(CLUSTER, cluster)];
        let info =
            ServiceInfo::new(SERVICE, name, &format!("{name}.local."), ips, port, &properties[..]).unwrap();
        daemon.0.register(info).unwrap();
    }

    /// A port that isolates the daemons of one test from those of others.
    fn port() -> u16 {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    fn daemon(port: u16) -> Daemon {
        Daemon(ServiceDaemon::new_with_port(port).unwrap())
    }

    #[tokio::test]
    async fn nodes_on_the_network_are_found_by_their_cluster() {
        let port = port();
        let [node1, node2, other] = [daemon(port), daemon(port), daemon(port)];
        announce(&node1, "n1", "ours", "127.0.0.1", 7400);
        announce(&node2, "n2", "ours", "127.0.0.2", 7410);
        announce(&other, "n1-of-others", "theirs", "127.0.0.3", 7400);
        // Announcing takes about a second of probing. A daemon that has just answered another query may leave the next
        // one unanswered, so one round may not find all nodes.
        let mut seen = BTreeMap::new();
        let both = async {
            while seen.len() < 2 {
                for node in collect(&daemon(port), MDNS_TIMEOUT, Some("ours")).await.unwrap() {
                    assert_eq!(node.cluster, "ours");
                    seen.insert(node.name, node.addresses[0].to_string());
                }
            }
        };
        tokio::time::timeout(DEADLINE, both).await.expect("both are found");
        let expected = [("n1", "127.0.0.1:7400"), ("n2", "127.0.0.2:7410")];
        assert!(
            seen.iter().map(|(name, address)| (name.as_str(), address.as_str())).eq(expected),
            "{seen:?}"
        );
    }

    #[test]
    fn reachable_addresses_come_first_and_link_local_ones_are_left_out() {
        let service = |ips: &str, port| {
            let info = ServiceInfo::new(SERVICE, "n1", "h.local.", ips, port, &[("x", "y")][..]).unwrap();
            announced(&info.as_resolved_service())
        };
        let node = service("fe80::1,127.0.0.1,fd00::1,192.0.2.7", 7400).unwrap();
        let addresses: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.7:7400", "[fd00::1]:7400", "127.0.0.1:7400"]);
        let candidates: Vec<_> = node.candidates().collect();
        assert!(candidates[0].priority < PRIORITY_LAST && candidates[1].priority > PRIORITY_LAST);
        assert_eq!((node.name.as_str(), node.cluster.as_str()), ("n1", ""));
        assert_eq!(service("fe80::1", 7400), None);
        assert_eq!(service("192.0.2.7", 0), None);
    }

    #[tokio::test]
    async fn browsing_an_empty_network_ends() {
        let daemon = daemon(port());
        let found = collect(&daemon, Duration::from_millis(200), None);
        assert_eq!(tokio::time::timeout(DEADLINE, found).await.expect("it ends"), Ok(Vec::new()));
    }
}
