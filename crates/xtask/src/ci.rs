//! `cargo xtask ci`: all checks that must pass before a change is merged.
//!
//! The table [`STEPS`] is the only list of steps: what each runs, the steps that must end before it, and its time limit.
//! Steps that drive processes on this machine are Rust (`smoke`, `planted`, `chaos`, `dns`, `units`), each in its own file; what
//! drives containers is a script in `.ci`. Two steps run at the same time (one compiles while another one waits for a cluster), and every step runs even
//! if an earlier one failed. The last line is the sum: `N passed, N failed`, with each test and each other step counted
//! as one.

mod chaos;
mod cluster;
mod dns;
mod load;
mod output;
mod packages;
mod planted;
mod report;
mod site;
mod smoke;
mod steps;
mod units;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

pub(crate) use self::load::Args as LoadArgs;
use self::output::{Output, Verdict};
use self::site::Site;
use self::steps::{STEPS, Step, Work};

/// Steps that run at the same time: the CI machines have two cores.
const AT_ONCE: usize = 2;
/// How often a line says which steps are still running.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// How long a step may clean up after the request to end, before it is killed.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these steps; all by default. A named step does not wait for steps that are not named.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Prints the steps and exits.
    #[arg(long)]
    list: bool,
    /// The folder of the programs that are tested; those of `build` by default.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// In the step `planted` only the runs with this bug, or with `none`; several can be named.
    #[arg(long, value_name = "BUG")]
    bug: Vec<String>,
}

/// The arguments of `cargo xtask dns`.
#[derive(Debug, clap::Args)]
pub(crate) struct DnsArgs {
    /// The port of the name server on 127.0.0.1.
    port: u16,
    /// The number of nodes in its zone.
    #[arg(default_value_t = 1)]
    nodes: usize,
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Paths and choices of the run.
struct Context {
    root: PathBuf,
    target: PathBuf,
    /// The folder of the programs that are tested.
    programs: PathBuf,
    /// The bugs that the step `planted` runs with; all if empty.
    bugs: Vec<String>,
}

impl Context {
    /// The paths, with programs from this folder, or those of the debug build.
    fn find(programs: Option<&Path>) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let target = std::path::absolute(target)?;
        let programs = match programs {
            Some(folder) => folder.canonicalize().with_context(|| format!("find {}", folder.display()))?,
            None => target.join("debug"),
        };
        Ok(Self { root, target, programs, bugs: Vec::new() })
    }

    /// The path of a program that is tested.
    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The command that runs a script of `.ci` with these programs.
    fn script(&self, name: &str, programs: &[&str]) -> Command {
        let mut command = Command::new(self.root.join(".ci").join(name));
        command.args(programs.iter().map(|program| self.program(program)));
        command
    }

    /// The folder for the logs of steps.
    fn logs(&self) -> anyhow::Result<PathBuf> {
        let logs = self.target.join("ci");
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        Ok(logs)
    }
}

/// A message of a step's thread to the scheduler.
enum Event {
    /// Cargo has started to run test programs and has released the build directory.
    TestsRun(usize),
    Ended(usize, anyhow::Result<Verdict>),
}

/// Runs the steps. Returns whether all passed.
pub(crate) fn run(args: &Args) -> anyhow::Result<bool> {
    if args.list {
        for step in STEPS {
            crate::print(&format!("{:10} {}", step.name, step.about));
        }
        return Ok(true);
    }
    if let Some(unknown) = args.steps.iter().find(|name| !STEPS.iter().any(|step| step.name == **name)) {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!("no step is called {unknown}; there are: {}", names.join(", "));
    }
    let chosen = |step: &Step| args.steps.is_empty() || args.steps.iter().any(|name| name == step.name);
    if let Some(unknown) = args.bug.iter().find(|bug| !planted::bugs().contains(bug.as_str())) {
        let bugs: Vec<_> = planted::bugs().into_iter().collect();
        bail!("no run has the bug {unknown}; there are: {}", bugs.join(", "));
    }
    let mut context = Context::find(args.programs.as_deref())?;
    context.bugs.clone_from(&args.bug);
    let logs = context.logs()?;
    // The output of a single step is printed live, because a person waits for it.
    let live = STEPS.iter().filter(|step| chosen(step)).count() == 1;

    let began = Instant::now();
    let mut waiting: Vec<usize> = (0..STEPS.len()).filter(|at| chosen(&STEPS[*at])).collect();
    let mut running: BTreeMap<usize, Instant> = BTreeMap::new();
    let mut tests_run: Vec<usize> = Vec::new();
    let mut verdicts: BTreeMap<usize, Verdict> = BTreeMap::new();
    std::thread::scope(|scope| {
        let (events, received) = mpsc::sync_channel(STEPS.len());
        while !(waiting.is_empty() && running.is_empty()) {
            let done = |name: &str, waiting: &[usize], running: &BTreeMap<usize, Instant>| {
                !waiting.iter().chain(running.keys()).any(|at| STEPS[*at].name == name)
            };
            let next = waiting.iter().position(|at| {
                let step = &STEPS[*at];
                let others_ended = step.after.iter().all(|name| done(name, &waiting, &running));
                let lock_is_free = step.once_running.is_none_or(|name| {
                    done(name, &waiting, &running) || tests_run.iter().any(|at| STEPS[*at].name == name)
                });
                others_ended && lock_is_free
            });
            let is_free = |next: &usize| {
                let alone = STEPS[waiting[*next]].alone || running.keys().any(|at| STEPS[*at].alone);
                running.len() < if alone { 1 } else { AT_ONCE }
            };
            if let Some(next) = next.filter(is_free) {
                let at = waiting.remove(next);
                let (events, context, logs) = (events.clone(), &context, &logs);
                crate::print(&format!("==> {}", STEPS[at].name));
                running.insert(at, Instant::now());
                scope.spawn(move || {
                    let verdict = one(at, context, logs, live, &events);
                    // The scheduler listens until every step has ended.
                    let _ = events.send(Event::Ended(at, verdict));
                });
                continue;
            }
            match received.recv_timeout(REPORT_INTERVAL) {
                Ok(Event::TestsRun(at)) => tests_run.push(at),
                Ok(Event::Ended(at, verdict)) => {
                    let took = running.remove(&at).map_or(Duration::ZERO, |since| since.elapsed());
                    let verdict = verdict.unwrap_or_else(|error| Verdict::failed(took, &error));
                    report(&STEPS[at], &verdict, &logs, live);
                    verdicts.insert(at, verdict);
                }
                Err(_) => {
                    let list: Vec<String> = running
                        .iter()
                        .map(|(at, since)| format!("{} {} s", STEPS[*at].name, since.elapsed().as_secs()))
                        .collect();
                    crate::print(&format!("... still running: {}", list.join(", ")));
                }
            }
        }
    });
    Ok(summary(&verdicts, began.elapsed()))
}

/// Asks a name server that runs already the questions of the step `dns`. Returns whether all answers are right.
pub(crate) fn dns(args: &DnsArgs) -> anyhow::Result<bool> {
    let context = Context::find(None)?;
    let output = Output::create(&context.logs()?.join("dns-running.log"), true)?;
    let (port, nodes) = (args.port, args.nodes);
    in_folder("dns-running", &context, &output, minutes(20), |site| dns::check_running(site, port, nodes))
}

/// Runs the load test. Returns whether the cluster stood it.
pub(crate) fn load(args: &LoadArgs) -> anyhow::Result<bool> {
    let context = Context::find(args.programs.as_deref())?;
    let output = Output::create(&context.logs()?.join("load.log"), true)?;
    in_folder("load", &context, &output, args.deadline(), |site| load::check(site, args))
}

/// Runs one step to its end.
fn one(
    at: usize,
    context: &Context,
    logs: &Path,
    live: bool,
    events: &mpsc::SyncSender<Event>,
) -> anyhow::Result<Verdict> {
    let step = &STEPS[at];
    let began = Instant::now();
    let output = Output::create(&logs.join(format!("{}.log", step.name)), live)?;
    let mut passed = true;
    for work in (step.work)(context) {
        let left = step.deadline.saturating_sub(began.elapsed());
        passed = match work {
            Work::Command(command) => run_command(*command, at, context, &output, left, events)?,
            Work::Check(check) => in_folder(step.name, context, &output, left, check)?,
        };
        if !passed {
            break;
        }
    }
    Ok(output.verdict(passed, began.elapsed()))
}

/// Runs a check in a folder of its own, which is removed afterwards. Returns whether it succeeded.
fn in_folder(
    name: &str,
    context: &Context,
    output: &Output,
    left: Duration,
    check: impl FnOnce(&Site) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let dir = std::env::temp_dir().join(format!("conclave-ci-{name}-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    let site = Site::new(context, output, dir.clone(), Instant::now() + left);
    let checked = check(&site);
    if let Err(error) = &checked {
        site.say_last_words()?;
        site.say(&format!("{name} failed: {error:#}"))?;
    }
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(checked.is_ok())
}

/// Runs a command to its end, or until its time is over. Returns whether it succeeded.
fn run_command(
    mut command: Command,
    at: usize,
    context: &Context,
    output: &Output,
    left: Duration,
    events: &mpsc::SyncSender<Event>,
) -> anyhow::Result<bool> {
    let (pipe, input) = std::io::pipe()?;
    command.current_dir(&context.root).stdin(Stdio::null());
    command.stdout(input.try_clone()?).stderr(input);
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_INCREMENTAL", "0");
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    // The pipe ends when its write end is closed everywhere, this process included.
    drop(command);
    let (ended, end) = mpsc::sync_channel::<()>(1);
    let (status, late) = std::thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let late = end.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                stop(&mut child, &end);
            }
            (child.wait(), late)
        });
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { break };
            if line.trim_ascii_start().starts_with(b"Running ") {
                let _ = events.send(Event::TestsRun(at));
            }
            output.line(&line)?;
        }
        drop(ended);
        watchdog.join().map_err(|_| anyhow::anyhow!("the watchdog panicked"))
    })?;
    if late {
        output.line(b"killed: the time of the step was over")?;
    }
    Ok(!late && status?.success())
}

/// Requests a process to end, and kills it after [`GRACE`].
fn stop(child: &mut std::process::Child, ended: &mpsc::Receiver<()>) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if ended.recv_timeout(GRACE) == Err(mpsc::RecvTimeoutError::Timeout) {
        let _ = child.kill();
    }
}

/// Prints a step's output, unless it was printed live.
fn report(step: &Step, verdict: &Verdict, logs: &Path, live: bool) {
    if !live && let Ok(text) = fs::read(logs.join(format!("{}.log", step.name))) {
        crate::print(&format!("--- {}: {}", step.name, step.about));
        crate::print(&String::from_utf8_lossy(&text));
    }
    let word = if verdict.passed { "ok" } else { "FAILED" };
    crate::print(&format!("<== {}: {word} after {} s", step.name, verdict.took.as_secs()));
}

/// Prints the table and the sum. Returns whether all steps passed.
fn summary(verdicts: &BTreeMap<usize, Verdict>, took: Duration) -> bool {
    let (mut passed, mut failed) = (0, 0);
    let mut table = String::from("\n==> summary\n");
    for (at, verdict) in verdicts {
        let (name, word) = (STEPS[*at].name, if verdict.passed { "ok" } else { "FAILED" });
        let notes = verdict.notes.join("; ");
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{name:10} {word:6} {:4} s  {notes}", verdict.took.as_secs());
        passed += verdict.tests_passed;
        failed += verdict.tests_failed;
        match (verdict.passed, verdict.tests_passed + verdict.tests_failed) {
            (true, 0) => passed += 1,
            // A step that fails without a failed test, such as one that does not compile, counts as one failure.
            (false, _) if verdict.tests_failed == 0 => failed += 1,
            _ => {}
        }
    }
    let _ = writeln!(table, "{:17} {:4} s", "total", took.as_secs());
    crate::print(&format!("{table}{passed} passed, {failed} failed"));
    failed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        Verdict { passed: true, ..Verdict::default() }
    }

    #[test]
    fn a_failed_step_fails_the_whole_run_even_if_no_test_failed() {
        let ok = || Verdict { tests_passed: 3, ..verdict() };
        assert!(summary(&BTreeMap::from([(0, verdict()), (1, ok())]), Duration::ZERO));
        let broken = Verdict { passed: false, ..verdict() };
        assert!(!summary(&BTreeMap::from([(0, ok()), (1, broken)]), Duration::ZERO));
        let one_test = Verdict { passed: false, tests_failed: 1, ..ok() };
        assert!(!summary(&BTreeMap::from([(0, one_test)]), Duration::ZERO));
    }
}
