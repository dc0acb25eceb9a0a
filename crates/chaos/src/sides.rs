//! Who can speak with whom while bytes are held back, and how each side fared. Pure.
//!
//! An answer needs a way there and a way back, over whatever nodes. So the sides of a partition are the largest sets of nodes of
//! which each reaches each other one along directed ways: the strongly connected components of what is not cut.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::fault::{Fault, Grudge};
use crate::journal::Applied;
use crate::schedule::{Cut, cuts};

/// The directed pairs of nodes between which this fault lets nothing through.
#[must_use]
pub fn cut_by(fault: &Fault, nodes: &[String], all: &[String]) -> BTreeSet<Cut> {
    match fault {
        Fault::Isolate => cuts(Grudge::Both, nodes, all),
        Fault::Partition { grudge } => cuts(*grudge, nodes, all),
        _ => BTreeSet::new(),
    }
}

/// What all of these together cut.
#[must_use]
pub fn all_cuts<'a>(open: impl IntoIterator<Item = &'a Applied>) -> BTreeSet<Cut> {
    open.into_iter().flat_map(|applied| cut_by(&applied.fault, &applied.nodes, &applied.all)).collect()
}

/// The sides, each sorted, in the order of their first nodes. One if nothing is cut.
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

/// Whom a node's words reach, if the others pass them on.
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

/// Nodes that cannot get a majority of any shard's replicas to answer, whoever leads: those whose side is smaller than a majority
/// of `replicas`. Nobody, if it is not known how many replicas a shard has.
#[must_use]
pub fn cut_off(cut: &BTreeSet<Cut>, all: &[String], replicas: usize) -> BTreeSet<String> {
    if cut.is_empty() || replicas == 0 {
        return BTreeSet::new();
    }
    let small = sides(cut, all).into_iter().filter(|side| side.len() < replicas / 2 + 1);
    small.flatten().collect()
}

/// How one side of a partition fared: what it acked to those who spoke with its nodes alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// While this band was in force.
    pub band: usize,
    /// Its nodes.
    pub nodes: Vec<String>,
    /// It had a majority of the nodes.
    pub majority: bool,
    /// Acks.
    pub acked: u64,
    /// The longest time without one, microseconds.
    pub longest_gap_us: u64,
}

/// How a side fared from one time to another, by when each node acked (sorted).
#[must_use]
pub fn fared(
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
    fn who_cannot_be_answered_is_cut_off() {
        let three = ["a", "b", "c"];
        assert_eq!(off(Grudge::Both, &["a"], &three), ["a"]);
        // Who is not heard is not answered either.
        assert_eq!(off(Grudge::OneWay, &["b"], &three), ["b"]);
        // Whoever is in the middle passes on; and on the ring everybody reaches everybody.
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
        assert_eq!(cut_off(&cut, &all, 3).len(), 0, "two of three replicas may be there");
        assert_eq!(cut_off(&cut, &all, 5).len(), 2);
        assert_eq!(cut_off(&cut, &all, 0).len(), 0, "nothing is known");
    }

    #[test]
    fn a_sides_longest_gap_has_its_ends() {
        let acks = BTreeMap::from([("a".to_owned(), vec![5, 100, 120, 900]), ("b".to_owned(), vec![300])]);
        let side = fared(0, &names(&["a", "b"]), true, &acks, (90, 500));
        assert_eq!((side.acked, side.longest_gap_us), (3, 200));
        let silent = fared(0, &names(&["c"]), false, &acks, (90, 500));
        assert_eq!((silent.acked, silent.longest_gap_us), (0, 410));
    }

    proptest! {
        #[test]
        fn everybody_is_on_one_side(cut in proptest::collection::btree_set((0_u8..5, 0_u8..5), 0..20)) {
            let all: Vec<String> = (0..5).map(|n| format!("n{n}")).collect();
            let cut = cut.into_iter().map(|(a, b)| (format!("n{a}"), format!("n{b}"))).collect();
            let mut members: Vec<String> = sides(&cut, &all).into_iter().flatten().collect();
            members.sort();
            prop_assert_eq!(members, all);
        }
    }
}
