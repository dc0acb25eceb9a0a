//! Sorts candidates as RFC 2782 says. Pure; the caller supplies randomness.

use super::Candidate;

/// Sorts by priority, and within a priority by weighted random choice. `random(max)` returns a number from 0 to `max`,
/// both included.
pub(crate) fn by_priority_and_weight(
    mut candidates: Vec<Candidate>,
    mut random: impl FnMut(u32) -> u32,
) -> Vec<Candidate> {
    // Candidates of weight 0 come first in each round, which gives them a small chance, as the RFC demands.
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

    /// The share of 30,000 rounds in which each candidate comes first.
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
    fn candidates_come_first_in_proportion_to_their_weights() {
        let shares = first(&[candidate("a", 10, 60), candidate("b", 10, 30), candidate("c", 10, 10)]);
        for (share, expected) in shares.iter().zip([0.6, 0.3, 0.1]) {
            assert!((share - expected).abs() < 0.03, "{shares:?}");
        }
        let even =
            first(&[candidate("a", 0, 1), candidate("b", 0, 1), candidate("c", 0, 1), candidate("d", 0, 1)]);
        // The first of the list also wins with a draw of 0: the RFC's own bias with small weights.
        assert!(even.iter().all(|share| (0.15..0.45).contains(share)), "{even:?}");
    }

    #[test]
    fn a_candidate_of_weight_0_has_a_small_chance() {
        let shares = first(&[candidate("none", 10, 0), candidate("some", 10, 99)]);
        assert!(shares[0] > 0.002 && shares[0] < 0.03, "{shares:?}");
        let ordered = by_priority_and_weight(vec![candidate("none", 10, 0)], |max| max);
        assert_eq!(ordered.len(), 1, "also if all weights are 0");
    }

    proptest! {
        /// Whatever is drawn, no candidate is lost or doubled, and priorities are in order.
        #[test]
        fn candidates_are_a_permutation_sorted_by_priority(
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
