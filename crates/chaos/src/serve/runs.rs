//! The records of runs on disk: one directory for each run; the oldest are deleted.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::events::{Ending, Outcome};

/// The file with a run's record. A directory without it is not a run's, and is never deleted.
const RECORD: &str = "run.json";

/// The record of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The run's id: letters and digits.
    pub id: String,
    /// The experiment's name.
    pub experiment: String,
    /// The seed.
    pub seed: u64,
    /// What started the run.
    pub cause: Cause,
    /// The state.
    pub state: RunState,
    /// The beginning: wall time, milliseconds since 1970.
    pub began_ms: i64,
    /// The end: wall time, milliseconds since 1970; `None` while the run is in progress.
    pub ended_ms: Option<i64>,
    /// What the run does now, as a line of text; empty when it has ended.
    pub phase: String,
    /// Everything that is wrong or missing, or why there is no verdict; one sentence each.
    pub why: Vec<String>,
    /// The longest time without an ack from the first fault on; `None` if there is no verdict.
    pub longest_gap_ms: Option<u64>,
    /// How often each broken promise was broken, by property.
    pub violations: BTreeMap<String, u64>,
}

/// What started a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A call of the API.
    Call,
    /// The schedule.
    Schedule,
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// In progress.
    Running,
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

impl From<Outcome> for RunState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Passed => Self::Passed,
            Outcome::Violated => Self::Violated,
            Outcome::TooLittle => Self::TooLittle,
            Outcome::Failed => Self::Failed,
            Outcome::Stopped => Self::Stopped,
        }
    }
}

impl Record {
    /// Records how the run ended.
    pub fn end(&mut self, ending: &Ending, at_ms: i64) {
        self.state = ending.outcome.into();
        self.ended_ms = Some(at_ms);
        self.phase.clear();
        self.why.clone_from(&ending.why);
        self.longest_gap_ms =
            ending.longest_gap.map(|gap| u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
        let violations = ending.violations.iter();
        self.violations = violations.map(|(property, times)| (property.name().to_owned(), *times)).collect();
    }
}

/// The finished runs that are kept.
#[derive(Debug)]
pub struct Runs {
    dir: PathBuf,
    /// The most runs that are kept.
    keep: usize,
    /// The newest first.
    kept: VecDeque<Record>,
}

impl Runs {
    /// Reads the runs in the directory, and creates it if it does not exist. A run that was in progress when its controller ended
    /// becomes a failed run. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be created, read or written.
    pub fn open(dir: &Path, keep: usize) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let Ok(text) = fs::read_to_string(path.join(RECORD)) else { continue };
            let Ok(mut record) = serde_json::from_str::<Record>(&text) else {
                tracing::warn!(path = %path.display(), "unreadable record of a run ignored");
                continue;
            };
            // The id is used as a path: one that is not the directory's name could lead elsewhere.
            if path.file_name().is_none_or(|name| name != record.id.as_str()) {
                continue;
            }
            if record.state == RunState::Running {
                record.state = RunState::Failed;
                record.ended_ms = Some(record.began_ms);
                record.phase.clear();
                record.why = vec!["the controller ended during the run".to_owned()];
                write(&path, &record)?;
            }
            kept.push(record);
        }
        kept.sort_by(|a, b| (b.began_ms, &b.id).cmp(&(a.began_ms, &a.id)));
        let mut runs = Self { dir: dir.to_owned(), keep: keep.max(1), kept: kept.into() };
        runs.prune()?;
        Ok(runs)
    }

    /// The directory of a run.
    #[must_use]
    pub fn dir_of(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// The finished runs, the newest first.
    #[must_use]
    pub fn kept(&self) -> &VecDeque<Record> {
        &self.kept
    }

    /// Creates a run's directory with its record. Blocks.
    ///
    /// # Errors
    /// If the directory or the record cannot be written.
    pub fn begin(&self, record: &Record) -> io::Result<PathBuf> {
        let dir = self.dir_of(&record.id);
        fs::create_dir(&dir)?;
        write(&dir, record)?;
        Ok(dir)
    }

    /// Writes the record of a finished run, and deletes the oldest runs beyond the limit. Blocks.
    ///
    /// # Errors
    /// If a file cannot be written or deleted.
    pub fn end(&mut self, record: Record) -> io::Result<()> {
        let written = write(&self.dir_of(&record.id), &record);
        self.kept.push_front(record);
        let pruned = self.prune();
        written.and(pruned)
    }

    fn prune(&mut self) -> io::Result<()> {
        while self.kept.len() > self.keep {
            let Some(oldest) = self.kept.pop_back() else { break };
            fs::remove_dir_all(self.dir_of(&oldest.id))?;
        }
        Ok(())
    }
}

/// Replaces the record atomically.
fn write(dir: &Path, record: &Record) -> io::Result<()> {
    let text = serde_json::to_string_pretty(record)?;
    let new = dir.join("run.json.new");
    fs::write(&new, text)?;
    fs::rename(new, dir.join(RECORD))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn record(id: &str, began_ms: i64) -> Record {
        Record {
            id: id.to_owned(),
            experiment: "smoke".to_owned(),
            seed: 1,
            cause: Cause::Call,
            state: RunState::Running,
            began_ms,
            ended_ms: None,
            phase: "judging".to_owned(),
            why: Vec::new(),
            longest_gap_ms: None,
            violations: BTreeMap::new(),
        }
    }

    fn ids(runs: &Runs) -> Vec<&str> {
        runs.kept().iter().map(|record| record.id.as_str()).collect()
    }

    #[test]
    fn the_newest_runs_are_kept_and_other_directories_are_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("mine");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("report.json"), "{}").unwrap();
        let mut runs = Runs::open(dir.path(), 2).unwrap();
        for (id, began) in [("a", 1), ("b", 2), ("c", 3)] {
            let mut record = record(id, began);
            let path = runs.begin(&record).unwrap();
            fs::write(path.join("report.html"), "x").unwrap();
            record.state = RunState::Passed;
            record.ended_ms = Some(began + 1);
            runs.end(record).unwrap();
        }
        assert_eq!(ids(&runs), ["c", "b"]);
        assert!(!dir.path().join("a").exists() && other.exists());
        drop(runs);
        let runs = Runs::open(dir.path(), 1).unwrap();
        assert_eq!(ids(&runs), ["c"]);
        assert!(!dir.path().join("b").exists() && other.exists());
    }

    #[test]
    fn a_run_that_its_controller_did_not_finish_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path(), 5).unwrap();
        runs.begin(&record("a", 7)).unwrap();
        drop(runs);
        for _ in 0..2 {
            let runs = Runs::open(dir.path(), 5).unwrap();
            let found = &runs.kept()[0];
            assert_eq!((found.state, found.ended_ms), (RunState::Failed, Some(7)));
            assert_eq!(found.why, ["the controller ended during the run"]);
        }
    }

    #[test]
    fn a_record_that_names_another_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::create_dir(&path).unwrap();
        write(&path, &record("../elsewhere", 1)).unwrap();
        assert!(Runs::open(dir.path(), 1).unwrap().kept().is_empty());
        fs::write(path.join(RECORD), "{").unwrap();
        assert!(Runs::open(dir.path(), 1).unwrap().kept().is_empty());
        assert!(path.exists());
    }
}
