//! The members of the cluster, their addresses, and which nodes hold which shard.
//!
//! The meta shard's state is the truth; [`Topology`] reads it through a watch and copies nothing. The plan of the first
//! nodes ([`crate::plan`]) fills in what the meta shard does not have yet: everything in a new cluster, and the nodes
//! that have not registered.

mod hints;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_core::record::NodeRecord;
use conclave_core::ring::{Layout, shard_of};
use conclave_core::{DataDirId, NodeId, RoomId, ShardId, level};
use conclave_store::ClusterTable;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Member;
use crate::topology::hints::Hints;

/// The members and the layout as this node knows them.
#[derive(Debug)]
pub(crate) struct Topology {
    me: NodeId,
    /// The first nodes, with their addresses in this node's configuration.
    planned: BTreeMap<NodeId, Member>,
    planned_layout: Layout,
    table: watch::Receiver<Arc<ClusterTable>>,
    /// Where nodes called from last, with the ports that they named. Bounded by the members.
    heard: Mutex<BTreeMap<NodeId, String>>,
    /// Where name servers say that nodes are. Bounded by the members.
    hints: Mutex<Hints>,
}

impl Topology {
    /// `planned` and `planned_layout` count for what is not in the table.
    pub(crate) fn new(
        me: NodeId,
        planned: BTreeMap<NodeId, Member>,
        planned_layout: Layout,
        table: watch::Receiver<Arc<ClusterTable>>,
    ) -> Self {
        Self { me, planned, planned_layout, table, heard: Mutex::default(), hints: Mutex::default() }
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    fn table(&self) -> Arc<ClusterTable> {
        Arc::clone(&self.table.borrow())
    }

    /// A node's name and addresses.
    pub(crate) fn member(&self, node: NodeId) -> Option<Member> {
        let table = self.table.borrow();
        table.nodes.get(&node).map(member).or_else(|| self.planned.get(&node).cloned())
    }

    /// The origin at which browsers reach a node; empty where it has registered none.
    pub(crate) fn web_address(&self, node: NodeId) -> String {
        self.table.borrow().nodes.get(&node).map_or_else(String::new, |record| record.web_address.clone())
    }

    /// The origins at which browsers reach the nodes that have registered one.
    pub(crate) fn web_addresses(&self) -> Vec<String> {
        let table = self.table.borrow();
        let origins = table.nodes.values().map(|record| record.web_address.clone());
        origins.filter(|origin| !origin.is_empty()).collect()
    }

    /// The data dir with which a node registered. It never changes for a node id.
    pub(crate) fn data_dir(&self, node: NodeId) -> Option<DataDirId> {
        self.table.borrow().nodes.get(&node).map(|record| record.directory)
    }

    /// All members, registered or planned.
    pub(crate) fn members(&self) -> BTreeMap<NodeId, Member> {
        let mut members = self.planned.clone();
        members.extend(self.table().nodes.iter().map(|(id, record)| (*id, member(record))));
        members
    }

    /// The addresses at which a node may be reached by other nodes, without repetition: the one in this node's configuration
    /// first, then where the node called from last, then where name servers say that it is, then the one with which it registered
    /// in the meta shard last. Each may be outdated: the first if the node moved and its name does not say so yet, the last if
    /// the whole cluster moved.
    pub(crate) fn peer_addresses(&self, node: NodeId, now: Instant) -> Vec<String> {
        let planned = self.planned.get(&node).map(|member| member.peer.clone());
        let heard = self.heard().get(&node).cloned();
        let hinted = self.hints().of(node, now);
        let registered = self.table.borrow().nodes.get(&node).map(|record| record.peer_address.clone());
        let mut addresses = Vec::new();
        for address in planned.into_iter().chain(heard).chain(hinted).chain(registered) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Takes where a node calls from, and the port at which it takes calls. With TLS, the caller's certificate has proved that
    /// it is this node. A link-local address is of no use without its scope.
    pub(crate) fn heard_from(&self, node: NodeId, host: IpAddr, port: u16) {
        let is_link_local = matches!(host, IpAddr::V6(host) if host.is_unicast_link_local());
        if port != 0 && !is_link_local && self.member(node).is_some() {
            self.heard().insert(node, SocketAddr::new(host.to_canonical(), port).to_string());
        }
    }

    /// Forgets that a node called from this address: nobody answers there.
    pub(crate) fn forget_heard(&self, node: NodeId, address: &str) {
        let mut heard = self.heard();
        if heard.get(&node).is_some_and(|known| known == address) {
            heard.remove(&node);
        }
    }

    /// Takes where a name server says that a node takes calls of other nodes.
    pub(crate) fn hinted(&self, node: NodeId, address: SocketAddr, now: Instant) {
        if node != self.me && address.port() != 0 && self.member(node).is_some() {
            self.hints().add(node, address, now);
        }
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        // As with `heard`.
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, String>> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layout in force.
    pub(crate) fn layout(&self) -> Layout {
        self.table.borrow().layout.clone().unwrap_or_else(|| self.planned_layout.clone())
    }

    /// The layout of a cluster that has none yet.
    pub(crate) fn planned_layout(&self) -> &Layout {
        &self.planned_layout
    }

    /// Whether the meta shard has a layout.
    pub(crate) fn has_layout(&self) -> bool {
        self.table.borrow().layout.is_some()
    }

    /// The nodes that hold a shard, the preferred leader first.
    pub(crate) fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        let table = self.table.borrow();
        let layout = table.layout.as_ref().unwrap_or(&self.planned_layout);
        let index = usize::try_from(shard.0).unwrap_or(usize::MAX);
        layout.shards.get(index).cloned().unwrap_or_default()
    }

    /// The number of data shards. It never changes.
    pub(crate) fn data_shards(&self) -> u32 {
        u32::try_from(self.planned_layout.shards.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The shard of a room.
    pub(crate) fn shard_of(&self, room: RoomId) -> ShardId {
        shard_of(room, self.data_shards())
    }

    /// The cluster's feature level.
    pub(crate) fn feature_level(&self) -> u32 {
        self.table.borrow().feature_level.max(level::FIRST)
    }

    /// Whether the meta shard has set this feature level, or a higher one. False for every level of a new cluster.
    pub(crate) fn has_feature_level(&self, level: u32) -> bool {
        self.table.borrow().feature_level >= level
    }

    /// The highest feature level that all members understand; `None` while one of them has not registered.
    pub(crate) fn understood_level(&self) -> Option<u32> {
        let table = self.table.borrow();
        let registered = self.planned.keys().all(|node| table.nodes.contains_key(node));
        let understood = table.nodes.values().map(|node| node.feature_level).min();
        understood.filter(|_| registered)
    }
}

fn member(record: &NodeRecord) -> Member {
    Member {
        name: record.name.clone(),
        peer: record.peer_address.clone(),
        client: record.client_address.clone(),
        http: record.http_address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PEER_HINT_AGE_MAX;

    fn planned(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            peer: format!("{name}:1"),
            client: format!("{name}:2"),
            http: format!("{name}:3"),
        }
    }

    fn record(id: u64, name: &str, port: u16, feature_level: u32) -> NodeRecord {
        NodeRecord {
            node: NodeId(id),
            name: name.to_owned(),
            client_address: format!("{name}:{port}"),
            peer_address: format!("{name}:{}", port + 1),
            http_address: format!("{name}:{}", port + 2),
            web_address: String::new(),
            directory: DataDirId(7),
            version: "1".to_owned(),
            feature_level,
        }
    }

    fn topology() -> (watch::Sender<Arc<ClusterTable>>, Topology) {
        let (sender, table) = watch::channel(Arc::default());
        let members = [(NodeId(1), planned("a")), (NodeId(2), planned("b"))].into();
        let shards = vec![vec![NodeId(1), NodeId(2)], vec![NodeId(2), NodeId(1)], vec![NodeId(1)]];
        (sender, Topology::new(NodeId(1), members, Layout { version: 1, shards }, table))
    }

    #[test]
    fn the_plan_counts_until_the_meta_shard_says_otherwise() {
        let (sender, topology) = topology();
        assert_eq!(topology.member(NodeId(2)), Some(planned("b")));
        assert_eq!(topology.replicas(ShardId(1)), [NodeId(2), NodeId(1)]);
        assert_eq!((topology.data_shards(), topology.feature_level()), (2, level::FIRST));
        assert_eq!((topology.has_layout(), topology.understood_level()), (false, None));

        let layout = Layout { version: 2, shards: vec![vec![NodeId(2)], vec![NodeId(1)], vec![NodeId(3)]] };
        let nodes = [(NodeId(2), record(2, "b", 50, 4)), (NodeId(3), record(3, "c", 60, 3))];
        let table = ClusterTable { nodes: nodes.into(), layout: Some(layout), feature_level: 2 };
        sender.send_replace(Arc::new(table.clone()));
        assert_eq!(topology.member(NodeId(2)).unwrap().client, "b:50");
        assert_eq!(topology.members().len(), 3, "a node that joined later is a member");
        assert_eq!(topology.replicas(ShardId(1)), [NodeId(1)]);
        assert_eq!(topology.replicas(ShardId(9)), []);
        assert_eq!(topology.feature_level(), 2);
        assert_eq!(topology.understood_level(), None, "node 1 has not registered");
        let mut nodes = table.nodes.clone();
        nodes.insert(NodeId(1), record(1, "a", 40, 5));
        sender.send_replace(Arc::new(ClusterTable { nodes, ..table }));
        assert_eq!(topology.understood_level(), Some(3));
    }

    #[test]
    fn a_node_may_be_reached_where_name_servers_say() {
        let (sender, topology) = topology();
        let now = Instant::now();
        let nodes = [(NodeId(2), record(2, "b", 50, 1))].into();
        sender.send_replace(Arc::new(ClusterTable { nodes, ..ClusterTable::default() }));
        let hint = |last, port| SocketAddr::from(([10, 0, 0, last], port));
        topology.hinted(NodeId(2), hint(2, 7401), now);
        topology.hinted(NodeId(2), hint(3, 0), now);
        topology.heard_from(NodeId(2), "10.0.0.4".parse().unwrap(), 7401);
        let all = ["b:1", "10.0.0.4:7401", "10.0.0.2:7401", "b:51"];
        assert_eq!(topology.peer_addresses(NodeId(2), now), all);
        assert_eq!(
            topology.peer_addresses(NodeId(2), now + PEER_HINT_AGE_MAX),
            ["b:1", "10.0.0.4:7401", "b:51"]
        );
        topology.hinted(NodeId(1), hint(1, 7401), now);
        assert_eq!(topology.peer_addresses(NodeId(1), now), ["a:1"], "a node needs no hint about itself");
        topology.hinted(NodeId(9), hint(9, 7401), now);
        assert_eq!(topology.peer_addresses(NodeId(9), now), [] as [&str; 0], "it is no member");
    }

    #[test]
    fn a_node_may_be_reached_where_it_registered_and_where_it_is_configured() {
        let (sender, topology) = topology();
        let now = Instant::now();
        assert_eq!(topology.peer_addresses(NodeId(2), now), ["b:1"]);
        let moved = |port| ClusterTable {
            nodes: [(NodeId(2), record(2, "b", port, 1)), (NodeId(3), record(3, "c", 60, 1))].into(),
            ..ClusterTable::default()
        };
        sender.send_replace(Arc::new(moved(50)));
        assert_eq!(topology.peer_addresses(NodeId(2), now), ["b:1", "b:51"]);
        let host = "::ffff:10.0.0.2".parse().unwrap();
        topology.heard_from(NodeId(2), host, 0);
        topology.heard_from(NodeId(2), host, 7401);
        assert_eq!(topology.peer_addresses(NodeId(2), now), ["b:1", "10.0.0.2:7401", "b:51"]);
        topology.heard_from(NodeId(9), host, 7401);
        topology.forget_heard(NodeId(2), "10.0.0.3:7401");
        assert_eq!(topology.peer_addresses(NodeId(2), now).len(), 3);
        topology.forget_heard(NodeId(2), "10.0.0.2:7401");
        assert_eq!(topology.peer_addresses(NodeId(2), now), ["b:1", "b:51"]);
        topology.heard_from(NodeId(2), "fe80::1".parse().unwrap(), 7401);
        topology.heard_from(NodeId(2), host, 7401);
        assert_eq!(topology.peer_addresses(NodeId(3), now), ["c:61"], "it is not in the configuration");
        sender.send_replace(Arc::new(moved(0)));
        let both = ["b:1", "10.0.0.2:7401"];
        assert_eq!(topology.peer_addresses(NodeId(2), now), both, "it registered as it is configured");
        assert_eq!(topology.peer_addresses(NodeId(9), now), [] as [&str; 0]);
    }
}
