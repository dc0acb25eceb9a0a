//! The laws of placement: clients move only to nodes with room for them, no client is lost, and the moves end.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_core::placement::{ClientMove, NodeLoad, Planner};
use proptest::prelude::*;

/// More rounds than any of these needs.
const ROUNDS: u32 = 500;

fn node() -> impl Strategy<Value = NodeLoad> {
    let state =
        (prop::bool::weighted(0.9), prop::bool::weighted(0.9), prop::bool::weighted(0.1), any::<bool>());
    (0..3_000_u32, prop_oneof![1..50_u32, 1_000..5_000_u32], state).prop_map(
        |(clients, max, (alive, ready, draining, busy))| NodeLoad {
            id: NodeId(0),
            // A few of the nodes have more clients than their limit.
            clients: clients % (max + max / 10 + 1),
            max,
            alive,
            ready,
            draining,
            busy: busy && clients % 3 == 0,
        },
    )
}

fn cluster() -> impl Strategy<Value = Vec<NodeLoad>> {
    prop::collection::vec(node(), 1..10).prop_map(|mut nodes| {
        (1..).zip(&mut nodes).for_each(|(id, node)| node.id = NodeId(id));
        nodes
    })
}

/// Carries out the moves of a round, and checks that each is allowed.
fn obey(nodes: &mut [NodeLoad], moves: &[ClientMove]) {
    let mut by_id: BTreeMap<_, _> = nodes.iter_mut().map(|node| (node.id, node)).collect();
    for asked in moves {
        assert!(asked.count() > 0, "{asked:?}");
        let from = by_id.get_mut(&asked.from).unwrap();
        assert!(from.alive && (from.ready || from.draining), "{from:?} is left alone");
        from.clients = from.clients.checked_sub(asked.count()).expect("a node moves only what it has");
        for (to, count) in &asked.to {
            let to = by_id.get_mut(to).unwrap();
            assert!(to.alive && to.ready && !to.draining && !to.busy, "{to:?} takes nobody");
            to.clients += count;
            assert!(to.clients <= to.max - to.max / 20, "{to:?} has no room");
        }
    }
}

fn total(nodes: &[NodeLoad]) -> u64 {
    nodes.iter().map(|node| u64::from(node.clients)).sum()
}

proptest! {
    #[test]
    fn clients_move_only_to_nodes_with_room_and_the_moves_end(mut nodes in cluster(), ask in any::<bool>()) {
        let before = nodes.clone();
        let mut planner = Planner::default();
        prop_assert_eq!(planner.round(Duration::ZERO, &nodes), []);
        if ask {
            planner.rebalance(&nodes);
        }
        let mut now = Duration::from_secs(1);
        let mut all_moved = 0;
        let mut ended = false;
        for _ in 0..ROUNDS {
            now += Duration::from_secs(1);
            let moves = planner.round(now, &nodes);
            let count: u64 = moves.iter().map(|asked| u64::from(asked.count())).sum();
            let alive: u64 = nodes.iter().filter(|node| node.alive).map(|node| u64::from(node.clients)).sum();
            prop_assert!(count <= (alive / 20).max(10), "{count} of {alive} in one round");
            if moves.is_empty() {
                ended = true;
                break;
            }
            obey(&mut nodes, &moves);
            all_moved += count;
        }
        prop_assert!(ended, "still moving: {nodes:?}");
        prop_assert_eq!(total(&nodes), total(&before));
        // No client was moved twice.
        let given: u64 = before.iter().zip(&nodes).map(|(a, b)| u64::from(a.clients.saturating_sub(b.clients))).sum();
        prop_assert_eq!(all_moved, given);
        prop_assert_eq!(planner.round(now, &nodes), [], "what has ended does not begin again");
    }

    #[test]
    fn a_rebalance_evens_out_equal_nodes(clients in prop::collection::vec(0..2_000_u32, 2..8)) {
        let mut nodes: Vec<_> = (1..)
            .zip(&clients)
            .map(|(id, clients)| NodeLoad {
                id: NodeId(id), clients: *clients, max: 100_000, alive: true, ready: true, draining: false, busy: false,
            })
            .collect();
        let mut planner = Planner::default();
        planner.round(Duration::ZERO, &nodes);
        planner.rebalance(&nodes);
        for _ in 0..ROUNDS {
            let moves = planner.round(Duration::from_secs(5), &nodes);
            obey(&mut nodes, &moves);
        }
        let most = nodes.iter().map(|node| node.clients).max().unwrap();
        let least = nodes.iter().map(|node| node.clients).min().unwrap();
        prop_assert!(most - least <= 1, "asked for: {clients:?} became {nodes:?}");
    }

    #[test]
    fn reconnecting_clients_cause_no_moves(base in 0..1_000_u32, come in prop::collection::vec(0..8_u32, 3..6)) {
        let at = |clients: &[u32]| -> Vec<_> {
            (1..).zip(clients).map(|(id, clients)| NodeLoad {
                id: NodeId(id), clients: base + clients, max: 10_000, alive: true, ready: true, draining: false, busy: false,
            }).collect()
        };
        let mut planner = Planner::default();
        let mut come = come;
        for second in 0..20 {
            prop_assert_eq!(planner.round(Duration::from_secs(second), &at(&come)), []);
            come.rotate_left(1);
        }
    }
}
