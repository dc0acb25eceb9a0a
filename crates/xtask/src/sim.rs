//! `cargo xtask sim`: the simulation over many seeds, one process each.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::SignedDuration;
use serde::Deserialize;

/// Seeds that found a bug once, or that a control needs. They run first.
const REGRESSIONS: &str = include_str!("../../sim/seeds.txt");
/// The upper bound of processes at the same time.
const JOBS_MAX: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The number of seeds.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs seeds for this long instead of a number of seeds, such as 5m.
    #[arg(long = "for", value_parser = duration)]
    lasts: Option<Duration>,
    /// Runs the seeds that found a bug once first.
    #[arg(long)]
    regressions: bool,
    /// Processes at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The experiment: `mix`, one that ships with conclave-chaos, or a file.
    #[arg(long, default_value = "mix")]
    experiment: String,
    /// Runs each seed twice and compares the histories.
    #[arg(long)]
    twice: bool,
    /// A control: disks answer syncs without doing them. At least one seed must detect it.
    #[arg(long)]
    lying_disk: bool,
    /// The time limit of a seed. A seed that exceeds it is a finding: the simulation makes no progress.
    #[arg(long, value_parser = duration, default_value = "10m")]
    seed_timeout: Duration,
    /// An optimised simulation (the profile `simulation`): slow to build, and three times as quick.
    #[arg(long)]
    optimised: bool,
}

/// Parses a duration as all programs do, in jiff's "friendly" format: `90s`, `5m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let read = text.parse::<SignedDuration>().ok().and_then(|read| Duration::try_from(read).ok());
    read.ok_or_else(|| format!("{text:?} is not a duration; write for example 90s, 5m or 1h30m"))
}

/// The output of one process about its seed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    outcome: String,
    why: Vec<String>,
    history: String,
    retry_suppressed: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// The number of each kind of event in a simulation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    virtual_ms: u64,
    took_ms: u64,
    acked: u64,
    observed: u64,
    kills: u64,
    power_cuts: u64,
    sectors_unsynced: u64,
    sectors_kept: u64,
    restarts: u64,
    partitions: u64,
    pauses: u64,
    network_faults: u64,
    disk_faults: u64,
    clock_steps: u64,
    resolver_faults: u64,
    registrations: u64,
    names_answered: u64,
    syncs: u64,
    snapshots: u64,
    elections: u64,
}

/// The results so far.
#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    passed: u64,
    too_little: u64,
    /// Seeds with a violated property.
    found: Vec<u64>,
    /// Seeds without a verdict.
    failed: Vec<u64>,
    differ: Vec<u64>,
    twice: u64,
    suppressed: u64,
    counts: Counts,
}

/// Runs the seeds. Returns whether all results are as expected.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    if args.jobs == 0 || args.jobs > JOBS_MAX {
        bail!("--jobs must be 1 to {JOBS_MAX}");
    }
    let program = build(args)?;
    let began = Instant::now();
    let first = if args.regressions { regressions()? } else { Vec::new() };
    let fresh = match args.lasts {
        Some(_) => args.from..u64::MAX,
        None => args.from..args.from.checked_add(args.seeds).context("--from and --seeds go too far")?,
    };
    match args.lasts {
        Some(lasts) => {
            crate::print(&format!("seeds {first:?}, then {} and up for {} s", args.from, lasts.as_secs()))
        }
        None => {
            crate::print(&format!("seeds {first:?}, then {} to {}", fresh.start, fresh.end.saturating_sub(1)))
        }
    }
    let fixed = first.len();
    let todo = Mutex::new(first.into_iter().chain(fresh).enumerate());
    let next = || {
        let (number, seed) = todo.lock().unwrap_or_else(PoisonError::into_inner).next()?;
        let over = args.lasts.is_some_and(|lasts| number >= fixed && began.elapsed() >= lasts);
        (!over).then_some(seed)
    };
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let (done, lines) = mpsc::sync_channel(JOBS_MAX);
        for _ in 0..args.jobs {
            let (done, program, next) = (done.clone(), &program, &next);
            scope.spawn(move || {
                while let Some(seed) = next() {
                    let line = one(program, args, seed);
                    let again = args.twice.then(|| one(program, args, seed));
                    if done.send((seed, line, again)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for (seed, line, again) in lines {
            sum.add(seed, &line, again.as_ref(), args);
        }
    });
    sum.show(began.elapsed());
    let found = !sum.found.is_empty();
    let verdicts = sum.failed.is_empty();
    Ok(verdicts && if args.lying_disk { found } else { !found && sum.differ.is_empty() && sum.passed > 0 })
}

fn build(args: &Args) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--locked",
        // Unifies the features of dependencies over the whole workspace, so that the builds of its tests are reused.
        "--workspace",
        "--bin",
        "conclave-sim",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if args.optimised {
        command.args(["--profile", "simulation"]);
    }
    let built = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    if !built.status.success() {
        bail!("the simulation does not build");
    }
    let program = String::from_utf8_lossy(&built.stdout).lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "conclave-sim" && message["executable"].is_string();
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    program.context("cargo does not say where the simulation is")
}

fn regressions() -> anyhow::Result<Vec<u64>> {
    let lines = REGRESSIONS.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds = lines.filter(|line| !line.is_empty());
    seeds.map(|seed| seed.parse().with_context(|| format!("{seed:?} in crates/sim/seeds.txt"))).collect()
}

/// Runs one seed in a process.
fn one(program: &PathBuf, args: &Args, seed: u64) -> Result<Line, String> {
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string(), "--experiment", &args.experiment]);
    if args.lying_disk {
        command.arg("--lying-disk");
    }
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("it does not start: {error}"))?;
    let (died, wait) = mpsc::sync_channel::<()>(1);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        let mut text = String::new();
        // Missing output is reported below.
        let _ = pipe.map(|mut pipe| pipe.read_to_string(&mut text));
        text
    };
    std::thread::scope(|scope| {
        let out = scope.spawn(move || read(stdout.map(|pipe| Box::new(pipe) as _)));
        let err = scope.spawn(move || {
            let text = read(stderr.map(|pipe| Box::new(pipe) as _));
            drop(died);
            text
        });
        // The pipes end with the process.
        let late = wait.recv_timeout(args.seed_timeout) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            child.kill().map_err(|error| error.to_string())?;
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        if late {
            return Err(format!("it stood still for {} s", args.seed_timeout.as_secs()));
        }
        serde_json::from_str(out.trim())
            .map_err(|_| format!("{status}: {}", err.lines().last().unwrap_or("it said nothing")))
    })
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.virtual_ms += other.virtual_ms;
        self.took_ms += other.took_ms;
        self.acked += other.acked;
        self.observed += other.observed;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.sectors_unsynced += other.sectors_unsynced;
        self.sectors_kept += other.sectors_kept;
        self.restarts += other.restarts;
        self.partitions += other.partitions;
        self.pauses += other.pauses;
        self.network_faults += other.network_faults;
        self.disk_faults += other.disk_faults;
        self.clock_steps += other.clock_steps;
        self.resolver_faults += other.resolver_faults;
        self.registrations += other.registrations;
        self.names_answered += other.names_answered;
        self.syncs += other.syncs;
        self.snapshots += other.snapshots;
        self.elections += other.elections;
    }
}

impl Sum {
    fn add(
        &mut self,
        seed: u64,
        line: &Result<Line, String>,
        again: Option<&Result<Line, String>>,
        args: &Args,
    ) {
        self.seeds += 1;
        let reproduce = || {
            let lie = if args.lying_disk { " --lying-disk" } else { "" };
            // A history depends only on the program and the seed, not on debug assertions.
            let how = if args.optimised { " --profile simulation" } else { "" };
            format!("cargo run{how} -p conclave-sim -- --experiment {} --seed {seed}{lie}", args.experiment)
        };
        match line {
            Ok(line) => {
                self.suppressed += u64::from(line.retry_suppressed);
                self.counts.add(&line.counts);
                match line.outcome.as_str() {
                    "passed" => self.passed += 1,
                    "too_little" => {
                        self.too_little += 1;
                        crate::print(&format!("seed {seed}: tested too little: {}", line.why.join("; ")));
                    }
                    other => {
                        if other == "violated" { &mut self.found } else { &mut self.failed }.push(seed);
                        crate::print(&format!(
                            "seed {seed}: {}: {}\n    {}",
                            other.to_uppercase(),
                            line.why.join("; "),
                            reproduce()
                        ));
                    }
                }
            }
            Err(why) => {
                self.failed.push(seed);
                crate::print(&format!("seed {seed}: FAILED: {why}\n    {}", reproduce()));
            }
        }
        if let (Ok(first), Some(second)) = (line, again) {
            self.twice += 1;
            if second.as_ref().map(|second| &second.history) != Ok(&first.history) {
                self.differ.push(seed);
                crate::print(&format!("seed {seed}: the second run was another one"));
            }
        }
    }

    fn show(&self, took: Duration) {
        let Self { seeds, passed, too_little, found, failed, counts, .. } = self;
        crate::print(&format!(
            "{seeds} seeds in {} s: {passed} passed, {too_little} tested too little, {} found something {found:?}, {} failed {failed:?}",
            took.as_secs(),
            found.len(),
            failed.len()
        ));
        crate::print(&format!(
            "  {} s of the clusters' time, {} s of processes",
            counts.virtual_ms / 1_000,
            counts.took_ms / 1_000
        ));
        crate::print(&format!(
            "  {} acked sends, {} observed; retries suppressed in {} seeds",
            counts.acked, counts.observed, self.suppressed
        ));
        crate::print(&format!(
            "  {} kills, {} power cuts ({} sectors unsynced, {} of them kept), {} restarts, {} pauses",
            counts.kills,
            counts.power_cuts,
            counts.sectors_unsynced,
            counts.sectors_kept,
            counts.restarts,
            counts.pauses
        ));
        crate::print(&format!(
            "  {} partitions, {} slow or lossy networks, {} bad disks, {} clock steps",
            counts.partitions, counts.network_faults, counts.disk_faults, counts.clock_steps
        ));
        crate::print(&format!(
            "  {} faults of resolvers, which were told of nodes {} times and answered {} questions",
            counts.resolver_faults, counts.registrations, counts.names_answered
        ));
        crate::print(&format!(
            "  {} elections won, {} snapshots sent, {} syncs",
            counts.elections, counts.snapshots, counts.syncs
        ));
        if self.twice > 0 {
            let same = self.twice - self.differ.len() as u64;
            crate::print(&format!(
                "  {same} of {} seeds had the same history twice; the others: {:?}",
                self.twice, self.differ
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_all_programs_read_them() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5_400), ("1m 30s", 90)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "5", "m", "-1s", "1s ago", "1d"] {
            assert!(duration(bad).unwrap_err().contains("is not a duration"), "{bad}");
        }
    }
}
