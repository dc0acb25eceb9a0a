//! Computing a layout: ring order, bounded load, zones, as few moves as possible, leaders spread.
//!
//! Invariants:
//! * a shard's replicas are on different nodes, and in different zones where there are enough zones;
//! * a replica leaves a node only because the node is gone or a joined node takes it over, so
//!   nothing ever moves between nodes that stay;
//! * the result depends on the arguments alone, not on the order of the nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::{NodeId, ShardId};
use crate::ring::{Layout, Ring, RingNode, place_of};

/// Places the meta shard and `shards` data shards on the nodes, with `replicas` replicas each, or as
/// many as there are nodes. Replicas of `previous` keep their nodes where possible. If nothing changes,
/// the result is `previous`; otherwise its version is one higher.
///
/// No node holds more than 1.25 times the mean, or the mean rounded up where that is more, unless
/// zones demand it or nodes have left and nothing else may move.
#[must_use]
pub fn layout(nodes: &[RingNode], shards: u32, replicas: usize, previous: Option<&Layout>) -> Layout {
    let mut plan = LayoutPlan::new(nodes, shards, replicas);
    let joined = plan.keep(previous);
    plan.fill();
    plan.even_out();
    plan.hand_over(&joined);
    let leaders = plan.leaders(previous);
    let shards: Vec<Vec<NodeId>> = (plan.shards.iter().zip(leaders))
        .map(|(shard, leader)| {
            let rest = shard.walk.iter().filter(|node| shard.held.contains(node) && Some(**node) != leader);
            leader.iter().chain(rest).copied().collect()
        })
        .collect();
    match previous {
        Some(previous) if previous.shards == shards => previous.clone(),
        _ => Layout { version: previous.map_or(0, |layout| layout.version) + 1, shards },
    }
}

struct Shard {
    /// All nodes, in the ring's order for this shard.
    walk: Vec<NodeId>,
    held: BTreeSet<NodeId>,
    /// Replicas that are new in this plan, and so may still be moved.
    placed: BTreeSet<NodeId>,
}

struct LayoutPlan {
    shards: Vec<Shard>,
    /// The number of replicas on each node.
    load: BTreeMap<NodeId, usize>,
    zones: BTreeMap<NodeId, Option<String>>,
    replicas: usize,
    /// Maximum number of replicas on one node (consistent hashing with bounded loads).
    load_max: usize,
    load_min: usize,
    /// How many replicas of a shard one zone holds at most.
    zone_max: usize,
}

impl LayoutPlan {
    fn new(nodes: &[RingNode], shards: u32, replicas: usize) -> Self {
        let zones: BTreeMap<_, _> = nodes.iter().map(|node| (node.node, node.zone.clone())).collect();
        let ring = Ring::new(zones.keys().copied());
        let replicas = replicas.min(zones.len());
        let shards: Vec<Shard> = (0..=shards)
            .map(|shard| Shard {
                walk: ring.walk(place_of(ShardId(shard))),
                held: BTreeSet::new(),
                placed: BTreeSet::new(),
            })
            .collect();
        let slots = shards.len() * replicas;
        let count = zones.len().max(1);
        Self {
            shards,
            load: zones.keys().map(|node| (*node, 0)).collect(),
            replicas,
            load_max: slots.div_ceil(count).max(slots * 5 / (4 * count)),
            load_min: slots / count,
            zone_max: zone_max(&zones, replicas),
            zones,
        }
    }

    /// Keeps the replicas of `previous` that can stay, and returns the nodes that `previous` did not have.
    fn keep(&mut self, previous: Option<&Layout>) -> Vec<NodeId> {
        let Some(previous) = previous else { return Vec::new() };
        for (shard, old) in self.shards.iter_mut().zip(&previous.shards) {
            for node in old {
                if shard.held.len() < self.replicas
                    && let Some(load) = self.load.get_mut(node)
                    && shard.held.insert(*node)
                {
                    *load += 1;
                }
            }
        }
        let known: BTreeSet<NodeId> = previous.shards.iter().flatten().copied().collect();
        self.load.keys().copied().filter(|node| !known.contains(node)).collect()
    }

    /// Gives every shard its missing replicas: the next nodes on the ring that are neither full nor in
    /// a zone that has `zone_max` replicas of the shard already.
    fn fill(&mut self) {
        for at in 0..self.shards.len() {
            while self.shards[at].held.len() < self.replicas {
                let candidates = || self.shards[at].walk.iter().copied().filter(|node| self.fits(at, *node));
                let free = candidates().find(|node| self.load[node] < self.load_max);
                if let Some(node) = free {
                    self.place(at, node);
                } else if let Some(node) = candidates().min_by_key(|node| self.load[node]) {
                    self.place(at, node);
                } else {
                    // No node satisfies the zone bound, because zones changed while `previous` stays in
                    // force. Two replicas in one zone are better than one replica less.
                    let unheld = self.shards[at].walk.iter().copied();
                    let unheld = unheld.filter(|node| !self.shards[at].held.contains(node));
                    match unheld.min_by_key(|node| self.load[node]) {
                        Some(node) => self.place(at, node),
                        None => break,
                    }
                }
            }
        }
    }

    /// Evens out the replicas that [`Self::fill`] placed: moves them from nodes that hold more to nodes
    /// that hold at least two less. Of several shards, the one whose walk on the ring meets the receiver
    /// first moves.
    fn even_out(&mut self) {
        // Each move makes the sum of squares smaller, so this ends.
        while let Some((at, from, to)) = self.uneven() {
            self.take(at, from);
            self.place(at, to);
        }
    }

    fn uneven(&self) -> Option<(usize, NodeId, NodeId)> {
        let mut best = None;
        for (at, shard) in self.shards.iter().enumerate() {
            for &from in &shard.placed {
                for (rank, &to) in shard.walk.iter().enumerate() {
                    let less = self.load[&from].saturating_sub(self.load[&to]);
                    if less >= 2 && self.fits_instead(at, to, Some(from)) {
                        best = best.max(Some((less, Reverse(rank), Reverse(at), from, to)));
                    }
                }
            }
        }
        best.map(|(_, _, Reverse(at), from, to)| (at, from, to))
    }

    /// Joined nodes take over their share, each replica from the most loaded of the other nodes. Of that
    /// node's shards, the one whose walk on the ring meets the joined node first moves.
    fn hand_over(&mut self, joined: &[NodeId]) {
        for &node in joined {
            while let Some((at, from)) = self.giver(node, joined) {
                self.take(at, from);
                self.place(at, node);
            }
        }
    }

    /// The shard that the node should take over next, and the node that gives it up.
    fn giver(&self, node: NodeId, joined: &[NodeId]) -> Option<(usize, NodeId)> {
        let takes = self.load[&node];
        let mut best = None;
        for (at, shard) in self.shards.iter().enumerate() {
            let rank = shard.walk.iter().position(|met| *met == node)?;
            for &from in shard.held.iter().filter(|from| !joined.contains(from)) {
                // A shard with too many replicas in one zone improves by the move, whatever the loads are.
                let crowded = self.in_zone(at, from) > self.zone_max;
                let gives = self.load[&from];
                let owed = gives > takes + 1
                    && (takes < self.load_min || (takes < self.load_max && gives > self.load_max));
                if (crowded || owed) && self.fits_instead(at, node, Some(from)) {
                    best = best.max(Some((crowded, gives, Reverse(rank), Reverse(at), from)));
                }
            }
        }
        best.map(|(_, _, _, Reverse(at), from)| (at, from))
    }

    /// Chooses the leader of each shard: the previous leader, or else the first replica on the shard's
    /// walk. Leaderships are then handed on until no node leads two more than another that could take one.
    fn leaders(&self, previous: Option<&Layout>) -> Vec<Option<NodeId>> {
        let mut leaders: Vec<Option<NodeId>> = (self.shards.iter().enumerate())
            .map(|(at, shard)| {
                let before = previous.and_then(|layout| layout.shards.get(at)?.first());
                let before = before.filter(|node| shard.held.contains(node));
                before.or_else(|| shard.walk.iter().find(|node| shard.held.contains(node))).copied()
            })
            .collect();
        let mut leads: BTreeMap<NodeId, usize> = self.load.keys().map(|node| (*node, 0)).collect();
        for leader in leaders.iter().flatten() {
            leads.entry(*leader).and_modify(|count| *count += 1);
        }
        // Each round takes one from a node that leads more and gives one to a node that leads at
        // least two less, so the sum of squares falls and this ends.
        while let Some(path) = self.leader_path(&leaders, &leads) {
            for (at, node) in path {
                if let Some(old) = leaders[at].replace(node) {
                    leads.entry(old).and_modify(|count| *count -= 1);
                }
                leads.entry(node).and_modify(|count| *count += 1);
            }
        }
        leaders
    }

    /// A chain of hand-overs that ends at a node with few leaderships and begins at one with many.
    fn leader_path(
        &self,
        leaders: &[Option<NodeId>],
        leads: &BTreeMap<NodeId, usize>,
    ) -> Option<Vec<(usize, NodeId)>> {
        for (&poor, &few) in leads {
            let mut seen = BTreeSet::from([poor]);
            let mut queue = VecDeque::from([(poor, Vec::new())]);
            while let Some((node, path)) = queue.pop_front() {
                if leads[&node] >= few + 2 {
                    return Some(path);
                }
                for (at, leader) in leaders.iter().enumerate() {
                    if let Some(leader) = *leader
                        && self.shards[at].held.contains(&node)
                        && seen.insert(leader)
                    {
                        let mut path = path.clone();
                        path.push((at, node));
                        queue.push_back((leader, path));
                    }
                }
            }
        }
        None
    }

    fn fits(&self, at: usize, node: NodeId) -> bool {
        self.fits_instead(at, node, None)
    }

    /// Whether the shard may have a replica on the node in place of the one on `instead`.
    fn fits_instead(&self, at: usize, node: NodeId, instead: Option<NodeId>) -> bool {
        let held = &self.shards[at].held;
        if held.contains(&node) {
            return false;
        }
        let Some(zone) = &self.zones[&node] else { return true };
        let others = held.iter().filter(|other| Some(**other) != instead);
        others.filter(|other| self.zones[other].as_ref() == Some(zone)).count() < self.zone_max
    }

    /// How many of the shard's replicas are in the zone of this node, its own replica included.
    fn in_zone(&self, at: usize, node: NodeId) -> usize {
        let zone = &self.zones[&node];
        let same = |other: &&NodeId| **other == node || (zone.is_some() && self.zones[*other] == *zone);
        self.shards[at].held.iter().filter(same).count()
    }

    fn place(&mut self, at: usize, node: NodeId) {
        self.shards[at].held.insert(node);
        self.shards[at].placed.insert(node);
        self.load.entry(node).and_modify(|load| *load += 1);
    }

    fn take(&mut self, at: usize, node: NodeId) {
        self.shards[at].held.remove(&node);
        self.shards[at].placed.remove(&node);
        self.load.entry(node).and_modify(|load| *load -= 1);
    }
}

/// The smallest bound on replicas of one shard in one zone with which all replicas find a place. A
/// node without a zone is a zone of its own.
fn zone_max(zones: &BTreeMap<NodeId, Option<String>>, replicas: usize) -> usize {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut alone = 0;
    for zone in zones.values() {
        match zone {
            Some(zone) => *sizes.entry(zone).or_default() += 1,
            None => alone += 1,
        }
    }
    let room = |bound: usize| alone + sizes.values().map(|size| (*size).min(bound)).sum::<usize>();
    (1..=replicas).find(|bound| room(*bound) >= replicas).unwrap_or(1)
}
