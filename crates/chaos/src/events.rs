//! The events of a controller, for a terminal, metrics and the API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use conclave_check::Property;
use serde::Serialize;
use utoipa::ToSchema;

use crate::fault::{Fault, Nodes};
use crate::journal::Applied;
use crate::time::show;

/// Gets the events of a controller. The engine calls it synchronously, so an implementation must return at once.
pub trait Observer: Send + Sync {
    /// An event happened.
    fn event(&self, event: &Event);

    /// A send of the workload ended, `took` after it was due. Called many times a second.
    fn sent(&self, outcome: Sent, took: Duration) {
        let _ = (outcome, took);
    }
}

/// The outcome of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acked.
    Ok,
    /// Refused, finally.
    Refused,
    /// In doubt: the client gave up without an answer.
    Unknown,
}

impl Sent {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Refused, Self::Unknown];

    /// The value of the metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that happened to the cluster or to a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A run began.
    Began {
        /// The run's id.
        id: String,
        /// The experiment's name.
        experiment: String,
        /// The seed of the run.
        seed: u64,
        /// Duration of the workload.
        lasts: Duration,
        /// The backend's name.
        backend: &'static str,
    },
    /// The clients work, and the engine waits for the steady state.
    Settling,
    /// The steady state holds (again); the time is since the workload began.
    Steady(Duration),
    /// The steady state no longer holds; the time is since the workload began.
    Unsteady(Duration),
    /// Rate and latency of the clients' acks, once a second.
    Pace {
        /// Acks a second, over the last seconds.
        rate: f64,
        /// The 99th percentile of the latency, over the last seconds.
        p99: Duration,
        /// The longest time without an ack so far.
        longest_gap: Duration,
    },
    /// A fault is in force.
    Applied(Applied),
    /// A fault could not be applied.
    NotApplied {
        /// The fault.
        fault: Fault,
        /// Its targets.
        nodes: Vec<String>,
        /// The error.
        why: String,
    },
    /// A planned fault was skipped: no node matched.
    LeftOut {
        /// The fault.
        fault: Fault,
        /// The nodes that it asked for.
        nodes: Nodes,
    },
    /// A fault is healed.
    Healed(Applied),
    /// A fault could not be healed and may still be in force.
    NotHealed {
        /// The fault.
        fault: Applied,
        /// The error.
        why: String,
    },
    /// All faults are healed, and the engine waits for the cluster to recover.
    Recovering,
    /// The cluster has recovered, this long after all faults were healed; `None` if it did not in time.
    Recovered(Option<Duration>),
    /// The judge reads the history.
    Judging,
    /// A run ended.
    Ended(Ending),
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// See [`Event::Began`].
    Began,
    /// See [`Event::Settling`].
    Settling,
    /// See [`Event::Steady`].
    Steady,
    /// See [`Event::Unsteady`].
    Unsteady,
    /// See [`Event::Pace`].
    Pace,
    /// See [`Event::Applied`].
    Applied,
    /// See [`Event::NotApplied`].
    NotApplied,
    /// See [`Event::LeftOut`].
    LeftOut,
    /// See [`Event::Healed`].
    Healed,
    /// See [`Event::NotHealed`].
    NotHealed,
    /// See [`Event::Recovering`].
    Recovering,
    /// See [`Event::Recovered`].
    Recovered,
    /// See [`Event::Judging`].
    Judging,
    /// See [`Event::Ended`].
    Ended,
}

impl EventKind {
    /// The name in the API and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Settling => "settling",
            Self::Steady => "steady",
            Self::Unsteady => "unsteady",
            Self::Pace => "pace",
            Self::Applied => "applied",
            Self::NotApplied => "not_applied",
            Self::LeftOut => "left_out",
            Self::Healed => "healed",
            Self::NotHealed => "not_healed",
            Self::Recovering => "recovering",
            Self::Recovered => "recovered",
            Self::Judging => "judging",
            Self::Ended => "ended",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The run's id.
    pub id: String,
    /// The experiment's name.
    pub experiment: String,
    /// The outcome.
    pub outcome: Outcome,
    /// Everything that is wrong or missing, or why there is no verdict; one sentence each.
    pub why: Vec<String>,
    /// How often each broken promise was broken.
    pub violations: Vec<(Property, u64)>,
    /// The longest time without an ack from the first fault on; `None` if there is no verdict.
    pub longest_gap: Option<Duration>,
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every promise held.
    Passed,
    /// A promise was broken, or an expectation.
    Violated,
    /// Nothing was broken, but too little was tested.
    TooLittle,
    /// No verdict: the run could not be carried out.
    Failed,
    /// A signal or a call stopped the run.
    Stopped,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 5] = [Self::Passed, Self::Violated, Self::TooLittle, Self::Failed, Self::Stopped];

    /// The name in metrics and in the API.
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

/// One line for people.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        match self {
            Self::Began { experiment, seed, lasts, backend, .. } => {
                write!(f, "{experiment} for {}, seed {seed}, on {backend}", show(*lasts))
            }
            Self::Settling => f.write_str("waiting for the steady state"),
            Self::Steady(at) => write!(f, "steady state reached {} into the workload", seconds(at)),
            Self::Unsteady(at) => write!(f, "steady state lost {} into the workload", seconds(at)),
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
            Self::LeftOut { fault, nodes } => write!(f, "{fault}: skipped, no node matches {nodes}"),
            Self::Healed(applied) => write!(f, "{}: healed", applied.fault),
            Self::NotHealed { fault, why } => write!(f, "{}: NOT HEALED: {why}", fault.fault),
            Self::Recovering => f.write_str("all faults are healed; waiting for the cluster to recover"),
            Self::Recovered(Some(after)) => write!(f, "recovered after {}", seconds(after)),
            Self::Recovered(None) => f.write_str("not recovered in time"),
            Self::Judging => f.write_str("judging the history"),
            Self::Ended(Ending { experiment, outcome, why, .. }) => {
                write!(f, "{experiment}: {}", outcome.name())?;
                why.iter().try_for_each(|why| write!(f, "; {why}"))
            }
        }
    }
}

impl Event {
    /// The event's kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Began { .. } => EventKind::Began,
            Self::Settling => EventKind::Settling,
            Self::Steady(_) => EventKind::Steady,
            Self::Unsteady(_) => EventKind::Unsteady,
            Self::Pace { .. } => EventKind::Pace,
            Self::Applied(_) => EventKind::Applied,
            Self::NotApplied { .. } => EventKind::NotApplied,
            Self::LeftOut { .. } => EventKind::LeftOut,
            Self::Healed(_) => EventKind::Healed,
            Self::NotHealed { .. } => EventKind::NotHealed,
            Self::Recovering => EventKind::Recovering,
            Self::Recovered(_) => EventKind::Recovered,
            Self::Judging => EventKind::Judging,
            Self::Ended(_) => EventKind::Ended,
        }
    }

    /// Whether the event is printed and logged: all but those of every second.
    #[must_use]
    pub fn is_line(&self) -> bool {
        !matches!(self, Self::Pace { .. })
    }
}

/// Ignores every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _event: &Event) {}
}

/// Passes every event to several observers, in order.
#[derive(Clone, Default)]
pub struct Observers(pub Vec<Arc<dyn Observer>>);

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

impl Observer for Observers {
    fn event(&self, event: &Event) {
        self.0.iter().for_each(|one| one.event(event));
    }

    fn sent(&self, outcome: Sent, took: Duration) {
        self.0.iter().for_each(|one| one.sent(outcome, took));
    }
}
