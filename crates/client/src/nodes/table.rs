//! The table of known nodes. It decides which node to ask, without a lock, a clock or a network.
//!
//! A node is known by the address under which it was found. If the cluster uses another address for it (for example a
//! name that only resolves inside a container network), this one is kept as an alias, to match what the cluster says.

use std::collections::HashMap;
use std::sync::Arc;

use conclave_core::ShardId;
use conclave_core::limits::NODES_MAX;
use conclave_proto::chat::{ClusterView, NodeView};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::Pick;
use crate::find::{Candidate, Found, PRIORITY_LAST, Source};

/// The order of nodes that are equally good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeOrder {
    /// In the order in which they became known.
    Known,
    /// At random, weighted.
    Random,
}

#[derive(Debug)]
pub(super) struct NodeTable {
    nodes: Vec<Node>,
    order: NodeOrder,
    /// The preferred node, until it fails.
    home: Option<Arc<str>>,
    /// The number of data shards of the cluster; 0 until it is known.
    pub(super) shards: u32,
    /// The highest known term of each shard, and its leader; `None` if that node has failed since.
    leaders: HashMap<u32, (u64, Option<Arc<str>>)>,
    /// A counter that increases when the target of sends may have changed.
    pub(super) version: u64,
    /// Whether a search for nodes is wanted, because a node failed or an address is unknown.
    pub(super) search_wanted: bool,
    /// What authorizes a client that only reads at all nodes: a session of version 0.1.0.
    pub(super) reading_everywhere: Option<MetadataValue<Ascii>>,
    /// The number of nodes that were ever added.
    added: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Arc<str>,
    /// The address that the cluster uses for it, if it differs.
    alias: Option<Arc<str>>,
    /// The node's name; empty until it is known.
    name: String,
    id: u64,
    pub(super) channel: Option<Channel>,
    /// Failures since it last answered.
    pub(super) failures: u32,
    /// It is avoided until this time, unless all nodes are.
    pub(super) not_before: Option<Instant>,
    /// It is leaving: avoided until this time even if it answers.
    pub(super) leaving: Option<Instant>,
    /// It accepts no further subscriptions until this time.
    full: Option<Instant>,
    /// It has answered this client.
    pub(super) worked: bool,
    /// It has said, over its present connection, that it belongs to the expected cluster.
    pub(super) admitted: bool,
    /// What authorizes a client that only reads at this node, once the node has said it.
    pub(super) reading: Option<MetadataValue<Ascii>>,
    /// The last search has found it.
    found: bool,
    /// The cluster has named it as a member.
    member: bool,
    /// It is asked after all others: it is leaving, or the cluster considers it dead.
    last: bool,
    /// Its share of clients relative to the others; at least 1.
    weight: f64,
    /// The random number (or the position) that orders it among equally good nodes.
    draw: f64,
}

impl Node {
    fn is(&self, address: &str) -> bool {
        *self.address == *address || self.alias.as_deref() == Some(address)
    }
}

impl NodeTable {
    pub(super) fn new(order: NodeOrder) -> Self {
        Self {
            nodes: Vec::new(),
            order,
            home: None,
            shards: 0,
            leaders: HashMap::new(),
            version: 0,
            search_wanted: false,
            reading_everywhere: None,
            added: 0,
        }
    }

    /// Adds an address if there is space. Returns whether it is new.
    pub(super) fn add(&mut self, address: &str) -> bool {
        if address.is_empty() || self.position(address).is_some() {
            return false;
        }
        if self.nodes.len() >= NODES_MAX * 2 {
            let Some(useless) = self.nodes.iter().position(|node| !node.found && !node.member) else {
                return false;
            };
            self.remove(useless);
        }
        let draw = match self.order {
            NodeOrder::Known => f64::from(self.added),
            // An exponential draw: divided by the weight, a node's draw is the smallest with a probability proportional
            // to its weight.
            NodeOrder::Random => -(1.0 - rand::random::<f64>()).ln(),
        };
        self.added = self.added.saturating_add(1);
        self.nodes.push(Node {
            address: address.into(),
            alias: None,
            name: String::new(),
            id: 0,
            channel: None,
            failures: 0,
            not_before: None,
            leaving: None,
            full: None,
            worked: false,
            admitted: false,
            reading: None,
            found: false,
            member: false,
            last: false,
            weight: 1.0,
            draw,
        });
        true
    }

    /// Adds the nodes of a search. Returns whether any of them is new.
    pub(super) fn add_found(&mut self, found: &Found) -> bool {
        // A remembered or default list does not mean that other nodes are gone.
        if !matches!(found.source, Source::Cache | Source::Default) {
            self.nodes.iter_mut().for_each(|node| node.found = false);
        }
        let new = found.candidates.iter().filter(|candidate| self.candidate(candidate)).count() > 0;
        self.forget_useless();
        new
    }

    fn candidate(&mut self, candidate: &Candidate) -> bool {
        let new = self.add(&candidate.address);
        if let Some(node) = self.node(&candidate.address) {
            node.found = true;
            if !candidate.name.is_empty() {
                node.name.clone_from(&candidate.name);
            }
            // The cluster's own view of a member takes precedence.
            if !node.member {
                node.last = candidate.priority >= PRIORITY_LAST;
                node.weight = f64::from(candidate.weight.max(1));
            }
        }
        new
    }

    /// Applies a node's view of the cluster. Returns whether the members changed.
    pub(super) fn observe_view(&mut self, view: &ClusterView) -> bool {
        if view.nodes.is_empty() {
            return false;
        }
        let mut changed = false;
        for seen in &view.nodes {
            changed |= self.member(seen.node_id, &seen.name, &seen.address);
            if let Some(node) = self.node(&seen.address) {
                node.last = seen.draining || !seen.alive;
                node.weight = weight(seen);
            }
        }
        let named = |node: &Node| view.nodes.iter().any(|seen| node.is(&seen.address));
        for node in self.nodes.iter_mut().filter(|node| node.member) {
            if !named(node) {
                node.member = false;
                changed = true;
            }
        }
        self.forget_useless();
        changed
    }

    /// Records a member that the cluster has named. Returns whether it was not known as one.
    pub(super) fn member(&mut self, id: u64, name: &str, address: &str) -> bool {
        if address.is_empty() {
            return false;
        }
        if self.position(address).is_none() && !name.is_empty() {
            // The node was found under another address. If two addresses have its name, both are its own.
            let known = |node: &Node| node.name == name && (node.id == 0 || node.id == id);
            for node in self.nodes.iter_mut().filter(|node| known(node)) {
                node.alias = Some(address.into());
            }
        }
        self.add(address);
        let Some(node) = self.node(address) else { return false };
        if id != 0 {
            node.id = id;
        }
        if !name.is_empty() {
            name.clone_into(&mut node.name);
        }
        !std::mem::replace(&mut node.member, true)
    }

    pub(super) fn pick(&mut self, but: &[Arc<str>], now: Instant) -> Option<Pick> {
        let best = self.nodes.iter().filter(|node| !but.contains(&node.address)).min_by(|a, b| {
            self.sort_key(a, now).partial_cmp(&self.sort_key(b, now)).unwrap_or(std::cmp::Ordering::Equal)
        })?;
        let pick = Pick { address: Arc::clone(&best.address), at: avoided_until(best, now) };
        if but.is_empty() && pick.at.is_none() {
            self.home = Some(Arc::clone(&pick.address));
        }
        Some(pick)
    }

    /// The sort key: a smaller one is asked first.
    fn sort_key(&self, node: &Node, now: Instant) -> impl PartialOrd + use<> {
        // If all are full, the node that has been full for longest is asked first.
        let full = node.full.filter(|until| *until > now);
        let away = self.home.as_ref() != Some(&node.address);
        let rank = match self.order {
            NodeOrder::Known => node.draw,
            NodeOrder::Random => node.draw / node.weight,
        };
        (avoided_until(node, now), node.last, full, away, node.failures, rank)
    }

    pub(super) fn mark_subscribed(&mut self, address: &str) {
        let Some(at) = self.position(address) else { return };
        (self.nodes[at].full, self.nodes[at].failures) = (None, 0);
        self.home = Some(Arc::clone(&self.nodes[at].address));
    }

    /// Avoids a node until this time. It also counts as no leader until a node says again that it leads.
    pub(super) fn avoid(&mut self, address: &str, until: Instant) {
        let Some(at) = self.position(address) else { return };
        let node = &mut self.nodes[at];
        node.not_before = node.not_before.max(Some(until));
        self.home.take_if(|home| *home == node.address);
        for (_, leader) in self.leaders.values_mut() {
            leader.take_if(|leader| *leader == node.address);
        }
        self.version += 1;
    }

    pub(super) fn mark_full(&mut self, address: &str, until: Instant) {
        let Some(node) = self.node(address) else { return };
        node.full = Some(until);
    }

    /// Removes nodes that have failed and that neither a search nor the cluster names.
    pub(super) fn forget_useless(&mut self) {
        let useless = |node: &Node| node.failures > 0 && !node.found && !node.member;
        while let Some(at) = self.nodes.iter().position(useless) {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        let gone = self.nodes.remove(at);
        self.home.take_if(|home| *home == gone.address);
        for (_, leader) in self.leaders.values_mut() {
            leader.take_if(|leader| *leader == gone.address);
        }
    }

    pub(super) fn learn_leader(&mut self, shard: u32, term: u64, address: &str) -> bool {
        if address.is_empty() || ShardId(shard).is_meta() {
            return false;
        }
        let now = Instant::now();
        if let Some((known, leader)) = self.leaders.get(&shard)
            && (*known > term || (*known == term && (leader.is_some() || self.avoided(address, now))))
        {
            return false;
        }
        self.add(address);
        // The leader is stored under the address by which the node was found.
        let Some(leader) = self.node(address).map(|node| Arc::clone(&node.address)) else { return false };
        self.leaders.insert(shard, (term, Some(leader)));
        self.version += 1;
        true
    }

    pub(super) fn leader(&self, shard: u32, now: Instant) -> Option<Arc<str>> {
        let (_, leader) = self.leaders.get(&shard)?;
        leader.as_ref().filter(|address| !self.avoided(address, now)).cloned()
    }

    pub(super) fn misses_leaders(&self) -> bool {
        self.leaders.values().any(|(_, leader)| leader.is_none())
    }

    pub(super) fn avoided(&self, address: &str, now: Instant) -> bool {
        self.position(address).is_some_and(|at| avoided_until(&self.nodes[at], now).is_some())
    }

    pub(super) fn refuses_clients(&self, address: &str, now: Instant) -> bool {
        let full = |node: &Node| node.full.is_some_and(|until| until > now);
        self.position(address)
            .is_some_and(|at| avoided_until(&self.nodes[at], now).is_some() || full(&self.nodes[at]))
    }

    pub(super) fn all_failed(&self, now: Instant) -> bool {
        self.nodes.iter().all(|node| avoided_until(node, now).is_some())
    }

    pub(super) fn address_of(&self, id: u64) -> Option<Arc<str>> {
        self.nodes.iter().find(|node| node.id == id).map(|node| Arc::clone(&node.address))
    }

    pub(super) fn addresses(&self, now: Instant) -> Vec<String> {
        let mut nodes: Vec<_> =
            self.nodes.iter().map(|node| (self.sort_key(node, now), &node.address)).collect();
        nodes.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal));
        nodes.into_iter().map(|(_, address)| address.to_string()).collect()
    }

    /// The nodes that the cluster has named. While a cluster of version 0.1.0 has named none, those that have answered.
    pub(super) fn members(&self) -> Vec<String> {
        let addresses = |wanted: fn(&&Node) -> bool| {
            self.nodes.iter().filter(wanted).map(|node| node.address.to_string()).collect::<Vec<_>>()
        };
        let members = addresses(|node| node.member);
        if members.is_empty() { addresses(|node| node.worked) } else { members }
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&mut self, address: &str) -> Option<&mut Node> {
        let at = self.position(address)?;
        self.nodes.get_mut(at)
    }

    fn position(&self, address: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.is(address))
    }
}

/// The time until which the node is avoided, unless all are; `None` if it is not.
fn avoided_until(node: &Node, now: Instant) -> Option<Instant> {
    node.not_before.filter(|at| *at > now)
}

/// The weight of a node for new clients: its free capacity times its idle share.
fn weight(seen: &NodeView) -> f64 {
    let room = match seen.clients_max {
        0 => 1.0,
        max => f64::from(max.saturating_sub(seen.clients)) / f64::from(max),
    };
    let idle = f64::from(1_000_u32.saturating_sub(seen.load_permille)) / 1_000.0;
    (100.0 * room * idle).max(1.0)
}
