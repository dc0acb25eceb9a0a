//! Experiments: the steady state, the faults, and what must hold afterwards.
//!
//! An experiment is a YAML file; `experiments/` has the shipped ones. All randomness of a run follows from its seed.

mod written;

use std::ops::Range;
use std::time::Duration;

use conclave_core::limits::TEXT_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Grudge, Nodes};
use crate::time::Span;

/// The most steps of one experiment.
const STEPS_MAX: usize = 64;
/// The longest workload, and the longest recovery time.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The most clients of one experiment.
const CLIENTS_MAX: u32 = 1_000;
/// The most rooms of one experiment: the judge keeps state for each room, and the final read covers every replica of each.
const ROOMS_MAX: u32 = 1_000;
/// The highest rate, in sends a second.
const RATE_MAX: u32 = 100_000;
/// The longest delay that a fault may add.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// The shipped experiments: names and texts.
const LIBRARY: &[(&str, &str)] = &[
    ("smoke", include_str!("../experiments/smoke.yaml")),
    ("kill-leader", include_str!("../experiments/kill-leader.yaml")),
    ("kill-all", include_str!("../experiments/kill-all.yaml")),
    ("pause-leader", include_str!("../experiments/pause-leader.yaml")),
    ("rolling-restart", include_str!("../experiments/rolling-restart.yaml")),
    ("lost-majority", include_str!("../experiments/lost-majority.yaml")),
    ("resolver-down", include_str!("../experiments/resolver-down.yaml")),
    ("isolate-leader", include_str!("../experiments/isolate-leader.yaml")),
    ("one-way", include_str!("../experiments/one-way.yaml")),
    ("majorities-ring", include_str!("../experiments/majorities-ring.yaml")),
    ("bridge", include_str!("../experiments/bridge.yaml")),
    ("slow-network", include_str!("../experiments/slow-network.yaml")),
    ("slow-disk", include_str!("../experiments/slow-disk.yaml")),
    ("failing-disk", include_str!("../experiments/failing-disk.yaml")),
    ("power-cut", include_str!("../experiments/power-cut.yaml")),
    ("duplicate", include_str!("../experiments/duplicate.yaml")),
    ("resolver-stale", include_str!("../experiments/resolver-stale.yaml")),
    ("lone-leader", include_str!("../experiments/lone-leader.yaml")),
    ("kill-and-resume", include_str!("../experiments/kill-and-resume.yaml")),
    ("snapshot-catch-up", include_str!("../experiments/snapshot-catch-up.yaml")),
    ("power-cut-slow-disk", include_str!("../experiments/power-cut-slow-disk.yaml")),
    ("lost-vote", include_str!("../experiments/lost-vote.yaml")),
    ("restored-copy", include_str!("../experiments/restored-copy.yaml")),
    ("clocks", include_str!("../experiments/clocks.yaml")),
    ("edits", include_str!("../experiments/edits.yaml")),
    ("rights", include_str!("../experiments/rights.yaml")),
    ("everything", include_str!("../experiments/everything.yaml")),
];

/// An experiment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The experiment's name.
    pub name: String,
    /// The claim that a passed run supports, as a sentence.
    pub proves: String,
    /// The seed of all randomness; drawn, and printed, if absent.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The clients that use the cluster during the run.
    #[serde(default)]
    pub workload: Workload,
    /// What must hold before the first fault, and again after recovery.
    #[serde(default)]
    pub steady: Steady,
    /// The steps: which fault when.
    pub method: Vec<Step>,
    /// How long the cluster may take to recover after all faults are healed.
    #[serde(with = "crate::time", default = "recover_default")]
    pub recover: Duration,
    /// How long, after recovery, the senders may take for what is in flight; the same for the readers, and for the final read of
    /// each server.
    #[serde(with = "crate::time", default = "finish_default")]
    pub finish: Duration,
    /// What must hold for the run to pass, beside the guarantees.
    #[serde(default)]
    pub expect: Expect,
}

/// The clients of an experiment, and for how long they work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// The number of clients that send.
    pub senders: u32,
    /// The number of clients that each follow one room and may move between nodes.
    pub readers: u32,
    /// The number of rooms.
    pub rooms: u32,
    /// The number of clients that repeatedly open a new session, join, send and leave.
    pub visitors: u32,
    /// Sends a second of all senders together; 0 is as fast as acks come.
    pub rate: u32,
    /// The shortest message of a sender, bytes.
    pub text_bytes: u32,
    /// Whether there is a private room too, whose members come and go.
    pub private_room: bool,
    /// Whether there is a room whose messages are edited, deleted and reacted to; see docs/chaos.md.
    pub edits: bool,
    /// How long the clients work.
    #[serde(with = "crate::time")]
    pub duration: Duration,
}

/// The steady state, as the clients see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steady {
    /// At least this many acked sends a second.
    pub acked_per_second: u32,
    /// At most this 99th percentile of the latency.
    #[serde(with = "crate::time")]
    pub p99: Duration,
}

impl Steady {
    /// Whether this many acks a second with this 99th percentile of the latency count as the steady state.
    #[must_use]
    pub fn holds(&self, rate: f64, p99: Duration) -> bool {
        rate >= f64::from(self.acked_per_second) && p99 <= self.p99
    }
}

/// What must hold for a run to pass, beside the guarantees.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Maximum write unavailability after the first fault: the longest time without an ack to any client.
    pub longest_gap: Option<Span>,
    /// Minimum write unavailability: the fault takes the majority away, so acks during it would be wrong.
    pub shortest_outage: Option<Span>,
    /// Maximum write unavailability on the majority side of a partition, as seen by the clients pinned to it.
    pub majority_gap: Option<Span>,
    /// What must have happened at least once; otherwise the run tested too little.
    pub sometimes: Vec<Sometimes>,
}

/// Conditions that an experiment can demand to have happened at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sometimes {
    /// A shard's leader changed.
    LeaderChanged,
    /// A leader was killed or cut off while sends to it were in flight.
    LeaderLostWithSendsInFlight,
    /// A repeated request was recognised as committed before.
    RetrySuppressed,
    /// A subscriber resumed at another node.
    ResumedElsewhere,
    /// A node came back and caught up.
    NodeCaughtUp,
    /// A node installed a snapshot.
    SnapshotInstalled,
    /// No send was acked for at least a second.
    SendsWaited,
    /// A client that arrived during a fault connected, sent and left.
    NewcomerServed,
}

/// One step of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "written::Step")]
pub struct Step {
    /// When the fault is applied.
    pub when: When,
    /// The fault.
    pub fault: Fault,
    /// Its targets.
    pub nodes: Nodes,
    /// How long it is in force.
    #[serde(with = "crate::time")]
    pub lasts: Duration,
}

/// When a step's fault is applied, from the beginning of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Once.
    At(Span),
    /// Repeatedly within the range: about this long between two beginnings, give or take a half.
    Every(Span, Range<Span>),
}

/// An experiment that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The text cannot be parsed as an experiment.
    #[error("this is not an experiment: {0}")]
    Unreadable(String),
    /// The experiment can be parsed and is not consistent.
    #[error("the experiment {name} {}", .wrong.join("; "))]
    Wrong {
        /// The experiment's name.
        name: String,
        /// Everything that is wrong, each a predicate of the experiment.
        wrong: Vec<String>,
    },
}

impl Experiment {
    /// Parses and checks an experiment.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn parse(text: &str) -> Result<Self, Unusable> {
        let experiment = Self::read(text)?;
        let wrong = [experiment.wrong(), experiment.copies_missing()].concat();
        experiment.unless(wrong)
    }

    /// As [`Experiment::parse`], for a single fault: a copy that it needs may have been made by an earlier one.
    ///
    /// # Errors
    /// As [`Experiment::parse`].
    pub(crate) fn parse_single(text: &str) -> Result<Self, Unusable> {
        let experiment = Self::read(text)?;
        let wrong = experiment.wrong();
        experiment.unless(wrong)
    }

    fn read(text: &str) -> Result<Self, Unusable> {
        serde_saphyr::from_str(text).map_err(|error| Unusable::Unreadable(error.to_string()))
    }

    fn unless(self, wrong: Vec<String>) -> Result<Self, Unusable> {
        if wrong.is_empty() { Ok(self) } else { Err(Unusable::Wrong { name: self.name, wrong }) }
    }

    /// The text of a shipped experiment.
    #[must_use]
    pub fn shipped(name: &str) -> Option<&'static str> {
        LIBRARY.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// The names of the shipped experiments.
    pub fn names() -> impl Iterator<Item = &'static str> {
        LIBRARY.iter().map(|(name, _)| *name)
    }

    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let Workload {
            senders,
            readers,
            rooms,
            visitors,
            text_bytes,
            duration,
            rate,
            private_room: _,
            edits: _,
        } = self.workload;
        if senders == 0 || rooms == 0 {
            wrong.push("needs at least one sender and one room".to_owned());
        }
        if !usize::try_from(text_bytes).is_ok_and(|bytes| bytes <= TEXT_BYTES_MAX) {
            wrong.push(format!(
                "sends messages of {text_bytes} bytes, which must be at most {TEXT_BYTES_MAX}"
            ));
        }
        if senders.saturating_add(readers).saturating_add(visitors) > CLIENTS_MAX {
            wrong.push(format!(
                "has too many clients: senders, readers and visitors together must be at most {CLIENTS_MAX}"
            ));
        }
        if [duration, self.recover, self.finish].iter().any(|time| *time > DURATION_MAX) {
            wrong.push("takes longer than a day: shorten `duration`, `recover` or `finish`".to_owned());
        }
        if rooms > ROOMS_MAX {
            wrong.push(format!("has {rooms} rooms, which must be at most {ROOMS_MAX}"));
        }
        if rate > RATE_MAX {
            wrong.push(format!("sends {rate} a second, which must be at most {RATE_MAX}"));
        }
        if self.method.is_empty() || self.method.len() > STEPS_MAX {
            wrong.push(format!("has {} steps, which must be 1 to {STEPS_MAX}", self.method.len()));
        }
        for (number, step) in (1..).zip(&self.method) {
            let last = match &step.when {
                When::At(at) => at.0,
                When::Every(every, range) => {
                    if every.0.is_zero() || range.start >= range.end {
                        wrong.push(format!(
                            "step {number} is never done: `every` must not be 0, and `between` must end after it begins"
                        ));
                    }
                    range.end.0
                }
            };
            if last + step.lasts > duration {
                wrong.push(format!(
                    "step {number} would end after the workload: make `duration` longer, or start the step earlier"
                ));
            }
            let of_resolvers = step.nodes == Nodes::Resolver;
            let named = matches!(step.nodes, Nodes::Named(_));
            if of_resolvers && !step.fault.suits_resolvers()
                || !of_resolvers && !named && step.fault.is_of_resolvers()
            {
                wrong.push(format!(
                    "step {number} has a fault that {} cannot have",
                    if of_resolvers { "resolvers" } else { "servers" }
                ));
            }
            if step.fault.longest_delay() > DELAY_MAX {
                wrong.push(format!("step {number} has a delay of more than {} s", DELAY_MAX.as_secs()));
            }
            if let Fault::Loss { percent } = step.fault
                && percent > 90
            {
                wrong.push(format!("step {number} loses more than 90 %: use `isolate`"));
            }
        }
        wrong
    }

    /// The steps that put back a copy which no other step has made by then, and keeps until their end.
    fn copies_missing(&self) -> Vec<String> {
        let span = |step: &Step| match step.when {
            When::At(at) => Some((at.0, at.0 + step.lasts)),
            When::Every(..) => None,
        };
        let is_there = |step: &Step| {
            let copies = self.method.iter().filter(|other| other.fault == Fault::CopyDataDir);
            let mut spans = copies.filter(|other| other.nodes == step.nodes).filter_map(span);
            // Otherwise the copy may be one of another node.
            matches!(step.nodes, Nodes::Named(_))
                && span(step).is_some_and(|(from, to)| spans.any(|(made, kept)| made < from && to <= kept))
        };
        let restores = (1..).zip(&self.method).filter(|(_, step)| step.fault == Fault::RestoreOldCopy);
        let missing = restores.filter(|(_, step)| !is_there(step)).map(|(number, _)| {
            format!(
                "step {number} puts back a copy that is not there: let `copy-data-dir` begin earlier, last at least until its \
                 end, and name the same node; both need `at`"
            )
        });
        missing.collect()
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            senders: 8,
            readers: 6,
            rooms: 3,
            visitors: 2,
            rate: 200,
            text_bytes: 0,
            private_room: false,
            edits: false,
            duration: Duration::from_secs(60),
        }
    }
}

impl Default for Steady {
    fn default() -> Self {
        Self { acked_per_second: 50, p99: Duration::from_secs(1) }
    }
}

fn recover_default() -> Duration {
    Duration::from_secs(15)
}

fn finish_default() -> Duration {
    Duration::from_secs(60)
}

#[cfg(test)]
mod tests;
