//! The laws of the ring and of layouts.
//!
//! Balance is stated twice. The bare ring: over 20,000 evenly spaced keys, no node of 1 to n owns
//! more than 1.25 times the mean, for every n up to 64. The layout, which a cluster uses: no node
//! holds more replicas than 1.25 times the mean, or the mean rounded up where this is more (with few
//! replicas for each node), for any ids, 1 to 64 shards and 1 to 7 replicas.

use std::collections::{BTreeMap, BTreeSet};

use conclave_core::limits::NODES_MAX;
use conclave_core::ring::{Layout, LayoutStep, Ring, RingNode, layout, layout_steps, shard_of};
use conclave_core::{NodeId, RoomId, ShardId};
use proptest::prelude::*;

const KEYS: u64 = 20_000;

fn keys() -> impl Iterator<Item = u64> {
    (0..KEYS).map(|n| n * (u64::MAX / KEYS))
}

fn ids(range: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = NodeId> {
    range.map(NodeId)
}

#[test]
fn a_ring_gives_no_node_more_than_a_quarter_above_its_part() {
    for n in 2..=NODES_MAX as u64 {
        let ring = Ring::new(ids(1..=n));
        let mut owned: BTreeMap<NodeId, u64> = BTreeMap::new();
        for key in keys() {
            *owned.entry(ring.owner(key).unwrap()).or_default() += 1;
        }
        let max = *owned.values().max().unwrap();
        assert!(max * n * 100 <= KEYS * 125, "{n} nodes: {max} of {KEYS} keys on one");
    }
}

#[test]
fn a_joined_node_takes_its_part_of_the_ring_from_all_and_nothing_else_moves() {
    for n in 2..=16 {
        let (before, after) = (Ring::new(ids(1..=n)), Ring::new(ids(1..=n + 1)));
        let mut taken: BTreeMap<NodeId, u64> = BTreeMap::new();
        for key in keys() {
            let (old, new) = (before.owner(key).unwrap(), after.owner(key).unwrap());
            if old != new {
                assert_eq!(new, NodeId(n + 1), "a key moved between nodes that stayed");
                *taken.entry(old).or_default() += 1;
            }
        }
        let moved: u64 = taken.values().sum();
        let fair = KEYS / (n + 1);
        assert!((fair * 3 / 4..=fair * 5 / 4).contains(&moved), "{moved} moved, {fair} would be fair");
        assert_eq!(taken.len() as u64, n, "every node gives something");
    }
}

/// These values are part of the format: the data of existing clusters is placed by them.
#[test]
fn places_never_change() {
    let shards: Vec<u32> = (1..=16).map(|room| shard_of(RoomId(room), 8).0).collect();
    assert_eq!(shards, [7, 4, 6, 1, 5, 4, 8, 7, 8, 6, 5, 8, 2, 7, 4, 7]);
    let nodes: Vec<RingNode> = ids(1..=5).map(RingNode::from).collect();
    let plan = layout(&nodes, 4, 3, None);
    let plan: Vec<Vec<u64>> =
        plan.shards.iter().map(|shard| shard.iter().map(|node| node.0).collect()).collect();
    assert_eq!(plan, [[3, 1, 5], [4, 1, 2], [1, 4, 2], [5, 4, 3], [2, 3, 5]]);
}

#[test]
fn a_cluster_with_fewer_nodes_than_replicas_uses_all_its_nodes() {
    let one = layout(&[NodeId(7).into()], 2, 3, None);
    assert_eq!(one, Layout { version: 1, shards: vec![vec![NodeId(7)]; 3] });
    assert!(layout(&[], 1, 3, None).shards.iter().all(Vec::is_empty));
    let three: Vec<RingNode> = ids(7..=9).map(RingNode::from).collect();
    let grown = layout(&three, 2, 3, Some(&one));
    assert_eq!(grown.version, 2);
    assert!(grown.shards.iter().all(|shard| shard.len() == 3));
    assert!(
        layout_steps(&one, &grown)
            .iter()
            .all(|step| !matches!(step, LayoutStep::Replace { .. } | LayoutStep::Remove { .. }))
    );
}

/// Distinct nodes, some with zones.
fn nodes(zoned: bool) -> impl Strategy<Value = Vec<RingNode>> {
    let zone = if zoned { 1..6_u8 } else { 0..1 };
    proptest::collection::btree_map(1..500_u64, zone, 1..20).prop_map(|nodes| {
        let zone = |zone: u8| (zone > 0).then(|| format!("zone-{zone}"));
        nodes.into_iter().map(|(id, z)| RingNode { node: NodeId(id), zone: zone(z) }).collect()
    })
}

fn count<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        *counts.entry(*node).or_default() += 1;
    }
    counts
}

fn slots(layout: &Layout) -> usize {
    layout.shards.iter().map(Vec::len).sum()
}

fn heaviest(layout: &Layout) -> usize {
    count(layout.shards.iter().flatten()).into_values().max().unwrap_or(0)
}

/// 1.25 times the mean, or the mean rounded up where that is more.
fn heaviest_allowed(layout: &Layout, nodes: usize) -> usize {
    (slots(layout) * 5 / (nodes * 4)).max(slots(layout).div_ceil(nodes))
}

fn as_sets(layout: &Layout) -> Vec<BTreeSet<NodeId>> {
    layout.shards.iter().map(|shard| shard.iter().copied().collect()).collect()
}

/// Carries out the steps, and checks that each fits the layout at its time.
fn carried_out(from: &Layout, steps: &[LayoutStep]) -> (Vec<BTreeSet<NodeId>>, BTreeMap<ShardId, NodeId>) {
    let mut sets = as_sets(from);
    let mut leaders = BTreeMap::new();
    let mut change = |shard: ShardId, add: Option<NodeId>, remove: Option<NodeId>| {
        let set = &mut sets[shard.0 as usize];
        assert!(add.is_none_or(|node| set.insert(node)), "added twice");
        assert!(remove.is_none_or(|node| set.remove(&node)), "removed without being there");
    };
    for step in steps {
        match *step {
            LayoutStep::Add { shard, to } => change(shard, Some(to), None),
            LayoutStep::Replace { shard, from, to } => change(shard, Some(to), Some(from)),
            LayoutStep::Remove { shard, from } => change(shard, None, Some(from)),
            LayoutStep::Lead { shard, node } => {
                leaders.insert(shard, node);
            }
        }
    }
    (sets, leaders)
}

proptest! {
    #[test]
    fn a_layout_is_balanced_and_its_replicas_distinct(
        nodes in nodes(false), shards in 1..=64_u32, replicas in 1..=7_usize,
    ) {
        let plan = layout(&nodes, shards, replicas, None);
        prop_assert_eq!(plan.version, 1);
        prop_assert_eq!(plan.shards.len(), shards as usize + 1);
        for (shard, set) in plan.shards.iter().zip(as_sets(&plan)) {
            prop_assert_eq!(shard.len(), replicas.min(nodes.len()));
            prop_assert_eq!(shard.len(), set.len(), "replicas are on different nodes");
        }
        prop_assert!(heaviest(&plan) <= heaviest_allowed(&plan, nodes.len()));
        // Leaders: no node leads two more than another.
        let leads = count(plan.shards.iter().filter_map(|shard| shard.first()));
        let of = |node: &RingNode| leads.get(&node.node).copied().unwrap_or(0);
        let (most, least) = (nodes.iter().map(of).max(), nodes.iter().map(of).min());
        prop_assert!(most <= least.map(|least| least + 1), "{leads:?}");
    }

    #[test]
    fn a_layout_depends_on_its_arguments_alone(
        mut nodes in nodes(true), shards in 1..=16_u32, replicas in 1..=5_usize, turn in 0..20_usize,
    ) {
        let plan = layout(&nodes, shards, replicas, None);
        let turn = turn % nodes.len();
        nodes.rotate_left(turn);
        prop_assert_eq!(&plan, &layout(&nodes, shards, replicas, None));
        // The same arguments leave the layout unchanged, the version included.
        prop_assert_eq!(&plan, &layout(&nodes, shards, replicas, Some(&plan)));
        prop_assert!(layout_steps(&plan, &plan).is_empty());
    }

    #[test]
    fn a_joined_node_takes_its_share_and_nothing_moves_between_the_others(
        nodes in nodes(false), shards in 1..=64_u32, replicas in 1..=5_usize, joins in 500..600_u64,
    ) {
        prop_assume!(nodes.len() >= replicas);
        let joins = NodeId(joins);
        let before = layout(&nodes, shards, replicas, None);
        let more: Vec<RingNode> = nodes.iter().cloned().chain([joins.into()]).collect();
        let after = layout(&more, shards, replicas, Some(&before));
        let mut moved = 0;
        for step in layout_steps(&before, &after) {
            match step {
                LayoutStep::Replace { to, .. } => {
                    prop_assert_eq!(to, joins);
                    moved += 1;
                }
                LayoutStep::Lead { .. } => {}
                LayoutStep::Add { .. } | LayoutStep::Remove { .. } => prop_assert!(false, "{step:?}"),
            }
        }
        let (all, n) = (slots(&after), more.len());
        prop_assert!((all / n..=all.div_ceil(n)).contains(&moved), "{moved} of {all} moved to one of {n}");
        prop_assert!(heaviest(&after) <= heaviest_allowed(&after, n));
    }

    #[test]
    fn a_node_that_leaves_moves_only_what_it_held(
        nodes in nodes(false), shards in 1..=64_u32, replicas in 1..=5_usize, which in 0..20_usize,
    ) {
        prop_assume!(nodes.len() > replicas);
        let before = layout(&nodes, shards, replicas, None);
        let gone = nodes[which % nodes.len()].node;
        let rest: Vec<RingNode> = nodes.into_iter().filter(|node| node.node != gone).collect();
        let after = layout(&rest, shards, replicas, Some(&before));
        let mut moved = 0;
        for step in layout_steps(&before, &after) {
            match step {
                LayoutStep::Replace { from, .. } => {
                    prop_assert_eq!(from, gone);
                    moved += 1;
                }
                LayoutStep::Lead { .. } => {}
                LayoutStep::Add { .. } | LayoutStep::Remove { .. } => prop_assert!(false, "{step:?}"),
            }
        }
        prop_assert_eq!(moved, before.shards.iter().filter(|shard| shard.contains(&gone)).count());
        // One more than a new layout may have: replicas on the remaining nodes do not move.
        prop_assert!(heaviest(&after) <= heaviest_allowed(&after, rest.len()) + 1);
    }

    #[test]
    fn zones_are_distinct_where_there_are_enough(
        nodes in nodes(true), shards in 1..=32_u32, replicas in 1..=5_usize,
    ) {
        let mut zones: BTreeMap<NodeId, String> = BTreeMap::new();
        let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
        for node in &nodes {
            let zone = node.zone.clone().unwrap();
            *sizes.entry(zone.clone()).or_default() += 1;
            zones.insert(node.node, zone);
        }
        let replicas = replicas.min(nodes.len());
        // The smallest possible number of replicas of a shard in its most crowded zone.
        let bound = (1..=replicas)
            .find(|bound| sizes.values().map(|size| size.min(bound)).sum::<usize>() >= replicas)
            .unwrap();
        prop_assert!(sizes.len() < replicas || bound == 1);
        let plan = layout(&nodes, shards, replicas, None);
        for shard in &plan.shards {
            let mut crowd: BTreeMap<&String, usize> = BTreeMap::new();
            for node in shard {
                *crowd.entry(&zones[node]).or_default() += 1;
            }
            prop_assert_eq!(shard.len(), replicas);
            prop_assert!(crowd.values().all(|count| *count <= bound), "{:?} in {:?}", shard, zones);
        }
    }

    #[test]
    fn a_joined_zone_is_used_at_once(shards in 1..=16_u32, old in 2..8_u64) {
        let zoned = |id: u64, zone: &str| RingNode { node: NodeId(id), zone: Some(zone.to_owned()) };
        let mut nodes: Vec<RingNode> = (1..=old).map(|id| zoned(id, if id % 2 == 0 { "a" } else { "b" })).collect();
        let before = layout(&nodes, shards, 3, None);
        nodes.extend([zoned(101, "c"), zoned(102, "c")]);
        let after = layout(&nodes, shards, 3, Some(&before));
        for shard in &after.shards {
            prop_assert!(shard.iter().any(|node| node.0 > 100), "{shard:?} has nothing in the new zone");
        }
    }

    #[test]
    fn the_steps_lead_from_one_layout_to_the_other(
        from in nodes(true), to in nodes(true), shards in 1..=16_u32, r1 in 1..=5_usize, r2 in 1..=5_usize,
    ) {
        let before = layout(&from, shards, r1, None);
        let after = layout(&to, shards, r2, Some(&before));
        let (sets, leaders) = carried_out(&before, &layout_steps(&before, &after));
        prop_assert_eq!(sets, as_sets(&after));
        for shard in (0..=shards).map(ShardId) {
            let led = leaders.get(&shard).copied().or(before.preferred_leader(shard));
            prop_assert_eq!(led, after.preferred_leader(shard));
        }
    }
}
