//! The output of a step, and what the summary repeats of it.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

/// The result of a step.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    pub(super) took: Duration,
    pub(super) tests_passed: u64,
    pub(super) tests_failed: u64,
    /// Lines that began with `ci-note: `, which the summary repeats.
    pub(super) notes: Vec<String>,
}

impl Verdict {
    pub(super) fn failed(took: Duration, error: &anyhow::Error) -> Self {
        Self { took, notes: vec![format!("{error:#}")], ..Self::default() }
    }

    /// Parses a line of a step's output: sums of test programs, and notes.
    fn read(&mut self, line: &str) {
        if let Some(note) = line.strip_prefix("ci-note: ") {
            self.notes.push(note.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |word: &str| -> u64 {
            let before = result.split(word).next().unwrap_or_default();
            before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        self.tests_passed += count(" passed");
        self.tests_failed += count(" failed");
    }
}

/// The output of a running step: a log file, and the terminal if a person waits for it.
#[derive(Debug)]
pub(super) struct Output {
    written: Mutex<(File, Verdict)>,
    live: bool,
}

impl Output {
    pub(super) fn create(path: &Path, live: bool) -> anyhow::Result<Self> {
        let log = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { written: Mutex::new((log, Verdict::default())), live })
    }

    fn written(&self) -> MutexGuard<'_, (File, Verdict)> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line, without its end.
    pub(super) fn line(&self, line: &[u8]) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(line);
        let mut written = self.written();
        written.1.read(&text);
        if self.live {
            crate::print(&text);
        }
        written.0.write_all(&[line, b"\n"].concat()).context("write the log of the step")
    }

    /// What the output said.
    pub(super) fn verdict(self, passed: bool, took: Duration) -> Verdict {
        let (_, verdict) = self.written.into_inner().unwrap_or_else(PoisonError::into_inner);
        Verdict { passed, took, ..verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_result_lines_and_notes_are_parsed_and_other_output_is_ignored() {
        let mut verdict = Verdict::default();
        verdict.read(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.1s",
        );
        verdict
            .read("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        verdict.read("a test says: 5 passed; 5 failed");
        verdict.read("ci-note: the advisory database cannot be reached");
        assert_eq!((verdict.tests_passed, verdict.tests_failed), (15, 2));
        assert_eq!(verdict.notes, ["the advisory database cannot be reached"]);
    }
}
