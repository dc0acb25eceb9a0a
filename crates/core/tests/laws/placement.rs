//! The laws of placement: clients move only to where there is room for them, none is lost, and it comes to an end.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_core::placement::{Move, NodeLoad, Planner};
use proptest::prelude::*;

/// More rounds than any of these needs.
const ROUNDS: u32 = 500;

fn node() -> impl Strategy<Value = NodeLoad> {
    let state =
        (prop::bool::weighted(0.9), prop::bool::weighted(0.9), prop::bool::weighted(0.1), any::<bool>());
    (0..3_000_u32, prop_oneof![1..50_u32, 1_000..5_000_u32], state).prop_map(
        |(clients, max, (alive, ready, draining, busy))| NodeLoad {
            id: NodeId(0),
            // One in a few nodes has more than it takes.
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

/// Lets the clients of a round go, and checks that each of them may.
fn obey(nodes: &mut [NodeLoad], moves: &[Move]) {
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
    fn clients_go_where_there_is_room_and_it_ends(mut nodes in cluster(), ask in any::<bool>()) {
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
        // Nobody was moved to and fro.
        let given: u64 = before.iter().zip(&nodes).map(|(a, b)| u64::from(a.clients.saturating_sub(b.clients))).sum();
        prop_assert_eq!(all_moved, given);
        prop_assert_eq!(planner.round(now, &nodes), [], "what has ended does not begin again");
    }

    #[test]
    fn equal_nodes_end_within_ten_in_a_hundred(clients in prop::collection::vec(0..2_000_u32, 2..8)) {
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
    fn a_few_that_come_and_go_move_nobody(base in 0..1_000_u32, come in prop::collection::vec(0..8_u32, 3..6)) {
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
