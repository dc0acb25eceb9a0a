//! In which order nodes are tried: RFC 2782. Pure; randomness comes from outside.

use super::Candidate;

/// By priority, and at random within one, those with more weight sooner. `random` gives a number from 0 to the one that
/// it gets, both included.
pub(crate) fn by_priority_and_weight(
    mut candidates: Vec<Candidate>,
    mut random: impl FnMut(u32) -> u32,
) -> Vec<Candidate> {
    // Those without weight come first in each round: then they have a small chance, as the RFC wants it.
    candidates.sort_by_key(|candidate| (candidate.priority, candidate.weight > 0));
    let mut ordered = Vec::with_capacity(candidates.len());
    while let Some(first) = candidates.first() {
        let priority = first.priority;
        let group = || candidates.iter().take_while(|candidate| candidate.priority == priority);
        let drawn = random(group().map(|candidate| u32::from(candidate.weight)).sum());
        let mut sum = 0;
        let chosen = group().position(|candidate| {
            sum += u32::from(candidate.weight);
            sum >= drawn
        });
        ordered.push(candidates.remove(chosen.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(address: &str, priority: u16, weight: u16) -> Candidate {
        Candidate { priority, weight, ..Candidate::at(address) }
    }

    /// How often each of them comes first in 30,000 rounds.
    fn first(candidates: &[Candidate]) -> Vec<f64> {
        const ROUNDS: u32 = 30_000;
        let mut counts = vec![0_u32; candidates.len()];
        for _ in 0..ROUNDS {
            let ordered = by_priority_and_weight(candidates.to_vec(), |max| rand::random_range(0..=max));
            counts[candidates.iter().position(|candidate| *candidate == ordered[0]).unwrap()] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / f64::from(ROUNDS)).collect()
    }

    #[test]
    fn weights_are_shares() {
        let shares = first(&[candidate("a", 10, 60), candidate("b", 10, 30), candidate("c", 10, 10)]);
        for (share, expected) in shares.iter().zip([0.6, 0.3, 0.1]) {
            assert!((share - expected).abs() < 0.03, "{shares:?}");
        }
        let even =
            first(&[candidate("a", 0, 1), candidate("b", 0, 1), candidate("c", 0, 1), candidate("d", 0, 1)]);
        // The first of the list also has the draw of 0: the RFC's own bias with small weights.
        assert!(even.iter().all(|share| (0.15..0.45).contains(share)), "{even:?}");
    }

    #[test]
    fn without_weight_there_is_a_small_chance() {
        let shares = first(&[candidate("none", 10, 0), candidate("some", 10, 99)]);
        assert!(shares[0] > 0.002 && shares[0] < 0.03, "{shares:?}");
        let ordered = by_priority_and_weight(vec![candidate("none", 10, 0)], |max| max);
        assert_eq!(ordered.len(), 1, "also when nobody has any");
    }

    proptest! {
        /// Nobody is lost or doubled, and no lower priority comes before a higher one, whatever is drawn.
        #[test]
        fn everybody_is_there_by_priority(
            nodes in proptest::collection::vec((0_u16..4, 0_u16..=u16::MAX), 0..40),
            draws in proptest::collection::vec(any::<u32>(), 40),
        ) {
            let candidates: Vec<_> = nodes
                .iter()
                .enumerate()
                .map(|(at, (priority, weight))| candidate(&at.to_string(), *priority, *weight))
                .collect();
            let mut draws = draws.into_iter();
            let ordered = by_priority_and_weight(candidates.clone(), |max| {
                let draw = u64::from(draws.next().unwrap_or(0)) % (u64::from(max) + 1);
                u32::try_from(draw).unwrap()
            });
            prop_assert!(ordered.is_sorted_by_key(|candidate| candidate.priority));
            let names = |mut list: Vec<Candidate>| {
                list.sort_by(|a, b| a.address.cmp(&b.address));
                list
            };
            prop_assert_eq!(names(ordered), names(candidates));
        }
    }
}
