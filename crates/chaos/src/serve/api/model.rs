//! The JSON of requests and answers. These types are the API's own: what lies on disk may change without them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::backend::{self, Target};
use crate::events::EventKind;
use crate::experiment::{self, When};
use crate::journal::Applied;
use crate::serve::desk;
use crate::serve::runs::{Cause, Record, RunState};
use crate::serve::shared::EventRecord;
use crate::serve::timetable::OnViolation;
use crate::time::{Span, show};

/// What the controller does now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// The controller's version.
    version: &'static str,
    /// The kind of environment that the cluster runs in.
    #[schema(example = "local")]
    backend: &'static str,
    /// The run in progress.
    #[schema(required = true)]
    run: Option<Run>,
    /// The number of faults that are in force, or may be.
    faults: usize,
    /// Why the schedule has been halted, if it has.
    #[schema(required = true)]
    schedule_halted: Option<String>,
}

impl From<desk::Status> for Status {
    fn from(status: desk::Status) -> Self {
        let desk::Status { backend, run, faults, halted } = status;
        let version = conclave_client::VERSION;
        Self { version, backend, run: run.map(Run::from), faults, schedule_halted: halted }
    }
}

/// The experiments that can be run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Experiments {
    /// The experiments, by name.
    pub(super) experiments: Vec<Experiment>,
}

/// An experiment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Experiment {
    /// The name.
    #[schema(example = "kill-leader")]
    name: String,
    /// The claim that a passed run supports, as a sentence.
    proves: String,
    /// How long the clients work.
    #[schema(example = "1m")]
    lasts: String,
}

impl From<&experiment::Experiment> for Experiment {
    fn from(experiment: &experiment::Experiment) -> Self {
        let (name, proves) = (experiment.name.clone(), experiment.proves.clone());
        Self { name, proves, lasts: show(experiment.workload.duration) }
    }
}

/// An experiment with its steps.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExperimentDetails {
    /// The name.
    #[schema(example = "kill-leader")]
    name: String,
    /// The claim that a passed run supports, as a sentence.
    proves: String,
    /// The seed of its runs; drawn for each run if it is null.
    #[schema(required = true)]
    seed: Option<u64>,
    /// How long the clients work.
    #[schema(example = "1m")]
    lasts: String,
    /// How long the cluster may take to recover after all faults are healed.
    recover: String,
    /// The steps: which fault when.
    steps: Vec<ExperimentStep>,
}

/// A step of an experiment: once (`at`) or repeatedly (`every`, `from`, `to`). Times are from the beginning of the workload.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExperimentStep {
    /// When the fault is applied once.
    #[schema(example = "5s")]
    #[schema(required = true)]
    at: Option<String>,
    /// The mean interval between two faults.
    #[schema(required = true)]
    every: Option<String>,
    /// The earliest repetition.
    #[schema(required = true)]
    from: Option<String>,
    /// The latest repetition.
    #[schema(required = true)]
    to: Option<String>,
    /// The fault's name.
    #[schema(example = "kill")]
    fault: &'static str,
    /// The fault with its parameters.
    description: String,
    /// Its targets.
    #[schema(example = "leader")]
    nodes: String,
    /// How long it is in force.
    #[serde(rename = "for")]
    #[schema(example = "5s")]
    lasts: String,
}

impl From<&experiment::Experiment> for ExperimentDetails {
    fn from(experiment: &experiment::Experiment) -> Self {
        Self {
            name: experiment.name.clone(),
            proves: experiment.proves.clone(),
            seed: experiment.seed,
            lasts: show(experiment.workload.duration),
            recover: show(experiment.recover),
            steps: experiment.method.iter().map(ExperimentStep::from).collect(),
        }
    }
}

impl From<&experiment::Step> for ExperimentStep {
    fn from(step: &experiment::Step) -> Self {
        let text = |span: &Span| Some(show(span.0));
        let (at, every, from, to) = match &step.when {
            When::At(at) => (text(at), None, None, None),
            When::Every(every, range) => (None, text(every), text(&range.start), text(&range.end)),
        };
        let (fault, description) = (step.fault.name(), step.fault.to_string());
        let (nodes, lasts) = (step.nodes.to_string(), show(step.lasts));
        Self { at, every, from, to, fault, description, nodes, lasts }
    }
}

/// The nodes that faults can be applied to: those of now, or during a run those of its beginning.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Nodes {
    /// The kind of environment that the cluster runs in.
    #[schema(example = "local")]
    pub(super) backend: &'static str,
    /// The nodes.
    pub(super) targets: Vec<Node>,
}

/// A server or a name server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// The node's name.
    #[schema(example = "node1")]
    name: String,
    /// Server or name server.
    kind: NodeKind,
    /// `host:port` of a server's client API; may be empty for a name server.
    #[schema(example = "127.0.0.1:7400")]
    client: String,
}

/// The kind of a node.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum NodeKind {
    /// A server of the cluster.
    Server,
    /// A name server of the cluster's zone.
    Resolver,
}

impl From<Target> for Node {
    fn from(target: Target) -> Self {
        let kind = match target.kind {
            backend::Kind::Server => NodeKind::Server,
            backend::Kind::Resolver => NodeKind::Resolver,
        };
        Self { name: target.name, kind, client: target.client }
    }
}

/// The schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Schedule {
    /// Whether the schedule continues after a run broke a promise.
    on_violation: OnViolation,
    /// Why the schedule has been halted, if it has; a restart of the controller resumes it.
    #[schema(required = true)]
    halted: Option<String>,
    /// The entries; empty without a schedule.
    entries: Vec<ScheduleEntry>,
}

/// An experiment that is run repeatedly.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleEntry {
    /// The experiment's name.
    #[schema(example = "kill-leader")]
    experiment: String,
    /// The interval from start to start.
    #[schema(example = "1h")]
    every: String,
    /// The largest random delay of each start.
    jitter: String,
    /// The next start: wall time, milliseconds since 1970; null if the schedule has been halted.
    #[schema(required = true)]
    next_ms: Option<i64>,
}

impl From<desk::Scheduled> for Schedule {
    fn from(scheduled: desk::Scheduled) -> Self {
        let entries = scheduled.entries.into_iter().map(|(entry, next_ms)| ScheduleEntry {
            experiment: entry.experiment,
            every: show(entry.every),
            jitter: show(entry.jitter),
            next_ms,
        });
        let entries = entries.collect();
        Self { on_violation: scheduled.on_violation, halted: scheduled.halted, entries }
    }
}

/// A page of runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Runs {
    /// The runs, newest first; the one in progress is the first.
    pub(super) runs: Vec<Run>,
    /// The value of `after` for the next page; null at the end.
    #[schema(required = true)]
    pub(super) next: Option<String>,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Run {
    /// The id.
    #[schema(example = "0123456789abcdef")]
    pub(super) id: String,
    /// The experiment's name.
    #[schema(example = "kill-leader")]
    experiment: String,
    /// The seed: the same experiment and seed give the same schedule of faults.
    seed: u64,
    /// What started the run.
    cause: Cause,
    /// The state.
    state: RunState,
    /// The beginning: wall time, milliseconds since 1970.
    began_ms: i64,
    /// The end: wall time, milliseconds since 1970; null while the run is in progress.
    #[schema(required = true)]
    ended_ms: Option<i64>,
    /// What the run does now, as a line of text; empty when it has ended.
    phase: String,
    /// Everything that is wrong or missing, or why there is no verdict; one sentence each.
    why: Vec<String>,
    /// The longest time without an ack from the first fault on; null without a verdict.
    #[schema(required = true)]
    longest_gap_ms: Option<u64>,
    /// How often each broken promise was broken, by property.
    violations: BTreeMap<String, u64>,
}

impl From<Record> for Run {
    fn from(record: Record) -> Self {
        let Record {
            id,
            experiment,
            seed,
            cause,
            state,
            began_ms,
            ended_ms,
            phase,
            why,
            longest_gap_ms,
            violations,
        } = record;
        Self {
            id,
            experiment,
            seed,
            cause,
            state,
            began_ms,
            ended_ms,
            phase,
            why,
            longest_gap_ms,
            violations,
        }
    }
}

/// A run to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartRun {
    /// The experiment's name.
    #[schema(example = "smoke")]
    pub(super) experiment: String,
    /// The seed; without it, the experiment's, or a random one.
    pub(super) seed: Option<u64>,
}

/// The faults that are in force, or may be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Faults {
    /// The faults, the oldest first.
    pub(super) faults: Vec<Fault>,
}

/// A fault that is in force, or may be.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Fault {
    /// The fault's number in the controller's journal.
    id: u64,
    /// The fault's name.
    #[schema(example = "delay")]
    fault: &'static str,
    /// The fault with its parameters.
    #[schema(example = "delay 20ms + 5ms")]
    description: String,
    /// Its targets.
    nodes: Vec<String>,
}

impl From<Applied> for Fault {
    fn from(applied: Applied) -> Self {
        let (fault, description) = (applied.fault.name(), applied.fault.to_string());
        Self { id: applied.id, fault, description, nodes: applied.nodes }
    }
}

/// A fault to apply.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyFault {
    /// The fault's name.
    #[schema(example = "delay")]
    pub(super) fault: String,
    /// one, leader, follower, minority, majority, all, resolver, or a node's name.
    #[serde(default = "one")]
    #[schema(example = "leader")]
    pub(super) nodes: String,
    /// How long the fault is in force, at most a day.
    #[serde(rename = "for", default = "five_seconds")]
    #[schema(value_type = String, example = "30s", default = "5s")]
    pub(super) lasts: Span,
    /// The fault's parameters, as in an experiment.
    #[serde(default)]
    #[schema(example = json!({"delay": "50ms"}))]
    pub(super) with: BTreeMap<String, String>,
}

fn one() -> String {
    "one".to_owned()
}

fn five_seconds() -> Span {
    Span(std::time::Duration::from_secs(5))
}

/// How many faults were healed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Healed {
    /// The number of faults that were in force.
    pub(super) healed: usize,
}

/// Something that happened to the cluster or to a run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Event {
    /// Wall time, milliseconds since 1970.
    at_ms: i64,
    /// The id of the run in which it happened, if any.
    #[schema(required = true)]
    run: Option<String>,
    /// The kind of event, which is also the field `event` of the stream.
    kind: EventKind,
    /// The event as a line of text.
    text: String,
    /// How many events before this one the stream left out because the client read too slowly.
    left_out: u64,
}

impl Event {
    pub(super) fn new(record: EventRecord, left_out: u64) -> Self {
        let EventRecord { at_ms, run, kind, text } = record;
        Self { at_ms, run, kind, text, left_out }
    }
}
