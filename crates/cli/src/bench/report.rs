//! Records and reports latencies.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::output;
use crate::settings::Settings;
use crate::view::text::grouped;

/// The latencies of one connection.
#[derive(Debug)]
pub(crate) struct Recorder {
    latencies: Mutex<Histogram<u64>>,
    count: AtomicU64,
    errors: AtomicU64,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { latencies: Mutex::new(histogram()), count: AtomicU64::new(0), errors: AtomicU64::new(0) }
    }

    /// Records a latency if `measured`; otherwise only counts it for the progress line.
    pub(crate) fn took(&self, took: Duration, measured: bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if measured {
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Counts a failed send.
    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of all latencies, measured or not.
    pub(crate) fn counted(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// A histogram from 1 µs to a minute with three significant digits, in nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1_000, 60_000_000_000, 3)
        .unwrap_or_else(|_| Histogram::new(3).expect("three digits are allowed"));
    histogram.auto(true);
    histogram
}

/// The latencies of all recorders together.
pub(crate) fn merged<'a>(recorders: impl IntoIterator<Item = &'a Recorder>) -> Histogram<u64> {
    let mut all = histogram();
    for recorder in recorders {
        let latencies = recorder.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        // `add` fails only for a value out of bounds, and all histograms here have the same bounds.
        let _ = all.add(&*latencies);
    }
    all
}

/// A summary of latencies, in microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(histogram.max()),
        }
    }

    /// The summary as one line.
    pub(crate) fn line(&self) -> String {
        let values = [self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us].map(millis);
        let [p50, p90, p99, p999, max] = values;
        format!("p50 {p50}   p90 {p90}   p99 {p99}   p99.9 {p999}   max {max}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a latency of more than 104 days would lose a nanosecond")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

/// Microseconds as milliseconds with suitable digits.
pub(crate) fn millis(micros: f64) -> String {
    let millis = micros / 1_000.0;
    match millis {
        ..10.0 => format!("{millis:.2} ms"),
        ..100.0 => format!("{millis:.1} ms"),
        _ => format!("{millis:.0} ms"),
    }
}

/// Events per second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shown without decimals; counts and times are not negative"
)]
pub(crate) fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64().max(0.001)).round() as u64
}

/// Prints a progress line per second on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    quiet: bool,
    what: &'static str,
    begun: Instant,
    last: (Instant, u64),
}

impl Progress {
    pub(crate) fn new(settings: &Settings, what: &'static str) -> Self {
        let now = Instant::now();
        Self { quiet: settings.quiet, what, begun: now, last: (now, 0) }
    }

    /// Waits until `end`, and prints the progress of `count`.
    pub(crate) async fn until(&mut self, end: Instant, phase: &str, count: impl Fn() -> u64) {
        while Instant::now() < end {
            let next = (self.last.0 + Duration::from_secs(1)).min(end);
            tokio::time::sleep_until(next.into()).await;
            self.show(phase, count());
        }
    }

    fn show(&mut self, phase: &str, count: u64) {
        let now = Instant::now();
        let rate = per_second(count - self.last.1, now - self.last.0);
        self.last = (now, count);
        let seconds = self.begun.elapsed().as_secs_f64();
        output::note(self.quiet, &format!("{seconds:5.1} s  {:>9} {}/s  {phase}", grouped(rate), self.what));
    }
}

/// Prints the table, or the JSON object.
pub(crate) fn print<T: Serialize>(
    settings: &Settings,
    json: &T,
    rows: &[(&str, String)],
) -> anyhow::Result<()> {
    if settings.json {
        return output::json(json);
    }
    if std::io::stdout().is_terminal() {
        output::line("")?;
    }
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        output::line(&format!("{name:<widest$}  {value}"))?;
    }
    Ok(())
}
