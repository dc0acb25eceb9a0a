//! A verdict in a few lines for a terminal, from a run that has just ended or from a `report.json`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::engine::RunError;
use crate::verdict::{Sum, Verdict, longest};

/// The parts of a verdict that the terminal shows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VerdictSummary {
    /// The verdict in one word.
    pub sum: Sum,
    /// The seed of the run.
    pub seed: u64,
    backend: String,
    experiment: Experiment,
    report: Counts,
    facts: Facts,
    wrong: Vec<String>,
    missing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Experiment {
    name: String,
    proves: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Counts {
    acked: u64,
    refused: u64,
    unknown: u64,
    observed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Facts {
    bands: Vec<Band>,
    gaps: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Band {
    from_us: u64,
}

impl VerdictSummary {
    /// Reads the `report.json` in a run's directory.
    ///
    /// # Errors
    /// If the file does not exist, or is not a run's report.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let path = dir.join("report.json");
        let failed = |why: String| RunError::File { path: path.clone(), why };
        let text = fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(format!("this is not a run's report: {error}")))
    }

    /// The verdict, the experiment and the seed in one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}: {}, seed {}, on {}", self.word(), self.experiment.name, self.seed, self.backend)
    }

    fn word(&self) -> &'static str {
        match self.sum {
            Sum::Passed => "PASSED",
            Sum::Violated => "VIOLATED",
            Sum::TooLittle => "TESTED TOO LITTLE",
        }
    }

    fn longest_gap(&self) -> Duration {
        longest(self.facts.bands.iter().map(|band| band.from_us), &self.facts.gaps)
    }
}

impl From<&Verdict> for VerdictSummary {
    fn from(verdict: &Verdict) -> Self {
        let report = &verdict.report;
        Self {
            sum: verdict.sum,
            seed: verdict.seed,
            backend: verdict.backend.to_owned(),
            experiment: Experiment {
                name: verdict.experiment.name.clone(),
                proves: verdict.experiment.proves.clone(),
            },
            report: Counts {
                acked: report.acked,
                refused: report.refused,
                unknown: report.unknown,
                observed: report.observed,
            },
            facts: Facts {
                bands: verdict.facts.bands.iter().map(|band| Band { from_us: band.from_us }).collect(),
                gaps: verdict.facts.gaps.clone(),
            },
            wrong: verdict.wrong.clone(),
            missing: verdict.missing.clone(),
        }
    }
}

impl fmt::Display for VerdictSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.word(), self.experiment.name)?;
        if self.sum == Sum::Passed {
            writeln!(f, "  {}", self.experiment.proves)?;
        }
        let Counts { acked, refused, unknown, observed } = &self.report;
        writeln!(
            f,
            "  {} faults on {}, {acked} sends acked, {refused} refused, {unknown} unknown, {observed} events delivered",
            self.facts.bands.len(),
            self.backend
        )?;
        let gap = self.longest_gap().as_millis();
        writeln!(f, "  longest time without an ack {gap} ms; seed {}", self.seed)?;
        self.wrong.iter().try_for_each(|wrong| writeln!(f, "  wrong: {wrong}"))?;
        self.missing.iter().try_for_each(|missing| writeln!(f, "  missing: {missing}"))
    }
}
