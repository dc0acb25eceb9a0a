//! What the clients of a workload saw, as a report and the steady state need it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::events::{Observer, Sent};

/// Acks that a report draws; of more, every second one is left out, again and again.
const SAMPLES_MAX: usize = 200_000;

/// One ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// When it came, on the run's clock, microseconds.
    pub at_us: u64,
    /// How long after the send was due.
    pub latency_us: u64,
}

/// What the clients saw, shared by all of them. Locked for moments.
pub struct Seen {
    began: Instant,
    acks: Mutex<Acks>,
    observer: Arc<dyn Observer>,
    /// Acks of requests that had been decided before.
    pub(crate) duplicates: AtomicU64,
    /// Subscriptions that went on at another node.
    pub(crate) moves: AtomicU64,
    /// When clients came anew, and when they had joined, spoken and left; microseconds.
    visits: Mutex<Vec<(u64, u64)>>,
    /// When each server acked somebody who speaks with it alone, by its name, microseconds.
    sides: Mutex<BTreeMap<String, Vec<u64>>>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").field("acked", &self.acked_count()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Acks {
    samples: Vec<Sample>,
    /// One of so many is kept.
    every: u64,
    count: u64,
    last_us: u64,
    /// The longest time between two acks since something was done first: from, to.
    longest: (u64, u64),
    /// The long times without an ack: from, to.
    gaps: Vec<(u64, u64)>,
    /// Of the last seconds, all.
    recent: VecDeque<Sample>,
}

impl Acks {
    fn longest_us(&self) -> u64 {
        self.longest.1 - self.longest.0
    }

    fn add(&mut self, sample: Sample) {
        let at_us = sample.at_us;
        let gap_us = at_us.saturating_sub(self.last_us);
        if self.count > 0 && gap_us > self.longest_us() {
            self.longest = (self.last_us, at_us);
        }
        if self.count > 0 && gap_us >= GAP_MIN_US && self.gaps.len() < GAPS_MAX {
            self.gaps.push((self.last_us, at_us));
        }
        self.last_us = self.last_us.max(at_us);
        self.recent.push_back(sample);
        while self.recent.front().is_some_and(|first| first.at_us + RECENT_US < at_us) {
            self.recent.pop_front();
        }
        if self.count.is_multiple_of(self.every) {
            self.samples.push(sample);
            if self.samples.len() >= SAMPLES_MAX {
                let mut odd = false;
                self.samples.retain(|_| {
                    odd = !odd;
                    odd
                });
                self.every *= 2;
            }
        }
        self.count += 1;
    }

    /// The times without an ack that a report shows, until now.
    fn gaps(&self, now_us: u64) -> Vec<(u64, u64)> {
        let mut gaps = self.gaps.clone();
        if now_us.saturating_sub(self.last_us) >= GAP_MIN_US {
            gaps.push((self.last_us, now_us));
        }
        // However short: an experiment may demand less than what is worth a line.
        if (1..GAP_MIN_US).contains(&self.longest_us()) {
            gaps.push(self.longest);
        }
        gaps
    }
}

/// Gaps that are kept: those of a hundred milliseconds and more.
const GAP_MIN_US: u64 = 100_000;
/// Gaps that are kept at most; a run of a day that stops every second has fewer.
const GAPS_MAX: usize = 100_000;
/// An ack of one server is kept if the one before it is so much older: nearer than that, how long a side was silent is not known.
const SIDE_EVERY_US: u64 = 20_000;
/// What counts as recent.
const RECENT_US: u64 = 3_000_000;

impl Seen {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            began: Instant::now(),
            observer,
            acks: Mutex::new(Acks { every: 1, ..Acks::default() }),
            duplicates: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            visits: Mutex::default(),
            sides: Mutex::default(),
        }
    }

    /// Microseconds since the workload began: the run's clock.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A send that was due then is not acked, and is not going to be.
    pub(super) fn given_up(&self, outcome: Sent, due: Instant) {
        self.observer.sent(outcome, due.elapsed());
    }

    pub(super) fn acked(&self, due: Instant) {
        self.observer.sent(Sent::Ok, due.elapsed());
        let at_us = self.now_us();
        let latency_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).add(Sample { at_us, latency_us });
    }

    /// A server acked somebody who speaks with it alone.
    pub(super) fn acked_at(&self, node: &str) {
        let now = self.now_us();
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        let acks = sides.entry(node.to_owned()).or_default();
        // Of a day, the longest that an experiment takes, these are four million: what is kept has a bound.
        if acks.last().is_none_or(|last| now >= last + SIDE_EVERY_US) {
            acks.push(now);
        }
    }

    /// Somebody who came then has joined, spoken and left.
    pub(super) fn visited(&self, came_us: u64) {
        let now = self.now_us();
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        if visits.len() < SAMPLES_MAX {
            visits.push((came_us, now));
        }
    }

    /// When clients came anew, and when they had joined, spoken and left; microseconds.
    #[must_use]
    pub fn visits(&self) -> Vec<(u64, u64)> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When each server acked those who speak with it alone, in order.
    #[must_use]
    pub fn sides(&self) -> BTreeMap<String, Vec<u64>> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Acks so far.
    #[must_use]
    pub fn acked_count(&self) -> u64 {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The longest time without an ack so far, the present one among them.
    #[must_use]
    pub fn longest_gap_us(&self) -> u64 {
        let now = self.now_us();
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        if acks.count == 0 { 0 } else { acks.longest_us().max(now.saturating_sub(acks.last_us)) }
    }

    /// Something is done to the cluster for the first time: the longest time without an ack is looked for from now on.
    pub(crate) fn begins(&self) {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).longest = (0, 0);
    }

    /// Acks a second and the 99th percentile of their latency, over the last three seconds.
    #[must_use]
    pub fn recent(&self) -> (f64, Duration) {
        let now = self.now_us();
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = acks.recent.iter().filter(|sample| sample.at_us + RECENT_US >= now);
        let mut latencies: Vec<u64> = fresh.map(|sample| sample.latency_us).collect();
        drop(acks);
        latencies.sort_unstable();
        let p99 = latencies.get((latencies.len() * 99 / 100).min(latencies.len().saturating_sub(1)));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = latencies.len() as f64 * 1e6 / RECENT_US as f64;
        (rate, Duration::from_micros(p99.copied().unwrap_or(0)))
    }

    /// What a report draws: acks, and the times of a hundred milliseconds and more without any, the longest in any case.
    #[must_use]
    pub fn samples(&self) -> (Vec<Sample>, Vec<(u64, u64)>) {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        (acks.samples.clone(), acks.gaps(self.now_us()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_without_an_ack_is_known_however_short() {
        let mut acks = Acks { every: 1, ..Acks::default() };
        for at_us in [2_000, 5_000, 45_000, 50_000] {
            acks.add(Sample { at_us, latency_us: 1_000 });
        }
        assert_eq!(acks.gaps(60_000), [(5_000, 45_000)]);
        acks.add(Sample { at_us: 250_000, latency_us: 1_000 });
        assert_eq!(acks.gaps(260_000), [(50_000, 250_000)]);
        assert_eq!(acks.gaps(400_000), [(50_000, 250_000), (250_000, 400_000)]);
        // What was before anything was done does not hide what came of it.
        acks.longest = (0, 0);
        for at_us in [260_000, 300_000, 310_000] {
            acks.add(Sample { at_us, latency_us: 1_000 });
        }
        assert_eq!(acks.gaps(320_000), [(50_000, 250_000), (260_000, 300_000)]);
    }
}
