//! The node table: every node with its last record, and whether its lease runs. Pure: the time is a parameter.
//!
//! Records and leases are merged separately, so the order of arrival decides nothing. Of two records of one node the
//! one with the higher revision wins, from whatever sender; only a node's own message renews its lease.
//!
//! A node's state at one revision only moves forward: awaited, live, kept, lapsed. A node becomes live again only with
//! a higher revision. The zone's serial counts these steps of all nodes, so it never goes backwards, and equal content
//! has the same serial at every name server.

mod check;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use conclave_proto::cluster::NodeRecord;
use hickory_proto::rr::Name;
use tokio::time::Instant;

use crate::names::NameServer;
use crate::zone::{NodeView, ZoneInput};

pub use check::RecordError;

/// The nodes of one cluster.
#[derive(Clone, Debug)]
pub struct NodeTable {
    lease: Duration,
    /// The cluster's id, from the first accepted record.
    cluster: Option<String>,
    nodes: BTreeMap<u64, Node>,
    /// When nodes in state `Kept` lapse. Set once most nodes have returned: the others are then really gone.
    give_up: Option<Instant>,
}

/// The sender of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSource {
    /// The node that the record describes, and its address if known.
    Itself(Option<IpAddr>),
    /// Another node.
    Another,
}

/// The result of merging a record, which a node gets as its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOutcome {
    /// The highest known revision of this node's record.
    pub known_revision: u64,
    /// The node only counts as live again with a higher revision than `known_revision`.
    pub lapsed: bool,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The record with the highest revision.
    pub record: NodeRecord,
    /// The address that the node registered from, for records without addresses.
    pub from: Option<IpAddr>,
    /// The address of its last registration, for the other nodes.
    pub called_from: Option<IpAddr>,
    /// The state of its lease.
    pub state: NodeState,
}

/// The state of a node's lease, in the order of the steps at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Known from other nodes only; lapses at this time unless the node registers.
    Awaited(Instant),
    /// Registered; the lease ends at this time unless the node renews it.
    Live(Instant),
    /// The lease ended together with most others, so this name server is probably cut off: the node still counts as
    /// live.
    Kept,
    /// The lease has ended.
    Lapsed,
}

impl NodeState {
    /// Whether the node counts as live in the zone.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live(_) | Self::Kept)
    }

    /// Every value of [`Self::name`].
    pub const NAMES: [&str; 4] = ["awaited", "live", "kept", "lapsed"];

    /// The value of the metrics' label `state`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self.step()]
    }

    /// The state's part of the serial, added to four times the revision.
    fn step(self) -> usize {
        match self {
            Self::Awaited(_) => 0,
            Self::Live(_) => 1,
            Self::Kept => 2,
            Self::Lapsed => 3,
        }
    }
}

impl NodeTable {
    /// An empty table. A registration counts for `lease`.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, cluster: None, nodes: BTreeMap::new(), give_up: None }
    }

    /// Merges a record that arrived.
    ///
    /// # Errors
    /// If the record is rejected, why; then the table is unchanged.
    pub fn merge(
        &mut self,
        record: NodeRecord,
        source: RecordSource,
        now: Instant,
    ) -> Result<MergeOutcome, RecordError> {
        check::validate(&record)?;
        if let Some(cluster) = &self.cluster
            && *cluster != record.cluster_id
        {
            return Err(RecordError(format!(
                "the node {:?} is of the cluster {}, but this name server serves the cluster {cluster}: give each \
                 cluster name servers of its own",
                record.name, record.cluster_id
            )));
        }
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&record.node_id) {
            return Err(RecordError(format!(
                "the maximum of {NODES_MAX} nodes is known, and {:?} is not among them: restart the name server if \
                 some of them are gone for good",
                record.name
            )));
        }
        self.cluster.get_or_insert_with(|| record.cluster_id.clone());
        let until = now + self.lease;
        let (itself, from) = match source {
            RecordSource::Itself(from) => (true, from.map(|from| from.to_canonical())),
            RecordSource::Another => (false, None),
        };
        let node = self.nodes.entry(record.node_id).or_insert_with(|| Node {
            record: record.clone(),
            from,
            called_from: from,
            state: NodeState::Awaited(until),
        });
        let older = record.revision < node.record.revision;
        let newer = record.revision > node.record.revision;
        // A node that sends two different records with one revision must send a higher one, as after a lapse.
        let conflicting = record.revision == node.record.revision && record != node.record;
        if newer {
            *node = Node { record, from: from.or(node.from), ..*node };
        }
        // A node that moved may register from both places for a moment; the older record is from the old one.
        if !older {
            node.called_from = from.or(node.called_from);
        }
        node.state = match node.state {
            NodeState::Awaited(_) | NodeState::Live(_) if itself => NodeState::Live(until),
            NodeState::Kept | NodeState::Lapsed if itself && newer => NodeState::Live(until),
            // The record changed, so the node is alive or was until lately: it has one lease to register here.
            NodeState::Lapsed if newer => NodeState::Awaited(until),
            state => state,
        };
        node.from = node.from.or(from);
        let lapsed = conflicting || matches!(node.state, NodeState::Kept | NodeState::Lapsed);
        Ok(MergeOutcome { known_revision: node.record.revision, lapsed })
    }

    /// Ends leases that were not renewed.
    ///
    /// A node that falls silent alone is gone: it lapses. If more than half of the live nodes fall silent together,
    /// this name server is probably cut off itself: all of them are kept. Once at most half are silent, the kept nodes
    /// have one lease to return.
    pub fn expire(&mut self, now: Instant) {
        let cut_off = self.cut_off(now);
        let due = |node: &Node| matches!(node.state, NodeState::Live(until) if until <= now);
        let together = cut_off && self.nodes.values().any(due);
        let margin = self.quiet_margin();
        for node in self.nodes.values_mut() {
            node.state = match node.state {
                NodeState::Awaited(until) if until <= now => NodeState::Lapsed,
                NodeState::Live(until) if together && until < now + margin => NodeState::Kept,
                NodeState::Live(until) if until <= now => NodeState::Lapsed,
                state => state,
            };
        }
        if cut_off || !self.stale() {
            self.give_up = None;
        } else if now >= *self.give_up.get_or_insert(now + self.lease) {
            self.give_up = None;
            for node in self.nodes.values_mut().filter(|node| node.state == NodeState::Kept) {
                node.state = NodeState::Lapsed;
            }
        }
    }

    /// Whether more than half of the live nodes are silent. A node counts as silent once renewals are overdue, before its
    /// lease ends: otherwise the first of many would lapse before the others are seen to follow.
    fn cut_off(&self, now: Instant) -> bool {
        let margin = self.quiet_margin();
        let live = self.nodes.values().filter(|node| node.state.is_live()).count();
        let silent = self.nodes.values().filter(|node| match node.state {
            NodeState::Live(until) => until < now + margin,
            NodeState::Kept => true,
            NodeState::Awaited(_) | NodeState::Lapsed => false,
        });
        live >= 2 && silent.count() * 2 > live
    }

    /// A node with less than this left of its lease is silent. A lease is renewed four times while it lasts: when all
    /// nodes fall silent at once and the first lease ends, the others have at most a quarter of theirs left, while a
    /// node that renews in time always has three quarters.
    fn quiet_margin(&self) -> Duration {
        self.lease * 3 / 8
    }

    /// The next time at which [`Self::expire`] may change something.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let leases = self.nodes.values().filter_map(|node| match node.state {
            NodeState::Awaited(until) | NodeState::Live(until) => Some(until),
            NodeState::Kept | NodeState::Lapsed => None,
        });
        leases.chain(self.give_up).min()
    }

    /// Whether this name server is cut off and serves the last known records.
    #[must_use]
    pub fn stale(&self) -> bool {
        self.nodes.values().any(|node| node.state == NodeState::Kept)
    }

    /// Where the live nodes take calls of other nodes, for a node that calls from `asker`: each at the address that it
    /// registered from and its port for other nodes.
    ///
    /// A node of this machine may have called from a loopback address, which only leads to it from this machine. A
    /// link-local address leads nowhere without its scope.
    #[must_use]
    pub fn peer_addresses(&self, asker: IpAddr) -> Vec<(u64, SocketAddr)> {
        let local = asker.to_canonical().is_loopback();
        let address = |node: &Node| {
            let ip = node.called_from.filter(|ip| local || !ip.is_loopback())?;
            let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let (_, port) = node.record.peer.rsplit_once(':')?;
            let address = SocketAddr::new(ip, port.parse().ok()?);
            (node.state.is_live() && !is_link_local).then_some((node.record.node_id, address))
        };
        self.nodes.values().filter_map(address).collect()
    }

    /// The zone's serial, compared by RFC 1982.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "serial numbers are modulo 2^32")]
    pub fn serial(&self) -> u32 {
        let steps =
            self.nodes.values().map(|node| node.record.revision.wrapping_mul(4) + node.state.step() as u64);
        steps.fold(0, u64::wrapping_add) as u32
    }

    /// Every known node, also those that lapsed.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The zone's input. `None` before the first record.
    #[must_use]
    pub fn view(&self, zone: &Name, name_servers: &[NameServer]) -> Option<ZoneInput> {
        if self.nodes.is_empty() {
            return None;
        }
        let node = |node: &Node| {
            let mut record = node.record.clone();
            if record.ips.is_empty() {
                record.ips.extend(node.from.map(|from| from.to_string()));
            }
            NodeView { record, live: node.state.is_live() }
        };
        Some(ZoneInput {
            zone: zone.clone(),
            name_servers: name_servers.to_vec(),
            nodes: self.nodes.values().map(node).collect(),
            stale: self.stale(),
            serial: self.serial(),
        })
    }
}
