//! The sides of a partition, and what each side acked. Pure.
//!
//! An answer needs a path to a node and a path back, possibly through other nodes. So the sides of a partition are the strongly
//! connected components of the directed graph of connections that are not cut.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::fault::{Fault, Grudge};
use crate::journal::Applied;
use crate::schedule::{Cut, cuts};

/// The directed pairs of nodes that this fault cuts.
#[must_use]
pub fn cut_by(fault: &Fault, nodes: &[String], all: &[String]) -> BTreeSet<Cut> {
    match fault {
        Fault::Isolate => cuts(Grudge::Both, nodes, all),
        Fault::Partition { grudge } => cuts(*grudge, nodes, all),
        _ => BTreeSet::new(),
    }
}

/// The directed pairs of nodes that these faults cut together.
#[must_use]
pub fn all_cuts<'a>(open: impl IntoIterator<Item = &'a Applied>) -> BTreeSet<Cut> {
    open.into_iter().flat_map(|applied| cut_by(&applied.fault, &applied.nodes, &applied.all)).collect()
}

/// The sides, each sorted, in the order of their first nodes. One side if nothing is cut.
#[must_use]
pub fn sides(cut: &BTreeSet<Cut>, all: &[String]) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        all.iter().map(|node| (node, reached(node, cut, all))).collect();
    let mut sides: BTreeSet<Vec<String>> = BTreeSet::new();
    for (node, out) in &reach {
        let both = out.iter().filter(|other| reach.get(**other).is_some_and(|back| back.contains(*node)));
        sides.insert(both.map(|other| (*other).clone()).collect());
    }
    sides.into_iter().collect()
}

/// The nodes that a message from this node can reach, if the others forward it.
fn reached<'a>(from: &'a String, cut: &BTreeSet<Cut>, all: &'a [String]) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::from([from]);
    let mut ahead = vec![from];
    while let Some(at) = ahead.pop() {
        for next in all.iter().filter(|next| !cut.contains(&(at.clone(), (*next).clone()))) {
            if reached.insert(next) {
                ahead.push(next);
            }
        }
    }
    reached
}

/// Nodes that cannot reach a majority of any shard's replicas, whoever leads: those whose side is smaller than a majority of
/// `replicas`. None if `replicas` is 0, that is, unknown.
#[must_use]
pub fn cut_off(cut: &BTreeSet<Cut>, all: &[String], replicas: usize) -> BTreeSet<String> {
    if cut.is_empty() || replicas == 0 {
        return BTreeSet::new();
    }
    let small = sides(cut, all).into_iter().filter(|side| side.len() < replicas / 2 + 1);
    small.flatten().collect()
}

/// What one side of a partition acked to the clients that are pinned to its nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// The index of the band in [`crate::verdict::Facts::bands`].
    pub band: usize,
    /// The nodes of the side.
    pub nodes: Vec<String>,
    /// Whether the side had a majority of the nodes.
    pub majority: bool,
    /// The number of acks.
    pub acked: u64,
    /// The longest time without an ack, microseconds.
    pub longest_gap_us: u64,
}

/// The acks and the longest gap of a side between two times; `acks` has the sorted times of each node's acks.
#[must_use]
pub fn measure(
    band: usize,
    nodes: &[String],
    majority: bool,
    acks: &BTreeMap<String, Vec<u64>>,
    (from_us, to_us): (u64, u64),
) -> Side {
    let within = |at: &&u64| (from_us..=to_us).contains(*at);
    let mut times: Vec<u64> =
        nodes.iter().filter_map(|node| acks.get(node)).flatten().filter(within).copied().collect();
    times.sort_unstable();
    let acked = times.len() as u64;
    let longest_gap_us = [from_us]
        .iter()
        .chain(&times)
        .zip(times.iter().chain([&to_us]))
        .map(|(before, after)| after.saturating_sub(*before))
        .max()
        .unwrap_or(0);
    Side { band, nodes: nodes.to_vec(), majority, acked, longest_gap_us }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn off(grudge: Grudge, chosen: &[&str], all: &[&str]) -> Vec<String> {
        let all = names(all);
        let cut = cut_by(&Fault::Partition { grudge }, &names(chosen), &all);
        cut_off(&cut, &all, all.len()).into_iter().collect()
    }

    #[test]
    fn a_node_that_cannot_reach_a_majority_and_back_is_cut_off() {
        let three = ["a", "b", "c"];
        assert_eq!(off(Grudge::Both, &["a"], &three), ["a"]);
        // A node that nobody hears gets no answers either.
        assert_eq!(off(Grudge::OneWay, &["b"], &three), ["b"]);
        // The node in the middle forwards, and on the ring every node reaches every other one.
        assert_eq!(off(Grudge::Bridge, &["a"], &three), names(&[]));
        assert_eq!(off(Grudge::MajoritiesRing, &["a"], &three), names(&[]));
        assert_eq!(off(Grudge::Both, &["a", "b"], &["a", "b", "c", "d", "e"]), ["a", "b"]);
        // With both of a half's nodes cut off from both others, there is no majority anywhere.
        assert_eq!(off(Grudge::Both, &["a", "b"], &["a", "b", "c", "d"]), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_small_side_may_have_a_shards_majority_if_shards_have_few_replicas() {
        let all = names(&["a", "b", "c", "d", "e"]);
        let cut = cut_by(&Fault::Isolate, &all[..2], &all);
        assert_eq!(cut_off(&cut, &all, 3).len(), 0, "two of a shard's three replicas may be on this side");
        assert_eq!(cut_off(&cut, &all, 5).len(), 2);
        assert_eq!(cut_off(&cut, &all, 0).len(), 0, "the number of replicas is unknown");
    }

    #[test]
    fn the_longest_gap_counts_the_time_before_the_first_and_after_the_last_ack() {
        let acks = BTreeMap::from([("a".to_owned(), vec![5, 100, 120, 900]), ("b".to_owned(), vec![300])]);
        let side = measure(0, &names(&["a", "b"]), true, &acks, (90, 500));
        assert_eq!((side.acked, side.longest_gap_us), (3, 200));
        let silent = measure(0, &names(&["c"]), false, &acks, (90, 500));
        assert_eq!((silent.acked, silent.longest_gap_us), (0, 410));
    }

    proptest! {
        #[test]
        fn every_node_is_on_exactly_one_side(cut in proptest::collection::btree_set((0_u8..5, 0_u8..5), 0..20)) {
            let all: Vec<String> = (0..5).map(|n| format!("n{n}")).collect();
            let cut = cut.into_iter().map(|(a, b)| (format!("n{a}"), format!("n{b}"))).collect();
            let mut members: Vec<String> = sides(&cut, &all).into_iter().flatten().collect();
            members.sort();
            prop_assert_eq!(members, all);
        }
    }
}
