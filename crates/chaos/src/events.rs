//! What a controller tells whoever watches it: a person at a terminal, metrics, an API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use conclave_check::Property;

use crate::fault::{Fault, Nodes};
use crate::journal::Applied;
use crate::time::show;

/// Watches a controller. Called in the middle of its work: whoever watches takes note and returns.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);

    /// A send of the workload was decided, or given up, so long after it was due. Many times a second.
    fn sent(&self, outcome: Sent, took: Duration) {
        let _ = (outcome, took);
    }
}

/// What came of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acked.
    Ok,
    /// Refused for good.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Sent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Refused, Self::Unknown];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that happened to a cluster, or to a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A run began.
    Began {
        /// The run.
        id: String,
        /// Which experiment.
        experiment: String,
        /// Its seed.
        seed: u64,
        /// How long its workload is.
        lasts: Duration,
        /// On what.
        backend: &'static str,
    },
    /// The clients are at work, and the cluster gets time to become steady.
    Settling,
    /// The steady state holds (again), so long after the workload began.
    Steady(Duration),
    /// The steady state does not hold any more, so long after the workload began.
    Unsteady(Duration),
    /// How the clients fare; once a second.
    Pace {
        /// Acks a second, lately.
        rate: f64,
        /// The slowest send of a hundred, lately.
        p99: Duration,
        /// The longest time without an ack so far.
        longest_gap: Duration,
    },
    /// A fault is in force.
    Applied(Applied),
    /// A fault could not be applied.
    NotApplied {
        /// What.
        fault: Fault,
        /// To whom.
        nodes: Vec<String>,
        /// Why.
        why: String,
    },
    /// A fault of the plan was left out: there is nobody to do it to.
    LeftOut {
        /// What.
        fault: Fault,
        /// To whom, in words.
        nodes: Nodes,
    },
    /// A fault is healed.
    Healed(Applied),
    /// A fault is still in force, or may be.
    NotHealed {
        /// Which.
        fault: Applied,
        /// Why.
        why: String,
    },
    /// Everything is healed, and the cluster gets time to recover.
    Recovering,
    /// The cluster is as before, so long after everything was healed; or it was not in time.
    Recovered(Option<Duration>),
    /// The history is judged.
    Judging,
    /// A run ended.
    Ended(Ending),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The run.
    pub id: String,
    /// Which experiment.
    pub experiment: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Everything that is wrong or missing, or why there is no verdict; in plain words.
    pub why: Vec<String>,
    /// How often each promise was broken; only those that were.
    pub violations: Vec<(Property, u64)>,
    /// The longest time without an ack from the first fault on; `None` without a verdict.
    pub longest_gap: Option<Duration>,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every promise held.
    Passed,
    /// A promise was broken, or an expectation.
    Violated,
    /// Nothing was broken, but too little was tested.
    TooLittle,
    /// There is no verdict: something else went wrong.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Passed, Self::Violated, Self::TooLittle, Self::Failed, Self::Stopped];

    /// Its name in metrics and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Violated => "violated",
            Self::TooLittle => "too_little",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// One line for a person. What comes every second has none: see [`Event::is_line`].
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        match self {
            Self::Began { experiment, seed, lasts, backend, .. } => {
                write!(f, "{experiment} for {}, seed {seed}, on {backend}", show(*lasts))
            }
            Self::Settling => f.write_str("waiting for the steady state"),
            Self::Steady(at) => write!(f, "steady {} into the workload", seconds(at)),
            Self::Unsteady(at) => write!(f, "not steady {} into the workload", seconds(at)),
            Self::Pace { rate, p99, longest_gap } => write!(
                f,
                "{rate:.0} acks a second, p99 {} ms, longest time without an ack {} ms",
                p99.as_millis(),
                longest_gap.as_millis()
            ),
            Self::Applied(applied) => write!(f, "{}: {}", applied.fault, applied.nodes.join(", ")),
            Self::NotApplied { fault, nodes, why } => {
                write!(f, "{fault}: not applied to {}: {why}", nodes.join(", "))
            }
            Self::LeftOut { fault, nodes } => write!(f, "{fault}: no {nodes} to do it to; left out"),
            Self::Healed(applied) => write!(f, "{}: healed", applied.fault),
            Self::NotHealed { fault, why } => write!(f, "{}: NOT HEALED: {why}", fault.fault),
            Self::Recovering => f.write_str("everything is healed; waiting for the cluster to recover"),
            Self::Recovered(Some(after)) => write!(f, "as before after {}", seconds(after)),
            Self::Recovered(None) => f.write_str("not as before in time"),
            Self::Judging => f.write_str("judging"),
            Self::Ended(Ending { experiment, outcome, why, .. }) => {
                write!(f, "{experiment}: {}", outcome.name())?;
                why.iter().try_for_each(|why| write!(f, "; {why}"))
            }
        }
    }
}

impl Event {
    /// What it is, in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Began { .. } => "began",
            Self::Settling => "settling",
            Self::Steady(_) => "steady",
            Self::Unsteady(_) => "unsteady",
            Self::Pace { .. } => "pace",
            Self::Applied(_) => "applied",
            Self::NotApplied { .. } => "not_applied",
            Self::LeftOut { .. } => "left_out",
            Self::Healed(_) => "healed",
            Self::NotHealed { .. } => "not_healed",
            Self::Recovering => "recovering",
            Self::Recovered(_) => "recovered",
            Self::Judging => "judging",
            Self::Ended(_) => "ended",
        }
    }

    /// Worth a line of its own.
    #[must_use]
    pub fn is_line(&self) -> bool {
        !matches!(self, Self::Pace { .. })
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Observer for Nobody {
    fn event(&self, _event: &Event) {}
}

/// Several that watch, told in order.
#[derive(Clone, Default)]
pub struct All(pub Vec<Arc<dyn Observer>>);

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("All").field(&self.0.len()).finish()
    }
}

impl Observer for All {
    fn event(&self, event: &Event) {
        self.0.iter().for_each(|one| one.event(event));
    }

    fn sent(&self, outcome: Sent, took: Duration) {
        self.0.iter().for_each(|one| one.sent(outcome, took));
    }
}
