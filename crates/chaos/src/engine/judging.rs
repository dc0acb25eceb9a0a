//! The end of a run: the judge's report on the history, and the facts observed beside the history.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use conclave_check::{Options, Property, Records, Report};

use crate::engine::RunError;
use crate::experiment::{Sometimes, Workload};
use crate::server_states::Observed;
use crate::sides::{self, Side, cut_by};
use crate::verdict::{Band, Facts};
use crate::workload::{ClientView, Sample};

/// The shortest time in which a client can notice a lost leader, microseconds.
const UNNOTICED_US: u64 = 5_000;
/// Properties that a run in which few subscribers move need not test.
const OPTIONAL: [Property; 1] = [Property::ResumeExact];

/// What the clients report when they have ended.
pub(super) struct End {
    /// When sending ended, on the run's clock, microseconds.
    pub(super) at_us: u64,
    /// Samples of the acks, and the gaps between acks (from, to), microseconds.
    pub(super) acks: (Vec<Sample>, Vec<(u64, u64)>),
    /// How long the cluster took to recover; `None` if it did not in time.
    pub(super) recovered: Option<Duration>,
    /// What clients could not finish, in sentences.
    pub(super) undone: Vec<String>,
}

/// Judges a complete history. What the workload has besides the usual must have been judged.
pub(super) fn judge(history: &Path, workload: &Workload) -> Result<Report, RunError> {
    let failed = |why: String| RunError::File { path: history.to_owned(), why };
    let file = File::open(history).map_err(|error| failed(error.to_string()))?;
    let records = Records::read(BufReader::new(file)).map_err(|error| failed(error.to_string()))?;
    let required = Property::ALL.into_iter().filter(|property| !OPTIONAL.contains(property));
    let with_rights = Property::WITH_RIGHTS.into_iter().filter(|_| workload.private_room);
    let with_edits = Property::WITH_EDITS.into_iter().filter(|_| workload.edits);
    let required = required.chain(with_rights).chain(with_edits).collect();
    Ok(conclave_check::check(&records, &Options { required, ..Options::default() }))
}

/// Gathers the facts of a run. `before` are the counts from just before the first fault, `all` the names of all servers.
pub(super) fn facts(
    seen: &ClientView,
    end: End,
    observed: &Observed,
    before: Option<(u64, u64)>,
    bands: Vec<Band>,
    all: &[String],
) -> Facts {
    let End { at_us: end_us, acks: (samples, gaps), recovered, undone } = end;
    // Changes before the first fault do not count.
    let (changes, returns) = observed.counts();
    let (leader_changes, returned) =
        before.map_or((0, 0), |(before, then)| (changes - before, returns - then));
    // Whether a send was in flight then, or was sent so soon after that its client could not know yet.
    let across = |at_us: u64| {
        let begun = |ack: &Sample| ack.at_us.saturating_sub(ack.latency_us);
        samples.iter().any(|ack| ack.at_us > at_us && begun(ack) < at_us + UNNOTICED_US)
    };
    let happened = [
        (
            Sometimes::LeaderLostWithSendsInFlight,
            bands.iter().any(|band| band.leads && band.fault.takes_away() && across(band.from_us)),
        ),
        (Sometimes::LeaderChanged, leader_changes > 0),
        (Sometimes::RetrySuppressed, seen.duplicates.load(Ordering::Relaxed) > 0),
        (Sometimes::ResumedElsewhere, seen.moves.load(Ordering::Relaxed) > 0),
        (Sometimes::NodeCaughtUp, returned > 0),
        (Sometimes::SnapshotInstalled, observed.snapshots() > 0),
        (Sometimes::NewcomerServed, newcomers(&bands, &seen.visits())),
        (Sometimes::SendsWaited, gaps.iter().any(|(from, to)| to - from >= 1_000_000)),
    ];
    let sides = measure_sides(&bands, all, &seen.pinned_acks(), end_us);
    let sometimes = happened.into_iter().filter_map(|(what, did)| did.then_some(what)).collect();
    Facts { bands, samples, gaps, changes: observed.changes(), sometimes, undone, recovered, sides }
}

/// Whether a client that arrived during a fault connected, sent and left.
fn newcomers(bands: &[Band], visits: &[(u64, u64)]) -> bool {
    let during = |came: u64, band: &Band| band.from_us < came && band.to_us.is_none_or(|to| came < to);
    visits.iter().any(|(came, _)| bands.iter().any(|band| during(*came, band)))
}

/// The acks and the longest gap of each side of each partition.
fn measure_sides(
    bands: &[Band],
    all: &[String],
    acks: &BTreeMap<String, Vec<u64>>,
    end_us: u64,
) -> Vec<Side> {
    let mut sides = Vec::new();
    for (number, band) in bands.iter().enumerate() {
        let cut = cut_by(&band.fault, &band.nodes, all);
        let when = (band.from_us, band.to_us.unwrap_or(end_us));
        for side in sides::sides(&cut, all).iter().filter(|_| !cut.is_empty()) {
            sides.push(sides::measure(number, side, side.len() * 2 > all.len(), acks, when));
        }
    }
    sides
}
