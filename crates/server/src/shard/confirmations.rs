//! Which requests the followers of this replica have answered: the proof that it still leads when a read begins.
//!
//! openraft takes an answer for proof as well, but of which request it cannot always tell: it matches the answers to
//! appends by log id, and an append without entries ends at the same log id as the one before it. A process that was
//! frozen finds answers from before the freeze in its sockets; one of them then counts as the answer to an append that
//! is sent now, and a leader that was replaced long ago reads as if it still led. Our network knows which answer belongs
//! to which request: the streams of appends and of heartbeats have one answer for each request, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The requests of one replica to its followers, heartbeats and appends. They are counted in rounds: every read begins a
/// new one.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    round: AtomicU64,
    answered: watch::Sender<BTreeMap<u64, Answered>>,
}

/// The latest request that a follower has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Answered {
    term: u64,
    round: u64,
}

impl Confirmations {
    /// Begins a round. A request of this round or a later one is sent after this call.
    pub(crate) fn begin(&self) -> u64 {
        self.round.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The round of a request that is sent from now on.
    pub(crate) fn round(&self) -> u64 {
        self.round.load(Ordering::SeqCst)
    }

    /// Records that a follower has answered a request of this term and round, and knows of no later term.
    pub(crate) fn answered(&self, follower: u64, term: u64, round: u64) {
        let now = Answered { term, round };
        self.answered.send_if_modified(|answered| {
            let known = answered.entry(follower).or_default();
            let newer = now > *known;
            if newer {
                *known = now;
            }
            newer
        });
    }

    /// Waits until a majority of each of these sets of voters has answered a request of the term, of this round or a
    /// later one. The leader counts itself.
    pub(crate) async fn confirmed(&self, leader: u64, term: u64, round: u64, voters: &[BTreeSet<u64>]) {
        let mut answers = self.answered.subscribe();
        let confirms = |answered: &BTreeMap<u64, Answered>, voter: &u64| {
            *voter == leader
                || answered.get(voter).is_some_and(|last| last.term == term && last.round >= round)
        };
        let all = |answered: &BTreeMap<u64, Answered>| {
            voters
                .iter()
                .all(|set| set.iter().filter(|voter| confirms(answered, voter)).count() > set.len() / 2)
        };
        // The sender is `self`, so that this ends only with the condition.
        let _ = answers.wait_for(all).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn confirmed(confirmations: &Confirmations, round: u64, voters: &[BTreeSet<u64>]) -> bool {
        confirmations.confirmed(1, 7, round, voters).now_or_never().is_some()
    }

    #[test]
    fn only_answers_to_requests_sent_after_the_read_began_confirm_it() {
        let confirmations = Confirmations::default();
        let voters = [BTreeSet::from([1, 2, 3])];
        let before = confirmations.round();
        let round = confirmations.begin();
        confirmations.answered(2, 7, before);
        assert!(!confirmed(&confirmations, round, &voters), "the request was sent before the read began");
        confirmations.answered(3, 7, round);
        assert!(confirmed(&confirmations, round, &voters));
        let next = confirmations.begin();
        assert!(!confirmed(&confirmations, next, &voters), "each read needs an answer of its own");
        confirmations.answered(2, 7, before);
        confirmations.answered(2, 7, next);
        confirmations.answered(2, 7, before);
        assert!(confirmed(&confirmations, next, &voters), "a late answer takes nothing back");
    }

    #[test]
    fn answers_of_another_term_confirm_nothing() {
        let confirmations = Confirmations::default();
        let voters = [BTreeSet::from([1, 2, 3])];
        let round = confirmations.begin();
        confirmations.answered(2, 6, round);
        confirmations.answered(3, 8, round);
        assert!(!confirmed(&confirmations, round, &voters));
    }

    #[test]
    fn every_set_of_voters_needs_a_majority() {
        let confirmations = Confirmations::default();
        let round = confirmations.begin();
        assert!(confirmed(&confirmations, round, &[BTreeSet::from([1])]), "the only voter confirms itself");
        let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
        confirmations.answered(2, 7, round);
        confirmations.answered(4, 7, round);
        assert!(!confirmed(&confirmations, round, &joint), "one of three in the second set");
        confirmations.answered(3, 7, round);
        assert!(confirmed(&confirmations, round, &joint));
    }
}
