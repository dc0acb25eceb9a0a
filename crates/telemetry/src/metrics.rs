//! Registers metrics as they are created, and renders them in Prometheus' text format.

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::log;
use crate::process::ProcessMetrics;

/// Registers metrics as they are created.
///
/// # Panics
/// Every method that creates a metric panics if its name or a label is malformed or already registered. Names are constants
/// in the code, so any test that creates the metrics finds such a mistake.
#[derive(Debug, Default)]
pub struct Maker(Registry);

impl Maker {
    /// Starts without metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers any metric.
    ///
    /// # Panics
    /// See [`Maker`].
    pub fn put<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("metric names are well formed");
        self.0.register(Box::new(metric.clone())).expect("metric names are unique");
        metric
    }

    /// An integer gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.put(IntGauge::new(name, help))
    }

    /// A floating-point gauge, for seconds and ratios.
    #[must_use]
    pub fn number(&self, name: &str, help: &str) -> Gauge {
        self.put(Gauge::new(name, help))
    }

    /// Integer gauges, one for each set of label values.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.put(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.put(IntCounter::new(name, help))
    }

    /// Counters, one for each set of label values. Each appears with its first event, so `rate` and `increase` miss
    /// that event: where the values are known beforehand, use [`Maker::counters_of`].
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.put(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Counters with one label, whose values all start at 0.
    #[must_use]
    pub fn counters_of(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let counters = self.counters(name, help, &[label]);
        values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
        counters
    }

    /// A histogram with these upper bounds of its buckets.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.put(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// Histograms with these upper bounds of their buckets, one for each set of label values.
    #[must_use]
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.put(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// Finishes registration. Adds the metrics of the process itself.
    #[must_use]
    pub fn finish(self) -> Exposition {
        let process = ProcessMetrics::register(&self);
        drop(self.put(Ok(log::dropped())));
        let runtime_tasks = self.gauge("conclave_runtime_tasks", "Tasks alive in the async runtime.");
        Exposition { registry: self.0, process, runtime_tasks }
    }
}

/// All metrics of a process, ready for scrapes.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    process: ProcessMetrics,
    runtime_tasks: IntGauge,
}

impl Exposition {
    /// All metrics in Prometheus' text format. Reads the process' own metrics first.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.refresh();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.runtime_tasks.set(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
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
    fn registered_metrics_are_rendered_with_those_of_the_process() {
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
        assert!(text.contains("\nconclave_runtime_tasks "), "{text}");
        assert!(text.contains("\nconclave_log_lines_dropped_total "), "{text}");
        if cfg!(target_os = "linux") {
            assert!(!text.contains("\nprocess_resident_memory_bytes 0\n"), "{text}");
            assert!(!text.contains("\nprocess_open_fds 0\n"), "{text}");
        }
    }

    #[test]
    #[should_panic(expected = "unique")]
    fn registering_a_name_twice_panics() {
        let make = Maker::new();
        drop(make.gauge("conclave_one", "One."));
        drop(make.counter("conclave_one", "One more."));
    }
}
