//! The clients' view of a run: acks, gaps and visits, as the report and the steady state need them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::events::{Observer, Sent};

/// The most acks that a report draws. At this number, every second sample is dropped, and from then on only every second
/// ack is kept.
const SAMPLES_MAX: usize = 200_000;

/// One ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// When the ack came, on the run's clock, microseconds.
    pub at_us: u64,
    /// Time from when the send was due to its ack, microseconds.
    pub latency_us: u64,
}

/// The clients' view of a run, shared by all clients.
pub struct ClientView {
    began: Instant,
    acks: Mutex<Acks>,
    observer: Arc<dyn Observer>,
    /// Acks of repeated requests that had been committed before.
    pub(crate) duplicates: AtomicU64,
    /// How often a subscription moved to another node.
    pub(crate) moves: AtomicU64,
    /// Completed visits: arrival and end, microseconds.
    visits: Mutex<Vec<(u64, u64)>>,
    /// By server: when it acked clients that are pinned to it, microseconds.
    sides: Mutex<BTreeMap<String, Vec<u64>>>,
}

impl std::fmt::Debug for ClientView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientView").field("acked", &self.acked_count()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Acks {
    samples: Vec<Sample>,
    /// One of this many acks becomes a sample.
    every: u64,
    count: u64,
    last_us: u64,
    /// The longest gap since the first fault: from, to.
    longest: (u64, u64),
    /// Gaps of at least [`GAP_MIN_US`]: from, to.
    gaps: Vec<(u64, u64)>,
    /// All acks of the last [`RECENT_US`].
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

    /// The gaps that a report shows, up to now.
    fn gaps(&self, now_us: u64) -> Vec<(u64, u64)> {
        let mut gaps = self.gaps.clone();
        if now_us.saturating_sub(self.last_us) >= GAP_MIN_US {
            gaps.push((self.last_us, now_us));
        }
        // However short the longest gap is: an experiment may demand an even shorter one.
        if (1..GAP_MIN_US).contains(&self.longest_us()) {
            gaps.push(self.longest);
        }
        gaps
    }
}

/// The shortest gap that is kept, microseconds.
const GAP_MIN_US: u64 = 100_000;
/// The most gaps that are kept: more than a run of a day with an outage every second has.
const GAPS_MAX: usize = 100_000;
/// Minimum spacing of the recorded acks of one server, microseconds. Shorter gaps of a side are not measured.
const SIDE_EVERY_US: u64 = 20_000;
/// The time over which the recent rate and latency are computed, microseconds.
const RECENT_US: u64 = 3_000_000;

impl ClientView {
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

    /// A send that was due at `due` ended without an ack.
    pub(super) fn given_up(&self, outcome: Sent, due: Instant) {
        self.observer.sent(outcome, due.elapsed());
    }

    /// A send that was due at `due` was acked.
    pub(super) fn acked(&self, due: Instant) {
        self.observer.sent(Sent::Ok, due.elapsed());
        let at_us = self.now_us();
        let latency_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).add(Sample { at_us, latency_us });
    }

    /// A server acked a client that is pinned to it.
    pub(super) fn acked_pinned(&self, node: &str) {
        let now = self.now_us();
        let mut sides = self.sides.lock().unwrap_or_else(PoisonError::into_inner);
        let acks = sides.entry(node.to_owned()).or_default();
        // The spacing is the bound: a run of a day, the longest, keeps about four million.
        if acks.last().is_none_or(|last| now >= last + SIDE_EVERY_US) {
            acks.push(now);
        }
    }

    /// A visitor that arrived at `came_us` has joined, sent and left.
    pub(super) fn visited(&self, came_us: u64) {
        let now = self.now_us();
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        if visits.len() < SAMPLES_MAX {
            visits.push((came_us, now));
        }
    }

    /// Completed visits: arrival and end, microseconds.
    #[must_use]
    pub fn visits(&self) -> Vec<(u64, u64)> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// By server: the sorted times of its acks to pinned clients, microseconds.
    #[must_use]
    pub fn pinned_acks(&self) -> BTreeMap<String, Vec<u64>> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of acks so far.
    #[must_use]
    pub fn acked_count(&self) -> u64 {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The longest gap so far, including the current one, microseconds.
    #[must_use]
    pub fn longest_gap_us(&self) -> u64 {
        let now = self.now_us();
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        if acks.count == 0 { 0 } else { acks.longest_us().max(now.saturating_sub(acks.last_us)) }
    }

    /// The first fault is about to be applied: earlier gaps no longer count for the longest one.
    pub(crate) fn reset_longest_gap(&self) {
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

    /// What a report draws: samples of acks, and the gaps of at least 100 ms, plus the longest gap however short.
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
    fn the_longest_gap_after_the_first_fault_is_reported_however_short() {
        let mut acks = Acks { every: 1, ..Acks::default() };
        for at_us in [2_000, 5_000, 45_000, 50_000] {
            acks.add(Sample { at_us, latency_us: 1_000 });
        }
        assert_eq!(acks.gaps(60_000), [(5_000, 45_000)]);
        acks.add(Sample { at_us: 250_000, latency_us: 1_000 });
        assert_eq!(acks.gaps(260_000), [(50_000, 250_000)]);
        assert_eq!(acks.gaps(400_000), [(50_000, 250_000), (250_000, 400_000)]);
        // A longer gap before the first fault must not hide the longest one after it.
        acks.longest = (0, 0);
        for at_us in [260_000, 300_000, 310_000] {
            acks.add(Sample { at_us, latency_us: 1_000 });
        }
        assert_eq!(acks.gaps(320_000), [(50_000, 250_000), (260_000, 300_000)]);
    }
}
