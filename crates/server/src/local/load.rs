//! How busy this node is: processor time, the queue of proposals, and the latency of sends.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{LOAD_SAMPLES, PROPOSAL_QUEUE_MAX, SEND_P99_MAX};
use crate::metrics::recent_p99_us;

/// From this load on, in permille, a node is busy, if other nodes are less busy.
const BUSY_PERMILLE: u32 = 800;
/// How much less busy the least busy node must be, in permille.
const LESS_BUSY_PERMILLE: u32 = 200;
/// The weight changes only when it differs by more than this from the ideal weight. Above half a step, so that a load
/// on the border of two steps does not make it flap.
const WEIGHT_SLACK: u32 = 6;

/// The recent load of a node, apart from the number of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// The share of all processors that the process used, in permille: 1,000 is all of them.
    pub(crate) cpu_permille: u32,
    /// Commands waiting to be proposed.
    pub(crate) queued: u32,
    /// The 99th percentile of the latency of acked sends, in microseconds.
    pub(crate) send_p99_us: u32,
}

impl Load {
    /// The maximum of the parts, in permille: 0 is idle, 1,000 is at the limit.
    pub(crate) fn work(self) -> u32 {
        let queued = permille(self.queued.into(), PROPOSAL_QUEUE_MAX as u64);
        let send =
            permille(self.send_p99_us.into(), u64::try_from(SEND_P99_MAX.as_micros()).unwrap_or(u64::MAX));
        self.cpu_permille.min(1_000).max(queued).max(send)
    }

    /// The maximum of the load and of the share of clients, in permille.
    pub(crate) fn score(self, clients: u32, clients_max: u32) -> u32 {
        self.work().max(permille(clients.into(), clients_max.into()))
    }
}

/// `part` of `whole` in permille, at most 1,000.
pub(crate) fn permille(part: u64, whole: u64) -> u32 {
    let share = part.saturating_mul(1_000).checked_div(whole).unwrap_or(0).min(1_000);
    u32::try_from(share).unwrap_or(1_000)
}

/// Whether a node with a load of `work` should get no more clients, when the least busy node has a load of `least`.
pub(crate) fn is_busy(work: u32, least: u32) -> bool {
    work >= BUSY_PERMILLE && work >= least.saturating_add(LESS_BUSY_PERMILLE)
}

/// A node's weight for new clients compared with other nodes: 10 to 100 in steps of 10. The weight stays at `before`
/// while that still nearly fits.
pub(crate) fn weight(before: u32, score_permille: u32) -> u32 {
    let exact = 100_u32.saturating_sub(score_permille / 10).clamp(10, 100);
    if before.is_multiple_of(10) && (10..=100).contains(&before) && before.abs_diff(exact) <= WEIGHT_SLACK {
        return before;
    }
    (exact + 5) / 10 * 10
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// Processor time of the process since its start.
    pub(crate) cpu: Duration,
    pub(crate) queued: u64,
    /// Sends acked since the start, by latency bucket.
    pub(crate) sends: Vec<u64>,
}

/// The most recent samples.
#[derive(Debug, Default)]
pub(crate) struct Window(VecDeque<Sample>);

impl Window {
    pub(crate) fn add(&mut self, sample: Sample) {
        if self.0.len() > LOAD_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(crate) fn load(&self, processors: u32) -> Load {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else { return Load::default() };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let passed = micros(last.at.saturating_duration_since(first.at)).saturating_mul(processors.into());
        let queued = self.0.iter().map(|sample| sample.queued).sum::<u64>() / self.0.len() as u64;
        Load {
            cpu_permille: permille(micros(last.cpu.saturating_sub(first.cpu)), passed),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
            send_p99_us: recent_p99_us(&first.sends, &last.sends),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn the_load_is_the_highest_of_its_parts() {
        let load = Load { cpu_permille: 300, queued: 0, send_p99_us: 0 };
        assert_eq!((load.work(), load.score(10, 100), load.score(90, 100)), (300, 300, 900));
        assert_eq!(load.score(0, 0), 300, "no maximum is no limit");
        let load = Load { cpu_permille: 1_700, queued: u32::MAX, send_p99_us: 500_000 };
        assert_eq!(load.work(), 1_000);
        assert_eq!(Load { send_p99_us: 500_000, ..Load::default() }.work(), 500);
    }

    #[test]
    fn being_busy_depends_on_the_other_nodes() {
        assert!(is_busy(900, 100) && !is_busy(900, 800) && !is_busy(700, 0));
    }

    #[test]
    fn the_weight_changes_in_steps_and_does_not_flap() {
        assert_eq!(weight(0, 0), 100, "the first one");
        let mut weights = vec![100];
        for score in [20, 60, 70, 40, 30, 100, 440, 460, 440, 450, 390, 999, 1_000, 5_000, 0] {
            weights.push(weight(*weights.last().unwrap(), score));
        }
        assert_eq!(weights, [100, 100, 100, 90, 90, 100, 90, 60, 60, 60, 60, 60, 10, 10, 10, 100]);
        for before in 0..=1_000 {
            for score in 0..=1_100 {
                let weight = weight(before, score);
                assert!(weight.is_multiple_of(10) && (10..=100).contains(&weight));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_forgets_old_samples() {
        let metrics = Metrics::new("n1", "test");
        let mut window = Window::default();
        let second = |at: u64, cpu_ms: u64, queued| Sample {
            at: Instant::now() + Duration::from_secs(at),
            cpu: Duration::from_millis(cpu_ms),
            queued,
            sends: metrics.sends_by_duration(),
        };
        assert_eq!(window.load(2), Load::default());
        window.add(second(0, 0, 100));
        metrics.send_duration.observe(0.9);
        window.add(second(1, 1_000, 0));
        let load = window.load(2);
        assert_eq!(load, Load { cpu_permille: 500, queued: 50, send_p99_us: 1_000_000 });
        for at in 2..=20 {
            window.add(second(at, 1_000, 0));
        }
        assert_eq!(window.load(2), Load::default());
    }
}
