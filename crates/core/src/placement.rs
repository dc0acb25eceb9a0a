//! Placement: how many clients each node should ask to move, and to which nodes.
//!
//! One node, the meta shard's leader, plans one round a second from the last known load of all nodes. The planner has
//! hysteresis: it starts to move clients when the imbalance is large, and continues until the imbalance is small. So a
//! few clients that connect and disconnect cause no moves. The known load may be a second old, so a round moves only a
//! small share of all clients, and the nodes count clients that they have already asked towards the next request.

use std::time::Duration;

use crate::NodeId;
use crate::limits::{PLACEMENT_MOVES_MIN, PLACEMENT_QUIET, PLACEMENT_SPREAD_MIN};

/// The load of one node, as the planner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLoad {
    /// The node.
    pub id: NodeId,
    /// Sessions that subscribe at the node.
    pub clients: u32,
    /// The node's limit of clients.
    pub max: u32,
    /// The node is reachable.
    pub alive: bool,
    /// The node accepts clients.
    pub ready: bool,
    /// The node drains.
    pub draining: bool,
    /// The node's load is high, whatever the number of its clients: it gets no more clients.
    pub busy: bool,
}

impl NodeLoad {
    fn takes_part(&self) -> bool {
        self.alive && self.ready && !self.draining
    }

    /// How many clients the node may have after a move: 5 percent less than its limit, so that moves alone never fill
    /// it.
    fn room(&self) -> u32 {
        if self.busy { self.clients } else { self.max - self.max / 20 }
    }
}

/// Clients that one node asks to move to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientMove {
    /// The node that the clients are at.
    pub from: NodeId,
    /// The nodes that the clients should move to, and how many clients for each; never 0.
    pub to: Vec<(NodeId, u32)>,
}

impl ClientMove {
    /// The number of clients in this move, over all targets.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.to.iter().map(|(_, count)| count).sum()
    }
}

/// The goal of the next rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Goal {
    /// No moves until the imbalance exceeds the upper threshold.
    #[default]
    Rest,
    /// Moves until the imbalance is below the lower threshold.
    Good,
    /// An operator asked for an even spread: moves until nothing is left to move.
    Even,
}

/// Plans the moves of each round.
#[derive(Debug, Default)]
pub struct Planner {
    goal: Goal,
    /// The nodes that took part in the last round, and the time since when the set has been the same.
    part: Vec<NodeId>,
    since: Duration,
}

impl Planner {
    /// The moves of one round. `now` is the time since any fixed moment.
    ///
    /// No client moves while the set of nodes changes. Clients of a node that drains, or that is over its limit, move
    /// first. At most a twentieth of all clients move in one round, or [`PLACEMENT_MOVES_MIN`] if that is more.
    pub fn round(&mut self, now: Duration, nodes: &[NodeLoad]) -> Vec<ClientMove> {
        self.track_participants(now, nodes);
        if now.saturating_sub(self.since) < PLACEMENT_QUIET {
            return Vec::new();
        }
        let wanted = Wanted::of(nodes);
        let spread = wanted.spread();
        self.goal = match self.goal {
            Goal::Rest if spread > PLACEMENT_SPREAD_MIN.max(wanted.mean / 5) => Goal::Good,
            Goal::Good if spread <= (wanted.mean / 10).max(1) => Goal::Rest,
            Goal::Even if spread <= 1 => Goal::Rest,
            goal => goal,
        };
        let all: u64 = nodes.iter().filter(|node| node.alive).map(|node| u64::from(node.clients)).sum();
        wanted.moves(self.goal != Goal::Rest, PLACEMENT_MOVES_MIN.max(all / 20))
    }

    /// A round on a node that does not lead the meta shard: only records since when the set of nodes has been the same,
    /// so that this node can take over at once.
    pub fn watch(&mut self, now: Duration, nodes: &[NodeLoad]) {
        self.track_participants(now, nodes);
        self.goal = Goal::Rest;
    }

    fn track_participants(&mut self, now: Duration, nodes: &[NodeLoad]) {
        let part: Vec<_> = nodes.iter().filter(|node| node.takes_part()).map(|node| node.id).collect();
        if part != self.part {
            (self.part, self.since) = (part, now);
        }
    }

    /// Requests an even spread, however small the imbalance is. The next rounds carry out the moves; the result is the
    /// list of all of them.
    pub fn rebalance(&mut self, nodes: &[NodeLoad]) -> Vec<ClientMove> {
        self.goal = Goal::Even;
        Wanted::of(nodes).moves(true, u64::MAX)
    }
}

/// The wanted distribution of the clients.
struct Wanted<'a> {
    /// Nodes that take part, and the wanted number of clients of each.
    part: Vec<(&'a NodeLoad, u32)>,
    /// Nodes that drain.
    leaving: Vec<&'a NodeLoad>,
    /// The average number of clients of the nodes that take part.
    mean: u64,
}

impl<'a> Wanted<'a> {
    /// Gives each node the same number of clients, but no more than it has room for.
    fn of(nodes: &'a [NodeLoad]) -> Self {
        let mut part: Vec<_> = nodes.iter().filter(|node| node.takes_part()).collect();
        let leaving: Vec<_> =
            nodes.iter().filter(|node| node.alive && node.draining && node.clients > 0).collect();
        let sum = |nodes: &[&NodeLoad]| nodes.iter().map(|node| u64::from(node.clients)).sum::<u64>();
        let here = sum(&part);
        let (level, mut over) = equal_share(&part, here + sum(&leaving));
        // The nodes that have most clients keep the remainder of the division, so that the remainder never moves.
        part.sort_by_key(|node| (std::cmp::Reverse(node.clients), node.id));
        let wanted = part.into_iter().map(|node| {
            let more = u32::from(over > 0 && node.room() > level);
            over -= u64::from(more);
            (node, node.room().min(level) + more)
        });
        let part: Vec<_> = wanted.collect();
        let mean = here / (part.len() as u64).max(1);
        Self { part, leaving, mean }
    }

    /// The imbalance: the distance between the most overloaded and the most underloaded node, each measured against its
    /// wanted number of clients.
    fn spread(&self) -> u64 {
        let off = |(node, wanted): &(&NodeLoad, u32)| i64::from(node.clients) - i64::from(*wanted);
        let (most, least) = (self.part.iter().map(off).max(), self.part.iter().map(off).min());
        most.zip(least).map_or(0, |(most, least)| most.abs_diff(least))
    }

    /// The moves towards the wanted distribution, at most `budget` clients. Without `balance`, only clients of nodes
    /// that drain or are over their limit move.
    fn moves(&self, balance: bool, mut budget: u64) -> Vec<ClientMove> {
        let short = self.part.iter().map(|(node, wanted)| (node.id, wanted.saturating_sub(node.clients)));
        let mut short: Vec<_> = short.filter(|(_, short)| *short > 0).collect();
        let mut over: Vec<_> =
            self.part.iter().filter(|(node, _)| balance || node.clients > node.max).collect();
        over.sort_by_key(|(node, wanted)| {
            let over = node.clients.saturating_sub(*wanted);
            (node.clients <= node.max, std::cmp::Reverse(over), node.id)
        });
        let over = over.into_iter().map(|(node, wanted)| {
            let keep = if balance { *wanted } else { node.max };
            (node.id, node.clients.saturating_sub(keep))
        });
        let mut moves = Vec::new();
        for (from, over) in self.leaving.iter().map(|node| (node.id, node.clients)).chain(over) {
            let count = u64::from(over).min(budget);
            let to = share(count, &mut short);
            if !to.is_empty() {
                let asked = ClientMove { from, to };
                budget -= u64::from(asked.count());
                moves.push(asked);
            }
        }
        moves
    }
}

/// Divides `all` clients over the nodes. Returns the number for each node that has room for this many, and the
/// remainder, which is smaller than the number of nodes with room for one more.
fn equal_share(nodes: &[&NodeLoad], all: u64) -> (u32, u64) {
    let mut rooms: Vec<_> = nodes.iter().map(|node| node.room()).collect();
    rooms.sort_unstable();
    let (mut rest, mut left) = (all, rooms.len() as u64);
    for room in rooms {
        // A node without room for an equal part leaves more to the others.
        if u64::from(room) > rest / left {
            return (u32::try_from(rest / left).unwrap_or(room), rest % left);
        }
        rest -= u64::from(room);
        left -= 1;
    }
    (u32::MAX, 0)
}

/// Divides `count` clients, or fewer if fewer are missing, over the nodes in `short` in proportion to what each lacks.
fn share(count: u64, short: &mut Vec<(NodeId, u32)>) -> Vec<(NodeId, u32)> {
    let all: u64 = short.iter().map(|(_, short)| u64::from(*short)).sum();
    let mut rest = count.min(all);
    let mut left = all;
    let mut given = Vec::new();
    for (node, short) in short.iter_mut() {
        // The rest is divided over the remaining nodes, so that the loss by rounding at one node reaches the next.
        let part = (rest * u64::from(*short)).checked_div(left).unwrap_or(0);
        left -= u64::from(*short);
        rest -= part;
        // Not more than `short`, because `rest` is never more than `left`.
        let part = u32::try_from(part).unwrap_or(*short);
        *short -= part;
        if part > 0 {
            given.push((*node, part));
        }
    }
    short.retain(|(_, short)| *short > 0);
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(clients: &[u32]) -> Vec<NodeLoad> {
        let node = |(id, clients): (u64, &u32)| NodeLoad {
            id: NodeId(id),
            clients: *clients,
            max: 10_000,
            alive: true,
            ready: true,
            draining: false,
            busy: false,
        };
        (1..).zip(clients).map(node).collect()
    }

    fn settled(nodes: &[NodeLoad]) -> Planner {
        let mut planner = Planner::default();
        assert_eq!(planner.round(Duration::ZERO, nodes), []);
        planner
    }

    const LATER: Duration = Duration::from_secs(2);

    fn moved(from: u64, to: &[(u64, u32)]) -> ClientMove {
        ClientMove { from: NodeId(from), to: to.iter().map(|(id, count)| (NodeId(*id), *count)).collect() }
    }

    #[test]
    fn a_small_spread_moves_nobody() {
        for even in [&[0, 0, 0][..], &[8, 0, 4], &[400, 350, 330], &[7]] {
            let nodes = nodes(even);
            assert_eq!(settled(&nodes).round(LATER, &nodes), [], "{even:?}");
        }
    }

    #[test]
    fn a_node_that_came_back_gets_its_part() {
        let nodes = nodes(&[500, 500, 0]);
        let mut planner = settled(&nodes);
        assert_eq!(planner.round(Duration::from_millis(1_999), &nodes), [], "not so soon");
        assert_eq!(planner.round(LATER, &nodes), [moved(2, &[(3, 50)])], "a twentieth in a round");
    }

    #[test]
    fn a_planner_that_watched_can_take_over_at_once() {
        let nodes = nodes(&[500, 500, 0]);
        let mut planner = Planner::default();
        planner.watch(Duration::ZERO, &nodes);
        planner.rebalance(&nodes);
        planner.watch(Duration::from_secs(1), &nodes);
        assert_eq!(planner.round(LATER, &nodes), [moved(2, &[(3, 50)])]);
    }

    #[test]
    fn rebalancing_continues_until_the_spread_is_good() {
        let begun = nodes(&[100, 60, 80]);
        let mut planner = settled(&begun);
        assert_eq!(planner.round(LATER, &begun), [moved(1, &[(2, 12)])]);
        // This spread alone would not have started the moves.
        let better = nodes(&[88, 72, 80]);
        assert_eq!(planner.round(LATER, &better), [moved(1, &[(2, 8)])]);
        let good = nodes(&[83, 76, 81]);
        assert_eq!(planner.round(LATER, &good), []);
        assert_eq!(planner.round(LATER, &better), []);
    }

    #[test]
    fn clients_of_draining_and_overfull_nodes_move_first() {
        let mut nodes = nodes(&[40, 130, 40, 40]);
        nodes[0].draining = true;
        nodes[1].max = 100;
        let mut planner = settled(&nodes);
        assert_eq!(planner.round(LATER, &nodes), [moved(1, &[(3, 6), (4, 6)])]);
        nodes[0].clients = 0;
        nodes[3].busy = true;
        assert_eq!(planner.round(LATER, &nodes), [moved(2, &[(3, 10)])], "a busy node gets nobody");
    }

    #[test]
    fn a_requested_rebalance_gives_every_node_the_same_number_of_clients() {
        let nodes = nodes(&[52, 50, 48]);
        let mut planner = settled(&nodes);
        assert_eq!(planner.round(LATER, &nodes), []);
        assert_eq!(planner.rebalance(&nodes), [moved(1, &[(3, 2)])]);
        assert_eq!(planner.round(LATER, &nodes), [moved(1, &[(3, 2)])]);
    }
}
