//! Announces a server in the local network: DNS-SD over multicast DNS (RFC 6762, RFC 6763).
//!
//! Multicast does not leave the network's segment, nor a container's bridge: this is for machines in one network
//! segment.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};

/// The service type that servers announce.
const SERVICE: &str = "_conclave._tcp.local.";
/// Timeout for withdrawing an announcement.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// A server to announce.
#[derive(Clone, Debug)]
pub struct Announced {
    /// The node's name. If two in the network have the same name, mDNS appends a number to one of them.
    pub name: String,
    /// The cluster's name, by which clients pick servers of their cluster.
    pub cluster: String,
    /// The node's id.
    pub node_id: u64,
    /// The address of the client API. An unspecified address announces every address of the host, also those that come
    /// and go later; a loopback address is announced to this machine only.
    pub listen: SocketAddr,
}

/// Why a server cannot be announced.
#[derive(Debug, thiserror::Error)]
#[error("cannot announce the server in the local network (mDNS): {0}")]
pub struct AnnounceError(#[from] mdns_sd::Error);

/// An announcement, withdrawn when it is closed or dropped.
#[must_use = "dropping an announcement withdraws it"]
pub struct Announcement(Option<ServiceDaemon>);

impl std::fmt::Debug for Announcement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Announcement")
    }
}

/// Announces a server from a thread of its own. A network that does not carry multicast is not an error.
///
/// # Errors
/// If the thread cannot be started, or the name is not a valid instance name.
pub fn announce(announced: &Announced) -> Result<Announcement, AnnounceError> {
    let Announced { name, cluster, node_id, listen } = announced;
    let ip = listen.ip();
    let properties = [
        ("cluster", cluster.as_str()),
        ("id", &node_id.to_string()),
        ("ver", conclave_core::version::VERSION),
    ];
    let host = format!("{}.local.", host(name, cluster));
    let ips: &[IpAddr] = if ip.is_unspecified() { &[] } else { &[ip] };
    let mut service = ServiceInfo::new(SERVICE, name, &host, ips, listen.port(), &properties[..])?;
    // Only on the interfaces where the server listens: elsewhere clients could not connect.
    let interfaces = match ip {
        IpAddr::V4(ip) if ip.is_loopback() => vec![IfKind::LoopbackV4],
        IpAddr::V6(ip) if ip.is_loopback() => vec![IfKind::LoopbackV6],
        // 0.0.0.0 accepts IPv4 only; [::] accepts both on most systems.
        IpAddr::V4(ip) if ip.is_unspecified() => vec![IfKind::IPv4],
        IpAddr::V6(ip) if ip.is_unspecified() => vec![IfKind::IPv4, IfKind::IPv6],
        _ => vec![IfKind::Addr(ip)],
    };
    service.set_interfaces(interfaces);
    if ip.is_unspecified() {
        service = service.enable_addr_auto();
    }
    let daemon = ServiceDaemon::new()?;
    let announcement = Announcement(Some(daemon.clone()));
    daemon.register(service)?;
    Ok(announcement)
}

impl Announcement {
    /// Withdraws the announcement, and waits at most a second until the network was told.
    pub async fn close(mut self) {
        if let Some(Ok(ended)) = self.0.take().map(|daemon| daemon.shutdown())
            && tokio::time::timeout(CLOSE_DEADLINE, ended.recv_async()).await.is_err()
        {
            tracing::debug!("mDNS announcement not withdrawn in time");
        }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // The thread withdraws the announcement and ends. This fails only if the thread has ended already.
        let _ = self.0.take().map(|daemon| daemon.shutdown());
    }
}

/// A host label for each node, so that two nodes on one host do not share their addresses.
fn host(name: &str, cluster: &str) -> String {
    let mut label: String = format!("conclave-{cluster}-{name}").to_ascii_lowercase();
    label.retain(|c| c.is_ascii_alphanumeric() || c == '-');
    label.truncate(63);
    label.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceEvent;

    use super::*;

    #[test]
    fn a_host_label_has_only_valid_characters_and_at_most_63_of_them() {
        assert_eq!(host("n1", "My Cluster_2"), "conclave-mycluster2-n1");
        assert_eq!(host(&"n".repeat(99), "c").len(), 63);
        assert_eq!(host("", ""), "conclave");
    }

    /// Skipped where the system does not carry multicast between its own programs.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_announced_server_is_found_and_disappears_after_close() {
        let name = format!("test-{}", std::process::id());
        let announced = Announced {
            name: name.clone(),
            cluster: "the tests".to_owned(),
            node_id: 7,
            listen: "127.0.0.1:7400".parse().unwrap(),
        };
        let announcement = announce(&announced).unwrap();
        let browser = ServiceDaemon::new().unwrap();
        let events = browser.browse(SERVICE).unwrap();
        let found = async {
            loop {
                if let ServiceEvent::ServiceResolved(service) = events.recv_async().await.unwrap()
                    && service.fullname.starts_with(&name)
                {
                    break service;
                }
            }
        };
        let Ok(service) = tokio::time::timeout(Duration::from_secs(60), found).await else {
            eprintln!("multicast does not work here");
            return;
        };
        assert_eq!(service.port, 7400);
        assert_eq!(service.get_property_val_str("cluster"), Some("the tests"));
        assert_eq!(service.get_property_val_str("id"), Some("7"));
        assert!(service.addresses.iter().all(|ip| ip.to_ip_addr().is_loopback()), "{service:?}");

        announcement.close().await;
        let gone = async {
            loop {
                if let ServiceEvent::ServiceRemoved(_, name) = events.recv_async().await.unwrap()
                    && name == service.fullname
                {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the announcement is withdrawn");
        browser.shutdown().unwrap();
    }
}
