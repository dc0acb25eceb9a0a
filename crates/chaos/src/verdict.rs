//! The verdict on a run: the judge's report, and the experiment's expectations.

use std::collections::BTreeSet;
use std::time::Duration;

use conclave_check::{Outcome, Report};
use serde::{Deserialize, Serialize};

use crate::events::{self, Ending};
use crate::experiment::{Experiment, Sometimes};
use crate::fault::Fault;
use crate::server_states::ServerStateChange;
use crate::sides::Side;
use crate::time::show;
use crate::workload::Sample;

/// A fault and when it was in force, on the run's clock.
#[derive(Clone, Debug, Serialize)]
pub struct Band {
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
    /// Its targets.
    pub nodes: Vec<String>,
    /// Whether one of the targets led a shard.
    pub leads: bool,
    /// When it was applied, microseconds.
    pub from_us: u64,
    /// When it was healed, microseconds; `None` means the end of the run.
    pub to_us: Option<u64>,
}

/// What was observed in a run, beside the history.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// The faults.
    pub bands: Vec<Band>,
    /// Acks; every second one is left out, repeatedly, of a run with very many.
    pub samples: Vec<Sample>,
    /// Times without an ack: from, to; microseconds.
    pub gaps: Vec<(u64, u64)>,
    /// Changes of the servers' states.
    pub changes: Vec<ServerStateChange>,
    /// Which of the conditions that may be demanded happened at least once.
    pub sometimes: BTreeSet<Sometimes>,
    /// What clients could not finish although all faults were healed; one sentence each.
    pub undone: Vec<String>,
    /// Acks and gaps of each side of each partition.
    pub sides: Vec<Side>,
    /// How long the cluster took to recover; `None` if it did not in time.
    pub recovered: Option<Duration>,
}

/// A verdict in one word. It decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sum {
    /// Every promise held, and the run tested everything that it was meant to test.
    Passed,
    /// A promise or an expectation was broken.
    Violated,
    /// Nothing was broken, but too little was tested.
    TooLittle,
}

impl From<Sum> for events::Outcome {
    fn from(sum: Sum) -> Self {
        match sum {
            Sum::Passed => Self::Passed,
            Sum::Violated => Self::Violated,
            Sum::TooLittle => Self::TooLittle,
        }
    }
}

impl Sum {
    /// See [`Verdict::exit_code`].
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Violated => 1,
            Self::TooLittle => 2,
        }
    }
}

/// The verdict on a run.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The experiment.
    pub experiment: Experiment,
    /// The seed; it reproduces the schedule of faults.
    pub seed: u64,
    /// The backend's name.
    pub backend: &'static str,
    /// The version of conclave-chaos.
    pub version: &'static str,
    /// The verdict in one word.
    pub sum: Sum,
    /// Everything that is wrong; one sentence each.
    pub wrong: Vec<String>,
    /// Everything that should have been tested and was not; one sentence each.
    pub missing: Vec<String>,
    /// The judge's report.
    pub report: Report,
    /// What was observed beside the history.
    pub facts: Facts,
}

impl Verdict {
    /// The verdict that follows from the judge's report and the experiment's expectations.
    #[must_use]
    pub fn new(
        experiment: &Experiment,
        seed: u64,
        backend: &'static str,
        report: Report,
        facts: Facts,
    ) -> Self {
        let mut wrong = Vec::new();
        let mut missing = report.too_little.clone();
        for finding in report.findings.iter().filter(|finding| finding.violations > 0) {
            let witness = finding.witness.as_ref().map_or("", |witness| witness.sentence.as_str());
            wrong.push(format!(
                "{:?} violated {} times; for example: {witness}",
                finding.property, finding.violations
            ));
        }
        let longest = longest_gap(&facts);
        if let Some(most) = experiment.expect.longest_gap
            && longest > most.0
        {
            let most = show(most.0);
            wrong.push(format!(
                "nothing was acked for {} ms, which may be at most {most}",
                longest.as_millis()
            ));
        }
        if let Some(least) = experiment.expect.shortest_outage
            && longest < least.0
        {
            let least = show(least.0);
            wrong.push(format!(
                "the longest time without an ack was {} ms; without a majority it must be at least {least}",
                longest.as_millis()
            ));
        }
        if let Some(most) = experiment.expect.majority_gap {
            let most_us = u64::try_from(most.0.as_micros()).unwrap_or(u64::MAX);
            for side in facts.sides.iter().filter(|side| side.majority && side.longest_gap_us > most_us) {
                wrong.push(format!(
                    "{}, the majority side of a partition, acked nothing for {} ms to the clients pinned to them, which may be at most {}",
                    side.nodes.join(" and "),
                    side.longest_gap_us / 1_000,
                    show(most.0)
                ));
            }
        }
        if facts.recovered.is_none() {
            wrong.push(format!(
                "the cluster had not recovered {} after all faults were healed",
                show(experiment.recover)
            ));
        }
        wrong.extend(facts.undone.iter().cloned());
        for what in experiment.expect.sometimes.iter().filter(|what| !facts.sometimes.contains(what)) {
            missing.push(format!("never happened: {what:?}"));
        }
        if facts.bands.is_empty() {
            missing.push("no fault was applied".to_owned());
        }
        let sum = if !wrong.is_empty() || report.outcome == Outcome::Violated {
            Sum::Violated
        } else if !missing.is_empty() || report.outcome == Outcome::TooLittle {
            Sum::TooLittle
        } else {
            Sum::Passed
        };
        let (experiment, version) = (experiment.clone(), conclave_client::VERSION);
        Self { experiment, seed, backend, version, sum, wrong, missing, report, facts }
    }

    /// The longest time without an ack that ends after the first fault began.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        longest_gap(&self.facts)
    }

    /// How the run with this verdict ended.
    #[must_use]
    pub fn ending(&self, run: &str) -> Ending {
        let broken = self.report.findings.iter().filter(|finding| finding.violations > 0);
        Ending {
            id: run.to_owned(),
            experiment: self.experiment.name.clone(),
            outcome: self.sum.into(),
            why: self.wrong.iter().chain(&self.missing).cloned().collect(),
            violations: broken.map(|finding| (finding.property, finding.violations)).collect(),
            longest_gap: Some(self.longest_gap()),
        }
    }

    /// 0 passed, 1 violated, 2 tested too little. (3 is for runs without a verdict.)
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.sum.exit_code()
    }
}

fn longest_gap(facts: &Facts) -> Duration {
    longest(facts.bands.iter().map(|band| band.from_us), &facts.gaps)
}

/// The longest of the gaps (from, to) that end at or after the earliest of the beginnings, microseconds.
pub(crate) fn longest(beginnings: impl Iterator<Item = u64>, gaps: &[(u64, u64)]) -> Duration {
    let first = beginnings.min().unwrap_or(0);
    let gaps = gaps.iter().filter(|(_, to)| *to >= first);
    Duration::from_micros(gaps.map(|(from, to)| to.saturating_sub(*from)).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use conclave_check::{Event, History, Options};

    use super::*;

    fn report(broken: bool) -> Report {
        let history = History::in_memory();
        history.invoke(5, 1, 1, "hello");
        history.ok(5, 1, 1, 2);
        history.invoke(5, 1, 2, "again");
        history.ok(5, 1, 2, 3);
        let mut events = vec![Event::created(1), Event::message(2, 5, 1, "hello")];
        if !broken {
            events.push(Event::message(3, 5, 2, "again"));
        }
        history.final_read("n1", 1, 0, events.clone());
        history.final_read("n2", 1, 0, events);
        history.check(&Options::default()).unwrap()
    }

    fn facts() -> Facts {
        let band = Band {
            fault: Fault::Kill,
            nodes: vec!["a".to_owned()],
            leads: true,
            from_us: 1_000_000,
            to_us: Some(2_000_000),
        };
        Facts {
            bands: vec![band],
            gaps: vec![(0, 500_000), (1_000_000, 1_400_000)],
            sometimes: [Sometimes::LeaderChanged].into(),
            recovered: Some(Duration::from_secs(1)),
            ..Facts::default()
        }
    }

    fn verdict(expect: &str, broken: bool, facts: Facts) -> Verdict {
        let text = format!("{{name: x, proves: y, method: [{{at: 5s, fault: kill}}], expect: {expect}}}");
        Verdict::new(&Experiment::parse(&text).unwrap(), 7, "a test", report(broken), facts)
    }

    #[test]
    fn every_broken_expectation_has_its_exit_code() {
        let good = "{longest_gap: 450ms, sometimes: [leader-changed]}";
        assert_eq!(verdict(good, false, facts()).exit_code(), 0);
        assert_eq!(verdict(good, true, facts()).exit_code(), 1);
        assert_eq!(verdict("{longest_gap: 300ms}", false, facts()).exit_code(), 1);
        assert_eq!(verdict("{shortest_outage: 2s}", false, facts()).exit_code(), 1);
        assert_eq!(verdict("{sometimes: [retry-suppressed]}", false, facts()).exit_code(), 2);
        assert_eq!(verdict(good, false, Facts { recovered: None, ..facts() }).exit_code(), 1);
        let undone = vec!["a sender's last message stayed in doubt".to_owned()];
        assert_eq!(verdict(good, false, Facts { undone, ..facts() }).exit_code(), 1);
        let idle = Facts { bands: Vec::new(), ..facts() };
        assert_eq!(verdict("{}", false, idle).exit_code(), 2);
    }
}
