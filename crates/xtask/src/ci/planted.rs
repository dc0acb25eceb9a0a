//! The step `planted`: shows that the experiments and the checker find what they are there to find. Runs one planted bug
//! after the other (see crates/core/src/planted.rs; every debug build has them) and demands that the experiment that is
//! named for it says "violated", with the property that is named for it. Without a bug each of these experiments must pass.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;

use super::cluster::Cluster;
use super::report::{NOT_RECOVERED, violations};
use super::site::{Site, read};

/// Clusters at the same time.
const AT_ONCE: usize = 2;
/// The environment variable that names the bug.
const VARIABLE: &str = "CONCLAVE_PLANTED_BUG";

/// One bug, or none, and one experiment.
struct Row {
    /// `none` for a control.
    bug: &'static str,
    experiment: &'static str,
    /// The run must find one of these; nothing for a control.
    finds: &'static [&'static str],
    /// More of the servers' environment.
    environment: &'static [(&'static str, &'static str)],
    /// Of a control: a server's log must contain this, or nothing was tried.
    says: &'static str,
}

const fn row(bug: &'static str, experiment: &'static str, finds: &'static [&'static str]) -> Row {
    Row { bug, experiment, finds, environment: &[], says: "" }
}

/// A short tail of the log, so that a replica that was down needs a snapshot.
const SHORT_TAIL: &[(&str, &str)] = &[("CONCLAVE_LOG_TAIL", "16KiB")];

/// All rows. The longest one is the first.
const ROWS: &[Row] = &[
    row("unsynced-vote", "lost-vote", &["vote_refused"]),
    row("ack-before-sync", "power-cut-slow-disk", &["acked_kept"]),
    row("ack-before-quorum", "lone-leader", &["acked_kept", "minority_silent"]),
    row("publish-before-commit", "lone-leader", &["one_order", "no_duplicate", "no_gap"]),
    row("stale-read", "lone-leader", &["reads_fresh", "minority_silent"]),
    Row {
        environment: SHORT_TAIL,
        ..row("forget-dedupe", "snapshot-catch-up", &["acked_kept", "replicas_agree", "no_gap"])
    },
    row("trust-old-copy", "restored-copy", &["acked_kept"]),
    Row { says: OLD_COPY_REFUSED, ..row(NONE, "restored-copy", &[]) },
    row("follow-off-by-one", "kill-and-resume", &["resume_exact"]),
    row("leak-after-removal", "rights", &["access_exact"]),
    row("join-sees-past", "rights", &["access_exact"]),
    row("skip-member-check-in-token", "rights", &["access_exact"]),
    row("delete-keeps-edits", "edits", &["deleted_gone"]),
    row("fold-off-by-one", "edits", &["fold_agrees"]),
    row(NONE, "edits", &[]),
    row(NONE, "rights", &[]),
    row(NONE, "lone-leader", &[]),
    row(NONE, "power-cut-slow-disk", &[]),
    row(NONE, "lost-vote", &[]),
    row(NONE, "kill-and-resume", &[]),
    Row { environment: SHORT_TAIL, ..row(NONE, "snapshot-catch-up", &[]) },
];

const NONE: &str = "none";
/// Found where a server had votes older than its log and refused to start.
const VOTE_REFUSED: &str = "vote_refused";
/// What a server says before it stops because its data dir is an older copy.
const OLD_COPY_REFUSED: &str = "was put back from an older copy";

/// The bugs of all rows.
pub(super) fn bugs() -> BTreeSet<&'static str> {
    ROWS.iter().map(|row| row.bug).collect()
}

pub(super) fn check(site: &Site) -> anyhow::Result<()> {
    // An unknown bug is refused, with the list of known ones.
    let ran = site.run(site.program("conclave")?.arg("version").env(VARIABLE, "nonsense"), "")?;
    if ran.code == Some(0) || !ran.err.contains("ack-before-sync, ack-before-quorum") {
        bail!("a planted bug that does not exist was accepted, or the error names no bugs: {}", ran.err);
    }
    let chosen = &site.context.bugs;
    let rows: Vec<&Row> =
        ROWS.iter().filter(|row| chosen.is_empty() || chosen.iter().any(|bug| bug == row.bug)).collect();

    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, anyhow::Result<Outcome>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = rows.get(at) else { return };
                    let outcome = run_row(site, row, at, "");
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);

    let mut bad = 0;
    let mut table = Vec::new();
    for (at, outcome) in done {
        let mut outcome = outcome?;
        // Rows without a verdict run once more, alone. A violated property, or a missed bug, is final.
        if outcome.word == Word::Busy {
            site.say(&outcome.line(rows[at]))?;
            outcome = run_row(site, rows[at], at, "-again")?;
        }
        bad += usize::from(outcome.word != Word::Ok);
        table.push(outcome.line(rows[at]));
    }
    table.iter().try_for_each(|line| site.say(line))?;
    if bad > 0 || rows.is_empty() {
        bail!("{bad} of {} runs are not as they must be", rows.len());
    }
    site.say(&format!("planted: {} runs, all of them as they must be", rows.len()))
}

/// The verdict on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Ok,
    /// A control found something.
    Failed,
    /// The bug was not found.
    Missed,
    /// Nothing was tried, or a control only took too long: two clusters may be too much for the machine.
    Busy,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Missed => "MISSED",
            Self::Busy => "BUSY",
        })
    }
}

/// What became of a row.
struct Outcome {
    word: Word,
    /// The controller's exit code; `None` if the cluster did not start, or after a signal.
    code: Option<i32>,
    took: Duration,
    found: BTreeSet<String>,
}

impl Outcome {
    fn line(&self, row: &Row) -> String {
        let code = self.code.map_or_else(|| NONE.to_owned(), |code| code.to_string());
        let found: Vec<&str> = self.found.iter().map(String::as_str).collect();
        let (word, took) = (self.word, self.took.as_secs());
        format!("{word:6} {:22} {:20} exit {code} {took:4} s  {}", row.bug, row.experiment, found.join(" "))
    }
}

/// Runs a row on a cluster of its own, in a folder that is named for its number.
fn run_row(site: &Site, row: &Row, at: usize, suffix: &str) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let site = site.folder(&format!("{}{suffix}", at + 1))?;
    let bug = if row.bug == NONE { "" } else { row.bug };
    let environment = [&[(VARIABLE, bug)][..], row.environment].concat();
    let (mut code, mut found, mut said) = (None, BTreeSet::new(), true);
    match Cluster::start(&site, &["--allow-faults"], &environment) {
        Ok(cluster) => {
            let out = site.dir.join("out");
            let mut command = site.program("conclave-chaos")?;
            command.arg("--dir").arg(&cluster.dir).args([
                "run",
                row.experiment,
                "--seed",
                &(at + 1).to_string(),
            ]);
            command.arg("--out").arg(&out).envs(environment).stdin(Stdio::null());
            // Its files stay, and show what happened if the step fails.
            let mut run = site.start("run", &mut command)?;
            code = site.end_of(&mut run)?.code();
            let dir = cluster.dir.clone();
            drop(cluster);
            let report = read(&out.join("report.json")).unwrap_or_default();
            found = violations(&serde_json::from_str(&report).unwrap_or_default());
            if is_logged(&dir, says_vote_refused)? {
                found.insert(VOTE_REFUSED.to_owned());
            }
            said = row.says.is_empty() || is_logged(&dir, |line| line.contains(row.says))?;
        }
        Err(error) => site.say(&format!("{} with {}: no cluster: {error:#}", row.experiment, row.bug))?,
    }
    let word = match judge(row, code, &found) {
        Word::Ok if !said => Word::Busy,
        word => word,
    };
    Ok(Outcome { word, code, took: began.elapsed(), found })
}

/// Whether a line of a server's log is like this.
fn is_logged(cluster: &Path, is_like: impl Fn(&str) -> bool) -> anyhow::Result<bool> {
    let entries = std::fs::read_dir(cluster)?.collect::<Result<Vec<_>, _>>()?;
    let logs = entries
        .iter()
        .map(std::fs::DirEntry::path)
        .filter(|path| path.extension().is_some_and(|e| e == "log"));
    for log in logs {
        if read(&log)?.lines().any(&is_like) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn says_vote_refused(line: &str) -> bool {
    line.split_once("has a vote of term ")
        .is_some_and(|(_, rest)| rest.contains(", older than its entries of term"))
}

/// Judges a row by the controller's exit code and the findings.
fn judge(row: &Row, code: Option<i32>, found: &BTreeSet<String>) -> Word {
    let only_late = found.iter().all(|name| name == NOT_RECOVERED);
    let word = if row.finds.is_empty() {
        match code {
            Some(0) if found.is_empty() => Word::Ok,
            Some(0) => Word::Failed,
            _ if only_late => Word::Busy,
            _ => Word::Failed,
        }
    } else if code == Some(1) && row.finds.iter().any(|name| found.contains(*name)) {
        Word::Ok
    } else {
        Word::Missed
    };
    // Without a verdict (3), with a fault that met nobody (2), or without a cluster, nothing was tried.
    if matches!(code, None | Some(2 | 3)) && only_late { Word::Busy } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_bug_counts_as_found_only_by_the_property_that_is_named_for_it() {
        let bug = row("a-bug", "an-experiment", &["acked_kept", "no_gap"]);
        for (code, found, word) in [
            (Some(1), set(&["no_gap"]), Word::Ok),
            (Some(1), set(&["no_gap", "one_order"]), Word::Ok),
            (Some(1), set(&["one_order"]), Word::Missed),
            (Some(1), set(&[NOT_RECOVERED]), Word::Missed),
            (Some(0), set(&["no_gap"]), Word::Missed),
            (Some(0), set(&[]), Word::Missed),
            (Some(2), set(&[]), Word::Busy),
            (Some(3), set(&[NOT_RECOVERED]), Word::Busy),
            (Some(3), set(&["no_gap"]), Word::Missed),
            (None, set(&[]), Word::Busy),
        ] {
            assert_eq!(judge(&bug, code, &found), word, "{code:?} {found:?}");
        }
    }

    #[test]
    fn a_control_passes_only_without_any_finding() {
        let control = row(NONE, "an-experiment", &[]);
        for (code, found, word) in [
            (Some(0), set(&[]), Word::Ok),
            (Some(0), set(&[NOT_RECOVERED]), Word::Failed),
            (Some(1), set(&[]), Word::Busy),
            (Some(1), set(&[NOT_RECOVERED]), Word::Busy),
            (Some(1), set(&["no_gap"]), Word::Failed),
            (Some(3), set(&["no_gap"]), Word::Failed),
            (Some(2), set(&[]), Word::Busy),
            (None, set(&[]), Word::Busy),
        ] {
            assert_eq!(judge(&control, code, &found), word, "{code:?} {found:?}");
        }
    }

    #[test]
    fn a_refused_vote_is_recognized_in_a_log() {
        assert!(says_vote_refused(
            "ERROR shard 1 has a vote of term 3, older than its entries of term 4; nothing acknowledged is lost"
        ));
        assert!(!says_vote_refused("has a vote of term 3"));
    }

    #[test]
    fn every_experiment_with_a_bug_has_a_control() {
        for row in ROWS.iter().filter(|row| row.bug != NONE) {
            assert!(!row.finds.is_empty(), "{}", row.bug);
            let is_control = |other: &&Row| {
                other.bug == NONE
                    && other.experiment == row.experiment
                    && other.environment == row.environment
            };
            assert!(
                ROWS.iter().any(|other| is_control(&other)),
                "{} runs without a bug nowhere",
                row.experiment
            );
        }
    }
}
