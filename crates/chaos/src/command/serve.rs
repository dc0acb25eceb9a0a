//! `serve`: a long-running controller.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use conclave_chaos::experiment::Experiment;
use conclave_chaos::serve;
use conclave_chaos::serve::guard::Guard;
use conclave_chaos::serve::keeper::{Keeper, Settings};
use conclave_chaos::serve::timetable::{Entry, OnViolation, Schedule};
use conclave_telemetry::door::Door;

use crate::args::ServeArgs;
use crate::controller::Controller;
use crate::output::print_error;

/// The most experiments in the user's directory.
const EXPERIMENTS_MAX: usize = 100;

/// Serves until a signal.
///
/// # Errors
/// If an argument or a file is wrong, or a fault could not be healed at the end.
pub(super) async fn serve(controller: Controller, args: &ServeArgs) -> anyhow::Result<u8> {
    let guard = Guard::open(args.token_file.as_deref(), args.listen).map_err(anyhow::Error::msg)?;
    let experiments = experiments(args.experiments.as_deref())?;
    let schedule = schedule(args, &experiments)?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let runs = args.runs.clone().unwrap_or_else(|| controller.state_dir.join("chaos-runs"));
    let door = Door::open(&args.pages.listening(args.listen)).await?;
    let scheduled = schedule.runs.len();
    let settings = Settings { experiments, schedule, seed, runs: runs.clone(), keep: args.keep };
    let backend = controller.engine.backend.name();
    let _announced = controller.announce_metrics()?;
    let (keeper, desk, metrics) = Keeper::new(controller.engine, settings)?;
    print_error(&format!(
        "a controller of {backend}: API and metrics at {}; runs in {}; {}",
        door.url(),
        runs.display(),
        if scheduled == 0 {
            "no schedule".to_owned()
        } else {
            format!("{scheduled} by schedule, seed {seed}")
        }
    ));
    serve::run(keeper, desk, metrics, Arc::new(guard), door).await?;
    print_error("stopped; all faults are healed");
    Ok(0)
}

/// The shipped experiments and those of the directory, by name.
fn experiments(dir: Option<&Path>) -> anyhow::Result<BTreeMap<String, Experiment>> {
    let shipped = Experiment::names().filter_map(Experiment::shipped).map(Experiment::parse);
    let mut known: BTreeMap<String, Experiment> = shipped
        .map(|read| read.map(|experiment| (experiment.name.clone(), experiment)))
        .collect::<Result<_, _>>()?;
    let Some(dir) = dir else { return Ok(known) };
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| dir.display().to_string())?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    paths.sort();
    if paths.len() > EXPERIMENTS_MAX {
        bail!("{} has {} experiments, which must be at most {EXPERIMENTS_MAX}", dir.display(), paths.len());
    }
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let experiment = Experiment::parse(&text).with_context(|| path.display().to_string())?;
        let name = experiment.name.clone();
        if known.insert(name.clone(), experiment).is_some() {
            bail!("{}: there is already an experiment called {name}; choose another name", path.display());
        }
    }
    Ok(known)
}

fn schedule(args: &ServeArgs, experiments: &BTreeMap<String, Experiment>) -> anyhow::Result<Schedule> {
    let known = |name: &str| experiments.contains_key(name);
    let mut schedule = match (&args.schedule, &args.experiment, args.every) {
        (Some(path), _, _) => {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Schedule::parse(&text, known)
                .map_err(anyhow::Error::msg)
                .with_context(|| path.display().to_string())?
        }
        (None, Some(experiment), Some(every)) => {
            let jitter = args.jitter.unwrap_or_default();
            let runs = vec![Entry { experiment: experiment.clone(), every, jitter }];
            let schedule = Schedule { on_violation: OnViolation::default(), runs };
            schedule.check(known).map_err(anyhow::Error::msg)?;
            schedule
        }
        _ => Schedule::default(),
    };
    if let Some(on_violation) = args.on_violation {
        schedule.on_violation = on_violation;
    }
    Ok(schedule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_experiments_are_read_beside_the_shipped_ones() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        put("mine.yaml", "{name: mine, proves: y, method: [{at: 5s, fault: kill}]}");
        put("notes.txt", "no experiment");
        let known = experiments(Some(dir.path())).unwrap();
        assert!(known.contains_key("mine") && known.contains_key("smoke"));
        put("other.yml", "{name: smoke, proves: y, method: [{at: 5s, fault: kill}]}");
        let error = format!("{:#}", experiments(Some(dir.path())).unwrap_err());
        assert!(error.contains("other.yml") && error.contains("smoke"), "{error}");
        put("other.yml", "{name: other}");
        assert!(format!("{:#}", experiments(Some(dir.path())).unwrap_err()).contains("other.yml"));
    }
}
