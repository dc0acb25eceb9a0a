//! The times of scheduled runs. Pure: the same seed and the same times give the same runs.
//!
//! A run that is missed, because another one was in progress, is not made up for: the entry's next run is at its regular time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schedule::Draws;
use crate::time::show;

/// The most entries of one schedule.
const ENTRIES_MAX: usize = 100;
/// The shortest interval of an entry.
const EVERY_MIN: Duration = Duration::from_secs(60);
/// The longest interval of an entry.
const EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// A schedule of repeated runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Whether the schedule continues after a run broke a promise.
    #[serde(default)]
    pub on_violation: OnViolation,
    /// The entries.
    pub runs: Vec<Entry>,
}

/// Whether a schedule continues after a run broke a promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnViolation {
    /// The schedule is halted, so that the cluster stays as the run left it.
    #[default]
    Stop,
    /// The schedule continues.
    Continue,
}

/// One experiment that is run repeatedly.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The experiment's name.
    pub experiment: String,
    /// The interval from start to start. The first run is one interval after the controller's start.
    #[serde(with = "crate::time")]
    pub every: Duration,
    /// The largest random delay of each start.
    #[serde(with = "crate::time", default)]
    pub jitter: Duration,
}

impl Schedule {
    /// Parses and checks a schedule. `known` tells whether an experiment exists.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn parse(text: &str, known: impl Fn(&str) -> bool) -> Result<Self, String> {
        let schedule: Self =
            serde_saphyr::from_str(text).map_err(|error| format!("this is not a schedule: {error}"))?;
        schedule.check(known).map(|()| schedule)
    }

    /// Checks a schedule.
    ///
    /// # Errors
    /// Everything that is wrong with it at once.
    pub fn check(&self, known: impl Fn(&str) -> bool) -> Result<(), String> {
        let mut wrong = Vec::new();
        if self.runs.len() > ENTRIES_MAX {
            wrong.push(format!("it has {} entries, which must be at most {ENTRIES_MAX}", self.runs.len()));
        }
        for (number, entry) in (1..).zip(&self.runs) {
            if !known(&entry.experiment) {
                wrong.push(format!("entry {number}: there is no experiment {:?}", entry.experiment));
            }
            if !(EVERY_MIN..=EVERY_MAX).contains(&entry.every) {
                wrong.push(format!("entry {number}: `every` must be {} to a year", show(EVERY_MIN)));
            }
            if entry.jitter >= entry.every {
                wrong.push(format!("entry {number}: `jitter` must be shorter than `every`"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("the schedule is invalid: {}", wrong.join("; "))) }
    }
}

/// An entry and its next run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upcoming {
    /// The entry.
    pub entry: Entry,
    /// When the entry's next run is due, since the controller's start.
    pub due: Duration,
}

/// A running schedule. Times are since the controller's start.
#[derive(Debug)]
pub struct Timetable {
    entries: Vec<(Entry, Due)>,
    draws: Draws,
}

#[derive(Debug)]
struct Due {
    /// The next start without its jitter.
    slot: Duration,
    /// The next start with its jitter.
    at: Duration,
}

impl Timetable {
    /// The times of a schedule. The jitter and the seeds of the runs follow from `seed`.
    #[must_use]
    pub fn new(schedule: &Schedule, seed: u64) -> Self {
        let mut draws = Draws::new(seed);
        let mut entries = Vec::new();
        for entry in &schedule.runs {
            let due = Due { slot: entry.every, at: entry.every + jitter(entry, &mut draws) };
            entries.push((entry.clone(), due));
        }
        Self { entries, draws }
    }

    /// When the next run is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.entries.iter().map(|(_, due)| due.at).min()
    }

    /// The entries with their next runs, in the order of the schedule.
    #[must_use]
    pub fn upcoming(&self) -> Vec<Upcoming> {
        let entries = self.entries.iter();
        entries.map(|(entry, due)| Upcoming { entry: entry.clone(), due: due.at }).collect()
    }

    /// Takes the run that is due: the experiment's name and a seed. The entry's next run is then later than `now`.
    pub fn take(&mut self, now: Duration) -> Option<(String, u64)> {
        let ready = self.entries.iter_mut().filter(|(_, due)| due.at <= now);
        let (entry, due) = ready.min_by_key(|(_, due)| due.at)?;
        let seed = self.draws.next_draw() >> 32;
        while due.at <= now {
            due.slot += entry.every;
            due.at = due.slot + jitter(entry, &mut self.draws);
        }
        Some((entry.experiment.clone(), seed))
    }
}

fn jitter(entry: &Entry, draws: &mut Draws) -> Duration {
    let most = u64::try_from(entry.jitter.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(draws.below(most.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn schedule(text: &str) -> Result<Schedule, String> {
        Schedule::parse(text, |name| ["smoke", "kill-leader"].contains(&name))
    }

    #[test]
    fn a_schedule_is_parsed_and_all_mistakes_are_reported_at_once() {
        let read = schedule("{runs: [{experiment: smoke, every: 1h, jitter: 10m}]}").unwrap();
        assert_eq!(read.on_violation, OnViolation::Stop);
        assert_eq!((read.runs[0].every, read.runs[0].jitter), (60 * MINUTE, 10 * MINUTE));
        let go_on = schedule("{on_violation: continue, runs: []}").unwrap();
        assert_eq!(go_on.on_violation, OnViolation::Continue);
        let error = schedule(
            "{runs: [{experiment: nothing, every: 1h}, {experiment: smoke, every: 5s}, {experiment: smoke, every: 2m, jitter: 2m}]}",
        )
        .unwrap_err();
        for part in ["entry 1: there is no experiment \"nothing\"", "entry 2: `every`", "entry 3: `jitter`"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(schedule("{runs: [{experiment: smoke}]}").is_err());
        assert!(schedule("{runs: [], colour: red}").is_err());
    }

    #[test]
    fn each_entry_has_its_own_times_and_missed_runs_are_not_made_up_for() {
        let text =
            "{runs: [{experiment: smoke, every: 10m}, {experiment: kill-leader, every: 25m, jitter: 5m}]}";
        let schedule = schedule(text).unwrap();
        let mut table = Timetable::new(&schedule, 7);
        assert_eq!(table.next(), Some(10 * MINUTE));
        assert_eq!(table.take(9 * MINUTE), None);
        let (first, seed) = table.take(10 * MINUTE).unwrap();
        assert_eq!((first.as_str(), table.next()), ("smoke", Some(20 * MINUTE)));
        let upcoming = table.upcoming();
        assert_eq!((upcoming[0].entry.experiment.as_str(), upcoming[0].due), ("smoke", 20 * MINUTE));
        assert!(upcoming[1].due >= 25 * MINUTE);
        assert_eq!(table.take(10 * MINUTE), None);
        // An hour later: each is due once, and then later than now.
        let due: Vec<String> = std::iter::from_fn(|| Some(table.take(70 * MINUTE)?.0)).collect();
        assert_eq!(due, ["smoke", "kill-leader"]);
        assert!(table.next().unwrap() > 70 * MINUTE);
        // The same seed, the same times and seeds.
        let mut again = Timetable::new(&schedule, 7);
        assert_eq!(again.take(10 * MINUTE), Some((first, seed)));
        let other = Timetable::new(&schedule, 8).take(10 * MINUTE).unwrap();
        assert_ne!(other.1, seed);
        assert_eq!(Timetable::new(&Schedule::default(), 1).next(), None);
    }

    #[test]
    fn jitter_is_within_its_bound_and_does_not_add_up() {
        let schedule = schedule("{runs: [{experiment: smoke, every: 10m, jitter: 5m}]}").unwrap();
        for seed in 0..50 {
            let mut table = Timetable::new(&schedule, seed);
            for slot in 1..20 {
                let at = table.next().unwrap();
                assert!((10 * slot * MINUTE..=(10 * slot + 5) * MINUTE).contains(&at), "{at:?}");
                table.take(at).unwrap();
            }
        }
    }
}
