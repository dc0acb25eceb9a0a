//! The only reader of wall time. Wall time is stamped on events for people; it never orders or decides anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A clock that tests and fault injection can shift.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    shift: Arc<Mutex<ClockShift>>,
}

/// The offset from the machine's clock. Locked only briefly.
#[derive(Clone, Copy, Debug, Default)]
struct ClockShift {
    offset_ms: i64,
    rate_ppm: i64,
    /// When the rate was set.
    since: Option<Instant>,
}

impl ClockShift {
    fn total_ms(&self) -> i64 {
        let gained = self.since.map_or(0, |since| {
            let micros = i128::try_from(since.elapsed().as_micros()).unwrap_or(i128::MAX);
            micros.saturating_mul(self.rate_ppm.into()) / 1_000_000_000
        });
        self.offset_ms.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
    }
}

impl Clock {
    /// Milliseconds since 1970.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where wall time enters")]
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        now.saturating_add(self.shift().total_ms())
    }

    /// Shifts this clock by `offset` milliseconds from the machine's clock.
    pub fn set_offset_ms(&self, offset: i64) {
        self.shift().offset_ms = offset;
    }

    /// Lets this clock gain `rate` microseconds per second on the machine's clock from now on, or lose them if
    /// negative. Setting the current rate again changes nothing. A rate of 0 also discards what was gained.
    pub fn set_rate_ppm(&self, rate: i64) {
        let mut shift = self.shift();
        if shift.rate_ppm != rate {
            (shift.rate_ppm, shift.since) = (rate, (rate != 0).then(Instant::now));
        }
    }

    fn shift(&self) -> std::sync::MutexGuard<'_, ClockShift> {
        // Plain numbers: they are consistent even after a panic.
        self.shift.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_shifts_the_clock_and_zero_discards_the_shift() {
        let clock = Clock::default();
        clock.set_offset_ms(-500);
        clock.set_rate_ppm(500_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        // A controller sets the same rate again: the shift does not restart.
        clock.set_rate_ppm(500_000);
        assert_eq!(clock.shift().total_ms(), 5_000 - 500);
        clock.set_rate_ppm(-100_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(clock.shift().total_ms(), -1_000 - 500);
        clock.set_rate_ppm(0);
        clock.set_offset_ms(0);
        assert_eq!(clock.shift().total_ms(), 0);
    }
}
