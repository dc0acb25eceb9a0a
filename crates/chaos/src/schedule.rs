//! Turns an experiment and a seed into a schedule of faults, and chooses their targets. Pure: the same seed gives the same
//! schedule, and for the same state of the cluster the same targets.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::experiment::{Experiment, When};
use crate::fault::{Fault, Grudge, Nodes};

/// The most faults of one run.
const FAULTS_MAX: usize = 10_000;

/// A planned fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, from the beginning of the workload.
    pub at: Duration,
    /// How long it is in force.
    pub lasts: Duration,
    /// The fault.
    pub fault: Fault,
    /// Which nodes it asks for.
    pub nodes: Nodes,
    /// A random number that decides between nodes that match equally.
    pub draw: u64,
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers in every version of this program.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `0..below`; 0 if `below` is 0.
    pub fn below(&mut self, below: u64) -> u64 {
        if below == 0 { 0 } else { self.next_draw() % below }
    }
}

/// The schedule of an experiment, in the order of time.
#[must_use]
pub fn plan(experiment: &Experiment, seed: u64) -> Vec<Planned> {
    let mut draws = Draws::new(seed);
    let mut planned = Vec::new();
    for step in &experiment.method {
        let mut add = |at: Duration, draws: &mut Draws| {
            if planned.len() < FAULTS_MAX {
                planned.push(Planned {
                    at,
                    lasts: step.lasts,
                    fault: step.fault.clone(),
                    nodes: step.nodes.clone(),
                    draw: draws.next_draw(),
                });
            }
        };
        match &step.when {
            When::At(at) => add(at.0, &mut draws),
            When::Every(every, range) => {
                let mut at = range.start.0;
                while at < range.end.0 {
                    add(at, &mut draws);
                    let half = u64::try_from(every.0.as_millis() / 2).unwrap_or(u64::MAX);
                    at += every.0 / 2 + Duration::from_millis(draws.below(half.saturating_mul(2)).max(1));
                }
            }
        }
    }
    planned.sort_by_key(|fault| fault.at);
    planned
}

/// The state of the cluster when a fault is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Every server, by name.
    pub servers: Vec<Server>,
    /// The names of all resolvers.
    pub resolvers: Vec<String>,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// The server answers, and no active fault takes it away from the others.
    pub well: bool,
    /// How many shards the server leads.
    pub leads: u32,
    /// Whether the server leads the meta shard.
    pub leads_meta: bool,
}

/// The targets of a fault: sorted names. Empty if no node matches; the caller then skips the fault and reports that.
#[must_use]
pub fn choose(nodes: &Nodes, draw: u64, known: &Known) -> Vec<String> {
    let mut draws = Draws::new(draw);
    let well: Vec<&Server> = known.servers.iter().filter(|server| server.well).collect();
    let total = known.servers.len();
    let spare = total.saturating_sub(1) / 2;
    let hurt = total - well.len();
    let names = |servers: Vec<&Server>| {
        let names: BTreeSet<String> = servers.into_iter().map(|server| server.name.clone()).collect();
        names.into_iter().collect()
    };
    match nodes {
        Nodes::One => names(pick(well, 1, &mut draws)),
        Nodes::Leader => names(
            well.into_iter().max_by_key(|server| (server.leads, server.leads_meta)).into_iter().collect(),
        ),
        Nodes::Follower => {
            names(pick(well.into_iter().filter(|server| !server.leads_meta).collect(), 1, &mut draws))
        }
        Nodes::Minority => names(pick(well, spare.saturating_sub(hurt), &mut draws)),
        Nodes::Majority => names(pick(well, (spare + 1).min(total), &mut draws)),
        Nodes::All => names(well),
        Nodes::Resolver => {
            let at = usize::try_from(draws.below(known.resolvers.len() as u64)).unwrap_or(0);
            known.resolvers.get(at).cloned().into_iter().collect()
        }
        Nodes::Named(name) if name.starts_with('#') => {
            let names: BTreeSet<&String> = known.servers.iter().map(|server| &server.name).collect();
            let number = name.trim_start_matches('#').parse::<usize>().ok().and_then(|n| n.checked_sub(1));
            number.and_then(|at| names.into_iter().nth(at)).cloned().into_iter().collect()
        }
        Nodes::Named(name) => {
            let there = known.servers.iter().map(|server| &server.name).chain(&known.resolvers);
            there.filter(|known| *known == name).cloned().collect()
        }
    }
}

/// `count` of these servers, at random.
fn pick<'a>(mut from: Vec<&'a Server>, count: usize, draws: &mut Draws) -> Vec<&'a Server> {
    let count = count.min(from.len());
    for at in 0..count {
        let rest = (from.len() - at) as u64;
        from.swap(at, at + usize::try_from(draws.below(rest)).unwrap_or(0));
    }
    from.truncate(count);
    from
}

/// A directed pair of nodes: bytes from the first to the second are held back.
pub type Cut = (String, String);

/// The directed pairs that a network fault cuts. `chosen` are its targets, `all` the names of all servers.
#[must_use]
pub fn cuts(grudge: Grudge, chosen: &[String], all: &[String]) -> BTreeSet<Cut> {
    let pair = |from: &String, to: &String| (from.clone(), to.clone());
    let is_chosen = |name: &String| chosen.contains(name);
    let pairs = all.iter().flat_map(|from| all.iter().map(move |to| (from, to))).filter(|(a, b)| a != b);
    match grudge {
        Grudge::Both => {
            pairs.filter(|(a, b)| is_chosen(a) != is_chosen(b)).map(|(a, b)| pair(a, b)).collect()
        }
        Grudge::OneWay => {
            pairs.filter(|(a, b)| is_chosen(a) && !is_chosen(b)).map(|(a, b)| pair(a, b)).collect()
        }
        Grudge::MajoritiesRing => {
            // Each node hears the next nodes on the ring, as many as make a majority together with it.
            let at = |name: &String| all.iter().position(|known| known == name).unwrap_or(0);
            let ahead = |from: &String, to: &String| (at(from) + all.len() - at(to)) % all.len();
            pairs.filter(|(from, to)| ahead(from, to) > all.len() / 2).map(|(a, b)| pair(a, b)).collect()
        }
        Grudge::Bridge => {
            let others: Vec<&String> = all.iter().filter(|name| !is_chosen(name)).collect();
            let left: BTreeSet<&String> = others.iter().take(others.len() / 2).copied().collect();
            let apart = |a: &String, b: &String| {
                !is_chosen(a) && !is_chosen(b) && left.contains(a) != left.contains(b)
            };
            pairs.filter(|(a, b)| apart(a, b)).map(|(a, b)| pair(a, b)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn experiment() -> Experiment {
        Experiment::parse(
            "{name: x, proves: y, method: [
                {at: 5s, fault: kill, nodes: leader},
                {every: 4s, between: [6s, 40s], fault: pause, for: 1s}]}",
        )
        .unwrap()
    }

    fn server(name: &str, leads: u32, well: bool) -> Server {
        Server { name: name.to_owned(), well, leads, leads_meta: leads > 2 }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn known() -> Known {
        let servers = vec![server("a", 1, true), server("b", 3, true), server("c", 2, true)];
        Known { servers, resolvers: names(&["ns1"]) }
    }

    #[test]
    fn a_seed_gives_one_schedule() {
        let planned = plan(&experiment(), 7);
        assert_eq!(planned, plan(&experiment(), 7));
        assert_ne!(planned, plan(&experiment(), 8));
        assert!(planned.iter().filter(|fault| fault.fault == Fault::Pause).count() >= 5);
        assert!(planned.windows(2).all(|two| two[0].at <= two[1].at));
    }

    #[test]
    fn each_word_chooses_the_nodes_that_it_names() {
        let third = Nodes::Named("#3".to_owned());
        assert_eq!(choose(&third, 1, &known()), ["c"]);
        for none in ["#0", "#9", "#", "#x"] {
            assert!(choose(&Nodes::Named(none.to_owned()), 1, &known()).is_empty(), "{none}");
        }
        assert_eq!(choose(&Nodes::Leader, 1, &known()), ["b"]);
        assert_eq!(choose(&Nodes::All, 1, &known()), ["a", "b", "c"]);
        assert_eq!(choose(&Nodes::Resolver, 1, &known()), ["ns1"]);
        assert_eq!(choose(&Nodes::Named("c".to_owned()), 1, &known()), ["c"]);
        assert!(choose(&Nodes::Named("x".to_owned()), 1, &known()).is_empty());
        assert_eq!(choose(&Nodes::Majority, 1, &known()).len(), 2);
        assert_ne!(choose(&Nodes::Follower, 1, &known()), ["b"]);
    }

    #[test]
    fn a_minority_counts_the_servers_that_are_away_already() {
        let mut hurt = known();
        hurt.servers[0].well = false;
        assert!(choose(&Nodes::Minority, 1, &hurt).is_empty());
        assert_eq!(choose(&Nodes::Minority, 1, &known()).len(), 1);
    }

    #[test]
    fn each_kind_of_partition_cuts_its_pairs() {
        let three = names(&["a", "b", "c"]);
        let five = names(&["a", "b", "c", "d", "e"]);
        assert_eq!(cuts(Grudge::Both, &three[..1], &three).len(), 4);
        let one_way = cuts(Grudge::OneWay, &three[..1], &three);
        assert!(one_way.iter().all(|(from, _)| from == "a"));
        assert_eq!(one_way.len(), 2);
        // Two halves of two nodes, and one node that hears all.
        assert_eq!(cuts(Grudge::Bridge, &five[..1], &five).len(), 8);
        for all in [&three, &five] {
            let ring = cuts(Grudge::MajoritiesRing, &[], all);
            let hears = |name: &String| {
                let cut = ring.iter().filter(|(_, to)| to == name).count();
                all.len() - cut
            };
            assert!(all.iter().all(|name| hears(name) > all.len() / 2), "{ring:?}");
            assert!(!ring.is_empty());
        }
    }

    proptest! {
        #[test]
        fn only_healthy_servers_are_chosen_and_each_once(draw: u64, count in 0_usize..9, hurt in 0_usize..9) {
            let servers: Vec<_> = (0..count).map(|i| server(&format!("n{i}"), 0, i >= hurt)).collect();
            let known = Known { servers, resolvers: Vec::new() };
            for nodes in [Nodes::One, Nodes::Minority, Nodes::Majority, Nodes::Follower, Nodes::Leader, Nodes::All] {
                let chosen = choose(&nodes, draw, &known);
                prop_assert!(chosen.windows(2).all(|two| two[0] < two[1]));
                for name in &chosen {
                    prop_assert!(known.servers.iter().any(|server| server.name == *name && server.well));
                }
                if nodes == Nodes::Minority {
                    prop_assert!(2 * (chosen.len() + hurt.min(count)) < count.max(1) || chosen.is_empty());
                }
            }
        }
    }
}
