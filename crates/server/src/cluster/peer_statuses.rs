//! The last reported status of each other node, and which of them are better for clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use conclave_core::NodeId;
use conclave_core::limits::CLIENTS_MAX_DEFAULT;
use conclave_core::placement::NodeLoad;
use conclave_proto::chat::NodeStatus;
use conclave_proto::cluster::NodeRecord;
use tokio::sync::watch;

use crate::limits::BETTER_NODES_MAX;
use crate::local::load::permille;
use crate::peer::{Peer, Peers};

/// By node, including nodes that have failed since. Bounded by the number of cluster members.
pub(crate) type Statuses = BTreeMap<NodeId, NodeStatus>;

/// The statuses that other nodes reported.
#[derive(Debug, Default)]
pub(crate) struct PeerStatuses {
    statuses: watch::Sender<Arc<Statuses>>,
    /// Clients that were sent to a node since its last report, which does not count them yet.
    sent: Mutex<BTreeMap<NodeId, u32>>,
}

impl PeerStatuses {
    /// Stores reported statuses. Watchers are notified only when a record changes.
    pub(crate) fn update(&self, reported: Vec<NodeStatus>) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.statuses.send_if_modified(|statuses| {
            let mut known = Statuses::clone(statuses);
            let mut news = false;
            for status in reported {
                let before = known.get(&NodeId(status.node_id)).and_then(|known| known.record.as_ref());
                // A node reports only for itself. A status without a record is from an older version.
                let fits = |record: &NodeRecord| record.node_id == status.node_id;
                let record = status.record.clone().filter(fits).or_else(|| before.cloned());
                news |= record.as_ref() != before;
                known.insert(NodeId(status.node_id), NodeStatus { record, shards: Vec::new(), ..status });
            }
            *statuses = Arc::new(known);
            news
        });
    }

    /// Notifies of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Statuses>> {
        self.statuses.subscribe()
    }

    /// The statuses that are known now.
    pub(crate) fn statuses(&self) -> Arc<Statuses> {
        Arc::clone(&self.statuses.borrow())
    }

    /// Whether the node last reported that it is draining.
    pub(crate) fn is_draining(&self, node: NodeId) -> bool {
        self.statuses.borrow().get(&node).is_some_and(|status| status.draining)
    }

    /// Whether the node last reported that its disk has no room.
    pub(crate) fn is_disk_full(&self, node: NodeId) -> bool {
        self.statuses.borrow().get(&node).is_some_and(|status| status.disk_full)
    }

    /// Client addresses of nodes that accept clients, the one with the most room first. The client is assumed to go to
    /// that one. If no node accepts clients: the addresses of all reachable nodes.
    pub(crate) fn redirect_targets(&self, peers: &Peers) -> Vec<String> {
        let statuses = self.statuses();
        let addresses: Vec<_> = peers.iter().map(|peer| peer.member().client).collect();
        let load = |peer: &Arc<Peer>| load_of(peer.id, peer.is_alive(), statuses.get(&peer.id));
        let nodes: Vec<_> = addresses.iter().map(String::as_str).zip(peers.iter().map(load)).collect();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        best_first(&nodes, &mut sent).into_iter().take(BETTER_NODES_MAX).map(str::to_owned).collect()
    }
}

/// A node's load, for the placement of clients.
pub(crate) fn load_of(id: NodeId, alive: bool, status: Option<&NodeStatus>) -> NodeLoad {
    let record = status.and_then(|status| status.record.as_ref());
    let max = status.map_or(0, |status| status.clients_max);
    NodeLoad {
        id,
        clients: status.map_or(0, |status| status.clients),
        max: if max == 0 { CLIENTS_MAX_DEFAULT } else { max },
        alive,
        ready: record.is_some_and(|record| record.ready),
        draining: status.is_some_and(|status| status.draining),
        busy: false,
    }
}

fn best_first<'a>(nodes: &[(&'a str, NodeLoad)], sent: &mut BTreeMap<NodeId, u32>) -> Vec<&'a str> {
    let clients = |node: &NodeLoad| node.clients.saturating_add(sent.get(&node.id).copied().unwrap_or(0));
    let mut good: Vec<_> = nodes
        .iter()
        .filter(|(_, node)| node.alive && node.ready && !node.draining && clients(node) < node.max)
        .collect();
    good.sort_by_key(|(_, node)| (permille(clients(node).into(), node.max.into()), clients(node), node.id));
    if let Some((_, best)) = good.first() {
        *sent.entry(best.id).or_default() += 1;
    } else {
        good = nodes.iter().filter(|(_, node)| node.alive && !node.draining).collect();
    }
    good.into_iter().map(|(address, _)| *address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, clients: u32) -> (&'static str, NodeLoad) {
        let address = ["a:1", "b:2", "c:3"][usize::try_from(id - 1).unwrap()];
        let load = NodeLoad {
            id: NodeId(id),
            clients,
            max: 100,
            alive: true,
            ready: true,
            draining: false,
            busy: false,
        };
        (address, load)
    }

    #[test]
    fn redirected_clients_spread_over_the_nodes() {
        let nodes = [node(1, 10), node(2, 12), node(3, 100)];
        let mut sent = BTreeMap::new();
        let firsts: Vec<_> = (0..6).map(|_| best_first(&nodes, &mut sent)[0]).collect();
        assert_eq!(firsts, ["a:1", "a:1", "a:1", "b:2", "a:1", "b:2"]);
    }

    #[test]
    fn without_room_anywhere_all_live_nodes_are_named() {
        let mut nodes = [node(1, 100), node(2, 100), node(3, 0)];
        nodes[1].1.alive = false;
        nodes[2].1.draining = true;
        assert_eq!(best_first(&nodes, &mut BTreeMap::new()), ["a:1"]);
    }

    fn status(id: u64, record: Option<NodeRecord>) -> NodeStatus {
        NodeStatus { node_id: id, record, ..NodeStatus::default() }
    }

    fn record(id: u64, revision: u64) -> Option<NodeRecord> {
        Some(NodeRecord { node_id: id, revision, ..NodeRecord::default() })
    }

    #[tokio::test]
    async fn only_changed_records_notify_and_no_node_reports_for_another() {
        let peer_statuses = PeerStatuses::default();
        let mut news = peer_statuses.subscribe();
        peer_statuses.update(vec![status(1, record(1, 5)), status(2, record(1, 9)), status(3, None)]);
        assert!(news.has_changed().unwrap());
        let known = news.borrow_and_update().clone();
        assert_eq!(known[&NodeId(1)].record, record(1, 5));
        assert_eq!(known[&NodeId(2)].record, None);
        peer_statuses.update(vec![NodeStatus { clients: 4, ..status(1, record(1, 5)) }]);
        assert!(!news.has_changed().unwrap());
        assert_eq!(peer_statuses.statuses()[&NodeId(1)].clients, 4);
        peer_statuses.update(vec![status(1, None)]);
        assert_eq!(peer_statuses.statuses()[&NodeId(1)].record, record(1, 5), "the last word counts");
    }
}
