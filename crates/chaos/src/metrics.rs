//! Every metric of a controller. Labels are few and bounded: faults, the cluster's nodes, the known experiments, outcomes,
//! properties.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conclave_check::Property;
use conclave_telemetry::metrics::{Exposition, Maker};
use prometheus::{Gauge, Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use crate::events::{Ending, Event, Observer, Outcome, Sent};
use crate::experiment::Experiment;
use crate::fault::Fault;
use crate::journal::Applied;

/// Buckets for the time from when a send was due to its ack, seconds; long enough to show an outage.
const SEND: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets for the recovery time, seconds.
const RECOVERY: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];
/// The outcomes of applying and healing a fault.
const OUTCOMES: [&str; 4] = ["applied", "not_applied", "healed", "not_healed"];

/// The metrics of one controller.
#[derive(Debug)]
pub struct Metrics {
    exposition: Exposition,
    /// The faults that are in force, or may be, by number: two faults of one name may be in force at one node.
    open: Mutex<BTreeMap<u64, Applied>>,
    fault_active: IntGaugeVec,
    faults: IntCounterVec,
    runs: IntCounterVec,
    run_active: IntGaugeVec,
    steady: IntGauge,
    acked_rate: Gauge,
    sends: IntCounterVec,
    send_seconds: Histogram,
    longest_gap: Gauge,
    recovery: Histogram,
    violations: IntCounterVec,
    schedule_halted: IntGauge,
}

impl Metrics {
    /// All metrics, at zero: a series that appears only with its first event would show no increase. `experiments` are all that may
    /// be run.
    #[must_use]
    pub fn new<'a>(experiments: impl IntoIterator<Item = &'a Experiment>) -> Self {
        let make = Maker::new();
        make.gauges("conclave_chaos_build_info", "Version; always 1.", &["version"])
            .with_label_values(&[conclave_client::VERSION])
            .set(1);
        let fault_active = make.gauges(
            "conclave_chaos_fault_active",
            "1 while a fault is in force at a node, or may be.",
            &["fault", "node"],
        );
        let faults =
            make.counters("conclave_chaos_faults_total", "Faults, by outcome.", &["fault", "outcome"]);
        let runs = make.counters(
            "conclave_chaos_runs_total",
            "Runs that ended, by their verdict.",
            &["experiment", "verdict"],
        );
        let run_active =
            make.gauges("conclave_chaos_run_active", "1 while the experiment runs.", &["experiment"]);
        for experiment in experiments {
            let name = experiment.name.as_str();
            run_active.with_label_values(&[name]).set(0);
            for outcome in Outcome::ALL {
                runs.with_label_values(&[name, outcome.name()]);
            }
            for (step, outcome) in
                experiment.method.iter().flat_map(|step| OUTCOMES.map(|outcome| (step, outcome)))
            {
                faults.with_label_values(&[step.fault.name(), outcome]);
            }
        }
        let properties: Vec<&str> = Property::every().map(Property::name).collect();
        Self {
            fault_active,
            faults,
            runs,
            run_active,
            steady: make.gauge("conclave_chaos_steady", "1 while a run's clients see the steady state."),
            acked_rate: make.number(
                "conclave_chaos_acked_rate",
                "Acks a second that a run's clients get, over the last 3 seconds.",
            ),
            sends: make.counters_of(
                "conclave_chaos_sends_total",
                "Sends of the runs' clients, by outcome.",
                "outcome",
                &Sent::ALL.map(Sent::name),
            ),
            send_seconds: make.histogram(
                "conclave_chaos_send_seconds",
                "Time from when a send of a run's client was due to its ack.",
                SEND,
            ),
            longest_gap: make.number(
                "conclave_chaos_longest_gap_seconds",
                "The longest time without an ack in the current or last run.",
            ),
            recovery: make.histogram(
                "conclave_chaos_recovery_seconds",
                "Time from when all faults were healed until the cluster had recovered.",
                RECOVERY,
            ),
            violations: make.counters_of(
                "conclave_chaos_violations_total",
                "Broken promises, by property.",
                "property",
                &properties,
            ),
            schedule_halted: make
                .gauge("conclave_chaos_schedule_halted", "1 since a broken promise halted the schedule."),
            open: Mutex::default(),
            exposition: make.finish(),
        }
    }

    /// Counts the open faults of an earlier controller as active.
    pub fn add_open_faults(&self, open: &[Applied]) {
        open.iter().for_each(|fault| self.set_active(fault, true));
    }

    /// Whether the schedule is halted.
    pub fn set_halted(&self, is_halted: bool) {
        self.schedule_halted.set(is_halted.into());
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.exposition.render()
    }

    /// Sets whether a fault is active.
    fn set_active(&self, fault: &Applied, is_active: bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if is_active {
            open.insert(fault.id, fault.clone());
        } else {
            open.remove(&fault.id);
        }
        let name = fault.fault.name();
        for node in &fault.nodes {
            let still = open.values().any(|one| one.fault.name() == name && one.nodes.contains(node));
            self.fault_active.with_label_values(&[name, node]).set(still.into());
        }
    }

    fn count(&self, fault: &Fault, outcome: &str) {
        self.faults.with_label_values(&[fault.name(), outcome]).inc();
    }

    fn ended(&self, ending: &Ending) {
        self.runs.with_label_values(&[&ending.experiment, ending.outcome.name()]).inc();
        self.run_active.with_label_values(&[&ending.experiment]).set(0);
        self.steady.set(0);
        self.acked_rate.set(0.0);
        for (property, times) in &ending.violations {
            self.violations.with_label_values(&[property.name()]).inc_by(*times);
        }
        if let Some(gap) = ending.longest_gap {
            self.longest_gap.set(gap.as_secs_f64());
        }
    }
}

impl Observer for Metrics {
    fn event(&self, event: &Event) {
        match event {
            Event::Began { experiment, .. } => {
                self.run_active.with_label_values(&[experiment]).set(1);
                self.longest_gap.set(0.0);
            }
            Event::Steady(_) => self.steady.set(1),
            Event::Unsteady(_) => self.steady.set(0),
            Event::Pace { rate, longest_gap, .. } => {
                self.acked_rate.set(*rate);
                self.longest_gap.set(longest_gap.as_secs_f64());
            }
            Event::Applied(fault) => {
                self.count(&fault.fault, "applied");
                self.set_active(fault, true);
            }
            Event::NotApplied { fault, .. } => self.count(fault, "not_applied"),
            Event::Healed(fault) => {
                self.count(&fault.fault, "healed");
                self.set_active(fault, false);
            }
            Event::NotHealed { fault, .. } => {
                self.count(&fault.fault, "not_healed");
                self.set_active(fault, true);
            }
            Event::Recovered(Some(after)) => self.recovery.observe(after.as_secs_f64()),
            Event::Ended(ending) => self.ended(ending),
            Event::Settling
            | Event::LeftOut { .. }
            | Event::Recovering
            | Event::Recovered(None)
            | Event::Judging => {}
        }
    }

    fn sent(&self, outcome: Sent, took: Duration) {
        self.sends.with_label_values(&[outcome.name()]).inc();
        if outcome == Sent::Ok {
            self.send_seconds.observe(took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new([
            &Experiment::parse("{name: smoke, proves: y, method: [{at: 5s, fault: pause}]}").unwrap()
        ])
    }

    fn pause(id: u64) -> Applied {
        Applied { id, fault: Fault::Pause, nodes: vec!["n1".to_owned()], all: vec!["n1".to_owned()] }
    }

    #[test]
    fn a_fault_is_active_until_it_is_healed() {
        let metrics = metrics();
        let shows = |line: &str| assert!(metrics.render().contains(line), "{line}\n{}", metrics.render());
        shows("conclave_chaos_faults_total{fault=\"pause\",outcome=\"applied\"} 0");
        metrics.event(&Event::Applied(pause(1)));
        shows("conclave_chaos_fault_active{fault=\"pause\",node=\"n1\"} 1");
        shows("conclave_chaos_faults_total{fault=\"pause\",outcome=\"applied\"} 1");
        metrics.event(&Event::NotHealed { fault: pause(1), why: "it is gone".to_owned() });
        shows("conclave_chaos_fault_active{fault=\"pause\",node=\"n1\"} 1");
        metrics.event(&Event::Healed(pause(1)));
        shows("conclave_chaos_fault_active{fault=\"pause\",node=\"n1\"} 0");
        metrics.add_open_faults(&[pause(1), pause(2)]);
        shows("conclave_chaos_fault_active{fault=\"pause\",node=\"n1\"} 1");
        metrics.event(&Event::Healed(pause(1)));
        shows("conclave_chaos_fault_active{fault=\"pause\",node=\"n1\"} 1");
        metrics.event(&Event::Healed(pause(2)));
        shows("conclave_chaos_fault_active{fault=\"pause\",node=\"n1\"} 0");
    }

    #[test]
    fn a_run_is_counted_by_verdict_and_its_violations_by_property() {
        let metrics = metrics();
        let shows = |line: &str| assert!(metrics.render().contains(line), "{line}\n{}", metrics.render());
        shows("conclave_chaos_runs_total{experiment=\"smoke\",verdict=\"violated\"} 0");
        shows("conclave_chaos_violations_total{property=\"no_gap\"} 0");
        metrics.event(&Event::Began {
            id: "1".to_owned(),
            experiment: "smoke".to_owned(),
            seed: 1,
            lasts: Duration::from_secs(60),
            backend: "a test",
        });
        shows("conclave_chaos_run_active{experiment=\"smoke\"} 1");
        metrics.sent(Sent::Ok, Duration::from_millis(3));
        metrics.sent(Sent::Unknown, Duration::from_secs(3));
        shows("conclave_chaos_sends_total{outcome=\"unknown\"} 1");
        shows("conclave_chaos_send_seconds_count 1");
        let gap = Some(Duration::from_millis(1_500));
        metrics.event(&Event::Ended(Ending {
            id: "1".to_owned(),
            experiment: "smoke".to_owned(),
            outcome: Outcome::Violated,
            why: Vec::new(),
            violations: vec![(Property::NoGap, 3)],
            longest_gap: gap,
        }));
        shows("conclave_chaos_run_active{experiment=\"smoke\"} 0");
        shows("conclave_chaos_runs_total{experiment=\"smoke\",verdict=\"violated\"} 1");
        shows("conclave_chaos_violations_total{property=\"no_gap\"} 3");
        shows("conclave_chaos_longest_gap_seconds 1.5");
    }
}
