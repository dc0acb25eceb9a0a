//! What the other nodes last said of themselves, and which of them clients should rather go to.

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
use crate::peer::Peers;

/// By node, also of nodes that are gone meanwhile. Bounded by the members of the cluster.
pub(crate) type Statuses = BTreeMap<NodeId, NodeStatus>;

/// What the other nodes said.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    statuses: watch::Sender<Arc<Statuses>>,
    /// Clients that were sent to a node since it was last heard: it does not count them yet.
    sent: Mutex<BTreeMap<NodeId, u32>>,
}

impl Heard {
    /// Takes what nodes said. Whoever waits for changes hears only of changed records.
    pub(crate) fn hear(&self, said: Vec<NodeStatus>) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.statuses.send_if_modified(|statuses| {
            let mut known = Statuses::clone(statuses);
            let mut news = false;
            for status in said {
                let before = known.get(&NodeId(status.node_id)).and_then(|known| known.record.as_ref());
                // A node speaks for itself only. What has no record is of an older version.
                let fits = |record: &NodeRecord| record.node_id == status.node_id;
                let record = status.record.clone().filter(fits).or_else(|| before.cloned());
                news |= record.as_ref() != before;
                known.insert(NodeId(status.node_id), NodeStatus { record, shards: Vec::new(), ..status });
            }
            *statuses = Arc::new(known);
            news
        });
    }

    /// Hears of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Statuses>> {
        self.statuses.subscribe()
    }

    /// What is known now.
    pub(crate) fn statuses(&self) -> Arc<Statuses> {
        Arc::clone(&self.statuses.borrow())
    }

    /// Whether the node said that it gives its work away.
    pub(crate) fn is_draining(&self, node: NodeId) -> bool {
        self.statuses.borrow().get(&node).is_some_and(|status| status.draining)
    }

    /// Client addresses of nodes that take clients, the one with most room first; it is taken for granted that a client
    /// goes there. If there is none such, of all that can be reached.
    pub(crate) fn better(&self, peers: &Peers) -> Vec<String> {
        let statuses = self.statuses();
        let nodes = peers.iter().map(|peer| {
            (peer.member.client.as_str(), load_of(peer.id, peer.is_alive(), statuses.get(&peer.id)))
        });
        let nodes: Vec<_> = nodes.collect();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        best_first(&nodes, &mut sent).into_iter().take(BETTER_NODES_MAX).map(str::to_owned).collect()
    }
}

/// What is known of a node, for the placement of clients.
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
    fn those_who_are_sent_elsewhere_spread() {
        let nodes = [node(1, 10), node(2, 12), node(3, 100)];
        let mut sent = BTreeMap::new();
        let firsts: Vec<_> = (0..6).map(|_| best_first(&nodes, &mut sent)[0]).collect();
        assert_eq!(firsts, ["a:1", "a:1", "a:1", "b:2", "a:1", "b:2"]);
    }

    #[test]
    fn if_nobody_has_room_all_that_live_are_named() {
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
    async fn only_changed_records_are_news_and_nobody_speaks_for_another() {
        let heard = Heard::default();
        let mut news = heard.subscribe();
        heard.hear(vec![status(1, record(1, 5)), status(2, record(1, 9)), status(3, None)]);
        assert!(news.has_changed().unwrap());
        let known = news.borrow_and_update().clone();
        assert_eq!(known[&NodeId(1)].record, record(1, 5));
        assert_eq!(known[&NodeId(2)].record, None);
        heard.hear(vec![NodeStatus { clients: 4, ..status(1, record(1, 5)) }]);
        assert!(!news.has_changed().unwrap());
        assert_eq!(heard.statuses()[&NodeId(1)].clients, 4);
        heard.hear(vec![status(1, None)]);
        assert_eq!(heard.statuses()[&NodeId(1)].record, record(1, 5), "the last word counts");
    }
}
