//! `cargo xtask ci`: all checks that must pass before a change is merged.
//!
//! The table [`STEPS`] is the only list of steps: the commands of each, the steps that must end before it, and its time
//! limit. Two steps run at the same time (one compiles while another one waits for a cluster), and every step runs even
//! if an earlier one failed. The last line is the sum: `N passed, N failed`, with each test and each other step counted
//! as one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Steps that run at the same time: the CI machines have two cores.
const AT_ONCE: usize = 2;
/// How often a line says which steps are still running.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// How long a step may clean up after the request to end, before it is killed.
const GRACE: Duration = Duration::from_secs(30);
/// Newer versions of cargo-deny may judge differently, so the version is part of the check.
const CARGO_DENY: &str = "0.20.2";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these steps; all by default. A named step does not wait for steps that are not named.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Prints the steps and exits.
    #[arg(long)]
    list: bool,
}

/// One check that must pass.
struct Step {
    name: &'static str,
    about: &'static str,
    /// The step starts when these have ended, with or without success.
    after: &'static [&'static str],
    /// The step also waits until this one has ended or has printed that its tests run. Until then cargo holds the lock
    /// of the build directory, and the new step could take the lock first and delay the tests.
    once_running: Option<&'static str>,
    /// The step needs both cores: it simulates, or runs several clusters of a debug build.
    alone: bool,
    deadline: Duration,
    commands: fn(&Context) -> Vec<Command>,
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// All steps, in the order in which they start unless `after` or `once_running` delays one.
const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "cargo fmt",
        after: &[],
        once_running: None,
        alone: false,
        deadline: minutes(2),
        commands: |_| vec![cargo(&["fmt", "--all", "--check"])],
    },
    Step {
        name: "tidy",
        about: "floors, circles, length, links, limits, words",
        after: &["format"],
        once_running: None,
        alone: false,
        deadline: minutes(2),
        commands: |_| {
            let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "xtask".into()));
            command.arg("tidy");
            vec![command]
        },
    },
    Step {
        name: "build",
        about: "all programs and tests, with the features that the tests use",
        after: &["format"],
        once_running: None,
        alone: false,
        deadline: minutes(40),
        commands: |_| vec![cargo(&["test", "--workspace", "--locked", "--no-run"])],
    },
    Step {
        name: "tests",
        about: "cargo test --workspace: clusters in one process, real processes, kill -9",
        after: &["build"],
        once_running: None,
        alone: false,
        deadline: minutes(30),
        commands: |_| vec![cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])],
    },
    Step {
        name: "clippy",
        about: "no warning in any target",
        after: &["build"],
        once_running: Some("tests"),
        alone: false,
        deadline: minutes(30),
        commands: |_| {
            vec![cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])]
        },
    },
    Step {
        name: "docs",
        about: "the documentation builds, and every link in it leads somewhere",
        after: &["clippy"],
        once_running: Some("tests"),
        alone: false,
        deadline: minutes(20),
        commands: docs,
    },
    Step {
        name: "deny",
        about: "licences, sources, known vulnerabilities (deny.toml)",
        after: &["docs"],
        once_running: None,
        alone: false,
        deadline: minutes(20),
        commands: deny,
    },
    Step {
        name: "containers",
        about: "the images, a composition of them, and what may happen to it",
        after: &["tests"],
        once_running: None,
        alone: true,
        deadline: minutes(30),
        commands: |context| {
            let mut command = context.script("containers", &[]);
            command.env("CONCLAVE_PROGRAMS", context.target.join("debug"));
            vec![command]
        },
    },
    Step {
        name: "planted",
        about: "each planted bug is found by the experiment that is named for it",
        after: &["tests"],
        once_running: None,
        alone: true,
        deadline: minutes(25),
        commands: planted,
    },
    Step {
        name: "sim",
        about: "three minutes of simulated clusters: seeds that once found something, then fresh ones",
        after: &["tests"],
        once_running: None,
        alone: true,
        deadline: minutes(20),
        commands: sim,
    },
    Step {
        name: "metrics",
        about: "boards, alerts and documents name what exists; a real Prometheus asks all of it",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(15),
        commands: |context| vec![context.script("metrics", &["conclave"])],
    },
    Step {
        name: "chaos",
        about: "the experiment smoke passes, its damaged history does not, a killed controller leaves nothing broken",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(15),
        commands: |context| vec![context.script("chaos", &["conclave", "conclave-chaos"])],
    },
    Step {
        name: "smoke",
        about: "up, send, kill every server once: nothing missing, doubled or out of order",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        commands: |context| vec![context.script("smoke", &["conclave"])],
    },
    Step {
        name: "dns",
        about: "dig, drill and kdig get the same answers, also after a leader was killed",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        commands: |context| vec![context.script("dns", &["conclave"])],
    },
    Step {
        name: "units",
        about: "systemd understands the units, and finds them confined",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        commands: |context| vec![context.script("units", &[])],
    },
    Step {
        name: "k8s",
        about: "the manifests against the API's schemas of three versions",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        commands: |context| vec![context.script("k8s", &[])],
    },
];

/// Paths of the run.
struct Context {
    root: PathBuf,
    target: PathBuf,
}

impl Context {
    fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Self { target: std::path::absolute(target)?, root })
    }

    /// The path of a program of the debug build.
    fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// The command that runs a script of `.ci` with these programs.
    fn script(&self, name: &str, programs: &[&str]) -> Command {
        let mut command = Command::new(self.root.join(".ci").join(name));
        command.args(programs.iter().map(|program| self.program(program)));
        command
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Builds the documentation with private items, which is for conclave's developers.
fn docs(_: &Context) -> Vec<Command> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    vec![command]
}

/// Installs cargo-deny if it is missing, as a build without optimisation: it is built once and runs for a second.
/// Without the advisory database, which some machines cannot reach, all other checks run and the summary has a note.
fn deny(_: &Context) -> Vec<Command> {
    let mut commands = Vec::new();
    let version = cargo(&["deny", "--version"]).stderr(Stdio::null()).output();
    let installed = version.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word == CARGO_DENY)
    });
    if !installed {
        let version = format!("={CARGO_DENY}");
        commands.push(cargo(&[
            "install",
            "--locked",
            "--profile",
            "dev",
            "cargo-deny",
            "--version",
            &version,
        ]));
    }
    let mut check = Command::new("sh");
    check.args([
        "-c",
        "if cargo deny --locked fetch db; then exec cargo deny --locked check; fi
         cargo deny --locked check bans licenses sources &&
         echo 'ci-note: known vulnerabilities were NOT checked: the advisory database cannot be reached'",
    ]);
    commands.push(check);
    commands
}

/// Seeds of the simulation that found a bug once, then new ones, which change with each commit and each day.
fn sim(_: &Context) -> Vec<Command> {
    let head = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head = head.map(|output| output.stdout).unwrap_or_default();
    let day = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    // FNV-1a: any hash serves.
    let hash = head.iter().chain(&day.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let from = (hash % 4_000_000_000).to_string();
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "xtask".into()));
    command.args(["sim", "--regressions", "--for", "3m", "--from", &from]);
    vec![command]
}

fn planted(context: &Context) -> Vec<Command> {
    vec![
        // This test checks that a build without debug assertions has no planted bug.
        cargo(&["test", "--locked", "--release", "-p", "conclave-core", "--lib", "planted"]),
        context.script("planted", &["conclave", "conclave-chaos"]),
    ]
}

/// The result of a step.
#[derive(Debug)]
struct Verdict {
    passed: bool,
    took: Duration,
    tests_passed: u64,
    tests_failed: u64,
    /// Lines that began with `ci-note: `, which the summary repeats.
    notes: Vec<String>,
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
    let context = Context::find()?;
    let logs = context.target.join("ci");
    std::fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
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
    let path = logs.join(format!("{}.log", step.name));
    let mut log = std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut verdict =
        Verdict { passed: true, took: Duration::ZERO, tests_passed: 0, tests_failed: 0, notes: Vec::new() };
    for mut command in (step.commands)(context) {
        let (output, input) = std::io::pipe()?;
        command.current_dir(&context.root).stdin(Stdio::null());
        command.stdout(input.try_clone()?).stderr(input);
        command.env("CARGO_TERM_COLOR", "never").env("CARGO_INCREMENTAL", "0");
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        // The pipe ends when its write end is closed everywhere, this process included.
        drop(command);
        let (ended, end) = mpsc::sync_channel::<()>(1);
        let left = step.deadline.saturating_sub(began.elapsed());
        let (status, late) = std::thread::scope(|scope| {
            let watchdog = scope.spawn(move || {
                let late = end.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout);
                if late {
                    stop(&mut child, &end);
                }
                (child.wait(), late)
            });
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                let text = String::from_utf8_lossy(&line);
                if text.trim_start().starts_with("Running ") {
                    let _ = events.send(Event::TestsRun(at));
                }
                verdict.read(&text);
                if live {
                    crate::print(&text);
                }
                log.write_all(&line).and_then(|()| log.write_all(b"\n"))?;
            }
            drop(ended);
            watchdog.join().map_err(|_| anyhow::anyhow!("the watchdog panicked"))
        })?;
        verdict.took = began.elapsed();
        if late {
            writeln!(log, "killed: not done within {} s", step.deadline.as_secs())?;
        }
        if late || !status?.success() {
            verdict.passed = false;
            break;
        }
    }
    Ok(verdict)
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

impl Verdict {
    fn failed(took: Duration, error: &anyhow::Error) -> Self {
        Self { passed: false, took, tests_passed: 0, tests_failed: 0, notes: vec![format!("{error:#}")] }
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

/// Prints a step's output, unless it was printed live.
fn report(step: &Step, verdict: &Verdict, logs: &Path, live: bool) {
    if !live && let Ok(text) = std::fs::read(logs.join(format!("{}.log", step.name))) {
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
        Verdict { passed: true, took: Duration::ZERO, tests_passed: 0, tests_failed: 0, notes: Vec::new() }
    }

    #[test]
    fn test_result_lines_and_notes_are_parsed_and_other_output_is_ignored() {
        let mut verdict = verdict();
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

    #[test]
    fn a_failed_step_fails_the_whole_run_even_if_no_test_failed() {
        let ok = || Verdict { tests_passed: 3, ..verdict() };
        assert!(summary(&BTreeMap::from([(0, verdict()), (1, ok())]), Duration::ZERO));
        let broken = Verdict { passed: false, ..verdict() };
        assert!(!summary(&BTreeMap::from([(0, ok()), (1, broken)]), Duration::ZERO));
        let one_test = Verdict { passed: false, tests_failed: 1, ..ok() };
        assert!(!summary(&BTreeMap::from([(0, one_test)]), Duration::ZERO));
    }

    #[test]
    fn every_step_waits_only_for_steps_before_it() {
        for (at, step) in STEPS.iter().enumerate() {
            for name in step.after.iter().chain(&step.once_running) {
                assert!(
                    STEPS[..at].iter().any(|before| before.name == *name),
                    "{} waits for {name}",
                    step.name
                );
            }
        }
    }
}
