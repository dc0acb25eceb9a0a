//! How regularly the leader's messages arrive, and how long a follower waits for the next one before it stands for
//! election.
//!
//! On a machine that has too little processor time, heartbeats come late although nobody has failed. Elections by a fixed
//! timeout then change leaders for nothing, and the work for that makes the machine slower still. With
//! [`Timing::Auto`](crate::Timing::Auto) a follower waits three times as long as the longest gap of the last minute, within
//! bounds. The choice of timeouts by what was measured is that of accrual failure detectors (Hayashibara and others, 2004),
//! with a maximum in place of a distribution: gaps of a starved process have no distribution that lasts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{ELECTION_WAIT_MAX, ELECTION_WAIT_MIN};

/// The parts of the time in which the longest measurement is remembered.
const PARTS: usize = 6;
/// How long a part lasts.
const PART: Duration = Duration::from_secs(10);
/// The wait for a message from the leader, in gaps.
const GAPS_WAITED: u32 = 3;
/// The last rank of a follower: a shard has up to seven replicas.
const RANK_MAX: u32 = 5;

/// The longest of the measurements of the last minute.
#[derive(Debug, Default)]
pub(crate) struct LongestOfMinute {
    /// The newest part first.
    parts: [Duration; PARTS],
    /// When the newest part began.
    began: Option<Instant>,
}

impl LongestOfMinute {
    pub(crate) fn record(&mut self, measured: Duration, now: Instant) {
        self.forget_old(now);
        self.parts[0] = self.parts[0].max(measured);
    }

    pub(crate) fn longest(&mut self, now: Instant) -> Duration {
        self.forget_old(now);
        self.parts.iter().max().copied().unwrap_or_default()
    }

    fn forget_old(&mut self, now: Instant) {
        let mut began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= PART * u32::try_from(PARTS).unwrap_or(u32::MAX) {
            (self.parts, began) = ([Duration::ZERO; PARTS], now);
        }
        while now.saturating_duration_since(began) >= PART {
            self.parts.rotate_right(1);
            self.parts[0] = Duration::ZERO;
            began += PART;
        }
        self.began = Some(began);
    }
}

/// When a replica heard of its leader.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    term: u64,
    last: Option<Instant>,
    gaps: LongestOfMinute,
}

impl Heartbeats {
    /// The leader of a term said something.
    pub(crate) fn of_leader(&self, term: u64, now: Instant) {
        let mut heard = self.lock();
        if let Some(last) = heard.last
            && heard.term == term
        {
            heard.gaps.record(now.saturating_duration_since(last), now);
        }
        (heard.term, heard.last) = (term, Some(now));
    }

    /// This replica voted in a term for itself or for another node, which may lead soon.
    pub(crate) fn voted(&self, term: u64, now: Instant) {
        let mut heard = self.lock();
        if term > heard.term {
            (heard.term, heard.last) = (term, Some(now));
        }
    }

    /// The longest gap between two messages of the same leader in the last minute.
    pub(crate) fn longest_gap(&self, now: Instant) -> Duration {
        self.lock().gaps.longest(now)
    }

    /// How long this replica has heard nothing; since the node started if it never heard anything.
    pub(crate) fn silent_for(&self, started: Instant, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().last.unwrap_or(started))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a follower waits for a message from its leader. `irregular` is the longest gap between two messages, or stall of
/// this process, of the last minute. Followers wait differently long, by their rank, so that two of them do not stand for election
/// at the same time.
pub(crate) fn wait(irregular: Duration, rank: u32) -> Duration {
    let wait = irregular.saturating_mul(GAPS_WAITED).clamp(ELECTION_WAIT_MIN, ELECTION_WAIT_MAX);
    wait + wait / 4 * rank.min(RANK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_regular_leader_is_waited_for_as_short_as_possible_and_a_late_one_within_bounds() {
        for regular in [0, 25, 90] {
            assert_eq!(
                [0, 1, 2].map(|rank| wait(ms(regular), rank)),
                [1_100, 1_375, 1_650].map(|quarters| ms(quarters) / 4)
            );
        }
        assert_eq!([0, 1, 2].map(|rank| wait(ms(400), rank)), [ms(1_200), ms(1_500), ms(1_800)]);
        assert_eq!([0, 5, u32::MAX].map(|rank| wait(Duration::MAX, rank)), [ms(2_000), ms(4_500), ms(4_500)]);
    }

    #[test]
    fn the_longest_gap_of_the_last_minute_counts() {
        let began = Instant::now();
        let mut longest = LongestOfMinute::default();
        for (at, measured, expected) in [
            (0, 30, 30),
            (5, 400, 400),
            (20, 50, 400),
            (59, 20, 400),
            (65, 20, 50),
            (90, 10, 20),
            (1_000, 1, 1),
        ] {
            let now = began + Duration::from_secs(at);
            longest.record(ms(measured), now);
            assert_eq!(longest.longest(now), ms(expected), "after {at} s");
        }
        assert_eq!(longest.longest(began + Duration::from_secs(2_000)), Duration::ZERO);
    }

    #[test]
    fn the_time_without_a_leader_is_no_gap_between_messages_of_one_leader() {
        let began = Instant::now();
        let at = |after| began + ms(after);
        let heard = Heartbeats::default();
        assert_eq!(heard.silent_for(began, at(300)), ms(300));
        heard.of_leader(4, at(300));
        heard.of_leader(4, at(330));
        heard.voted(5, at(2_000));
        heard.voted(5, at(2_005));
        assert_eq!(heard.silent_for(began, at(2_010)), ms(10));
        heard.of_leader(5, at(2_050));
        heard.of_leader(6, at(4_000));
        assert_eq!(heard.longest_gap(at(4_000)), ms(50));
    }
}
