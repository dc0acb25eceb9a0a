//! Where name servers say that nodes are: the addresses that nodes registered from.
//!
//! A node that moved registers from its new address, while the resolver's cache may still hold the old one. A hint only adds
//! an address to try: with TLS, the certificate of whoever answers there says which node it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use conclave_core::NodeId;
use tokio::time::Instant;

use crate::limits::{PEER_HINT_AGE_MAX, PEER_HINTS_MAX};

/// The hints of all name servers. Bounded by the members, which the caller checks.
#[derive(Debug, Default)]
pub(super) struct Hints(BTreeMap<NodeId, Vec<(SocketAddr, Instant)>>);

impl Hints {
    /// Stores or renews a hint. It replaces the oldest one of the node if there are too many.
    pub(super) fn add(&mut self, node: NodeId, address: SocketAddr, now: Instant) {
        let hints = self.0.entry(node).or_default();
        hints.retain(|(known, at)| *known != address && is_fresh(*at, now));
        hints.push((address, now));
        let excess = hints.len().saturating_sub(PEER_HINTS_MAX);
        hints.drain(..excess);
    }

    /// The addresses of a node whose hints were renewed lately. Sorted, so that a renewal does not change the order in which
    /// a dialer tries them.
    pub(super) fn of(&self, node: NodeId, now: Instant) -> Vec<String> {
        let hints = self.0.get(&node).into_iter().flatten();
        let mut fresh: Vec<_> =
            hints.filter(|(_, at)| is_fresh(*at, now)).map(|(address, _)| *address).collect();
        fresh.sort_unstable();
        fresh.iter().map(SocketAddr::to_string).collect()
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < PEER_HINT_AGE_MAX
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7401))
    }

    #[test]
    fn a_hint_counts_until_it_is_not_renewed_for_30_seconds() {
        let (mut hints, start) = (Hints::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        hints.add(NodeId(2), address(9), start);
        hints.add(NodeId(2), address(1), after(20));
        assert_eq!(hints.of(NodeId(2), after(29)), ["10.0.0.1:7401", "10.0.0.9:7401"]);
        assert_eq!(hints.of(NodeId(2), after(30)), ["10.0.0.1:7401"]);
        hints.add(NodeId(2), address(1), after(49));
        assert_eq!(hints.of(NodeId(2), after(78)), ["10.0.0.1:7401"], "it was renewed");
        assert_eq!(hints.of(NodeId(2), after(79)), [] as [&str; 0]);
        assert_eq!(hints.of(NodeId(3), start), [] as [&str; 0]);
    }

    #[test]
    fn a_node_has_few_hints_the_newest_ones() {
        let (mut hints, start) = (Hints::default(), Instant::now());
        for last in 0..=255 {
            hints.add(NodeId(2), address(last), start + Duration::from_millis(last.into()));
        }
        let newest = ["10.0.0.252:7401", "10.0.0.253:7401", "10.0.0.254:7401", "10.0.0.255:7401"];
        assert_eq!(hints.of(NodeId(2), start + Duration::from_secs(1)), newest);
    }
}
