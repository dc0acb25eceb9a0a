//! Metrics that are registered as they are made, and Prometheus' text format of all of them.

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::process::ProcessMetrics;

/// Registers metrics as they are made.
///
/// # Panics
/// Every method that makes a metric panics on a name or label that is malformed, or is there already. Names are written in
/// the code, so whatever test makes the metrics once shows it.
#[derive(Debug, Default)]
pub struct Maker(Registry);

impl Maker {
    /// Without any metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Any metric.
    ///
    /// # Panics
    /// See [`Maker`].
    pub fn put<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("metric names are well formed");
        self.0.register(Box::new(metric.clone())).expect("metric names are unique");
        metric
    }

    /// A gauge of whole numbers.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.put(IntGauge::new(name, help))
    }

    /// A gauge of seconds, ratios and the like.
    #[must_use]
    pub fn number(&self, name: &str, help: &str) -> Gauge {
        self.put(Gauge::new(name, help))
    }

    /// Gauges of whole numbers, one for each set of labels.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.put(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.put(IntCounter::new(name, help))
    }

    /// Counters, one for each set of labels. Each appears with its first event, which therefore shows no increase: where
    /// the values are known beforehand, [`Maker::counters_of`] is better.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.put(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Counters by one label, all of whose values are there from the start.
    #[must_use]
    pub fn counters_of(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let counters = self.counters(name, help, &[label]);
        values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
        counters
    }

    /// A histogram with the upper ends of its buckets.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.put(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// Histograms with the upper ends of their buckets, one for each set of labels.
    #[must_use]
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.put(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// All that was made, and the process' own metrics.
    #[must_use]
    pub fn finish(self) -> Exposition {
        let process = ProcessMetrics::register(&self);
        let alive_tasks = self.gauge("conclave_alive_tasks", "Tasks of the runtime.");
        Exposition { registry: self.0, process, alive_tasks }
    }
}

/// The metrics of a process, as Prometheus reads them.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    process: ProcessMetrics,
    alive_tasks: IntGauge,
}

impl Exposition {
    /// All metrics in Prometheus' text format, with the process' own as they are now.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.refresh();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.alive_tasks.set(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
        }
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8(out).unwrap_or_default(),
            Err(error) => format!("# metrics cannot be rendered: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_rendered_with_the_process() {
        let make = Maker::new();
        make.gauge("conclave_one", "One.").set(1);
        let outcomes = make.counters_of("conclave_two_total", "Two.", "outcome", &["ok", "failed"]);
        outcomes.with_label_values(&["ok"]).inc();
        make.histogram("conclave_three_seconds", "Three.", &[0.1, 1.0]).observe(0.5);
        let text = make.finish().render();
        assert!(text.contains("\nconclave_one 1\n"), "{text}");
        assert!(text.contains("conclave_two_total{outcome=\"failed\"} 0"), "{text}");
        assert!(text.contains("conclave_two_total{outcome=\"ok\"} 1"), "{text}");
        assert!(text.contains("conclave_three_seconds_bucket{le=\"0.1\"} 0"), "{text}");
        assert!(text.contains("conclave_three_seconds_bucket{le=\"1\"} 1"), "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        assert!(text.contains("\nconclave_alive_tasks "), "{text}");
        if cfg!(target_os = "linux") {
            assert!(!text.contains("\nprocess_resident_memory_bytes 0\n"), "{text}");
            assert!(!text.contains("\nprocess_open_fds 0\n"), "{text}");
        }
    }

    #[test]
    #[should_panic(expected = "unique")]
    fn a_name_that_is_used_twice_is_noticed() {
        let make = Maker::new();
        drop(make.gauge("conclave_one", "One."));
        drop(make.counter("conclave_one", "One more."));
    }
}
