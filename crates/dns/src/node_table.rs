//! Which nodes there are, what they last said of themselves, and which of them are well. Pure: time comes from outside.
//!
//! Content and life are merged apart from each other, so that the order of arrival decides nothing. Of two records of a
//! node the one with the higher revision counts, whoever brought it; a lease is renewed by the node's own word only.
//!
//! A node's state at one revision only ever moves forward: awaited, live, kept, lapsed. Back to live it comes with a
//! higher revision. The zone's serial counts these steps of all nodes, so it never goes backwards, and the same content
//! has the same serial at every resolver.

mod check;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use conclave_core::limits::NODES_MAX;
use conclave_proto::cluster::NodeRecord;
use hickory_proto::rr::Name;
use tokio::time::Instant;

use crate::names::NameServer;
use crate::zone::{NodeView, View};

pub use check::RecordError;

/// What is believed of the nodes.
#[derive(Clone, Debug)]
pub struct NodeTable {
    lease: Duration,
    /// Of the first record that was believed.
    cluster: Option<String>,
    nodes: BTreeMap<u64, Node>,
    /// When the nodes that were kept are given up: so many are heard again that they must really be gone.
    give_up: Option<Instant>,
}

/// Who brought a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSource {
    /// The node itself, and the address it comes from if that is known.
    Itself(Option<IpAddr>),
    /// Another node.
    Another,
}

/// What a node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOutcome {
    /// The highest revision of this node that is known.
    pub known_revision: u64,
    /// It only counts again with a higher revision than that.
    pub lapsed: bool,
}

/// A node, as the table sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it last said of itself.
    pub record: NodeRecord,
    /// Where it said so from, for records without addresses.
    pub from: Option<IpAddr>,
    /// How it is.
    pub state: NodeState,
}

/// How a node is, in the order in which it goes at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Others told of it; it has until then to say so itself.
    Awaited(Instant),
    /// It said so itself; until then, if it does not say so again.
    Live(Instant),
    /// It fell silent together with most others, so the silence is rather here: it counts as live.
    Kept,
    /// It fell silent.
    Lapsed,
}

impl NodeState {
    /// Whether the node counts as one that answers.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live(_) | Self::Kept)
    }

    /// What [`Self::name`] can be.
    pub const NAMES: [&str; 4] = ["awaited", "live", "kept", "lapsed"];

    /// A short word for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self.step()]
    }

    /// What the state adds to four times the revision.
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
    /// Knows nobody yet. A node's word counts for as long as `lease`.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, cluster: None, nodes: BTreeMap::new(), give_up: None }
    }

    /// A record came in.
    ///
    /// # Errors
    /// If it cannot be believed, in a sentence; then nothing has changed.
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
                "the node {:?} is of the cluster {}, but this resolver serves the cluster {cluster}: give each \
                 cluster resolvers of its own",
                record.name, record.cluster_id
            )));
        }
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&record.node_id) {
            return Err(RecordError(format!(
                "{NODES_MAX} nodes are known, which is the most, and {:?} is not among them: restart the resolver if \
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
            state: NodeState::Awaited(until),
        });
        let newer = record.revision > node.record.revision;
        // Whoever says two different things with one revision is asked for a higher one, as after a lapse.
        let conflicting = record.revision == node.record.revision && record != node.record;
        if newer {
            *node = Node { record, from: from.or(node.from), state: node.state };
        }
        node.state = match node.state {
            NodeState::Awaited(_) | NodeState::Live(_) if itself => NodeState::Live(until),
            NodeState::Kept | NodeState::Lapsed if itself && newer => NodeState::Live(until),
            // It changed since, so it lives, or did so until lately: it has a lease's time to say so here.
            NodeState::Lapsed if newer => NodeState::Awaited(until),
            state => state,
        };
        node.from = node.from.or(from);
        let lapsed = conflicting || matches!(node.state, NodeState::Kept | NodeState::Lapsed);
        Ok(MergeOutcome { known_revision: node.record.revision, lapsed })
    }

    /// Lets leases lapse that are not renewed.
    ///
    /// Whoever falls silent alone is gone. If more than half of those who were live fall silent together, the resolver is
    /// rather cut off itself: then all of these are kept. Once no more than half are silent, those who were kept have a
    /// lease's time to return.
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

    /// Whether more than half of those who count as live are silent. Whoever should have renewed its lease by now counts,
    /// too: otherwise the first of many would be taken out before the others are seen to follow.
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

    /// Whoever has no more left of its lease is silent. A lease is renewed four times while it lasts: when all fall silent
    /// at once and the first lease runs out, the others have at most a quarter left, and nobody else has so little.
    fn quiet_margin(&self) -> Duration {
        self.lease * 3 / 8
    }

    /// When [`Self::expire`] has something to do next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let leases = self.nodes.values().filter_map(|node| match node.state {
            NodeState::Awaited(until) | NodeState::Live(until) => Some(until),
            NodeState::Kept | NodeState::Lapsed => None,
        });
        leases.chain(self.give_up).min()
    }

    /// Whether the resolver is cut off and shows the last good set.
    #[must_use]
    pub fn stale(&self) -> bool {
        self.nodes.values().any(|node| node.state == NodeState::Kept)
    }

    /// The zone's serial number, to be compared by RFC 1982.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "serial numbers are modulo 2^32")]
    pub fn serial(&self) -> u32 {
        let steps =
            self.nodes.values().map(|node| node.record.revision.wrapping_mul(4) + node.state.step() as u64);
        steps.fold(0, u64::wrapping_add) as u32
    }

    /// Every node that was ever heard of.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// What the zone is made of. Nothing before the first record.
    #[must_use]
    pub fn view(&self, zone: &Name, name_servers: &[NameServer]) -> Option<View> {
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
        Some(View {
            zone: zone.clone(),
            name_servers: name_servers.to_vec(),
            nodes: self.nodes.values().map(node).collect(),
            stale: self.stale(),
            serial: self.serial(),
        })
    }
}
