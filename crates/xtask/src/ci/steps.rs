//! The table of steps: what each runs, which steps must end before it, and its time limit.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::site::Site;
use super::{Context, chaos, dns, minutes, planted, smoke, units};

/// Newer versions of cargo-deny may judge differently, so the version is part of the check.
const CARGO_DENY: &str = "0.20.2";

/// A part of a step.
pub(super) enum Work {
    /// Must end with success.
    Command(Box<Command>),
    /// Runs in this process, drives others, and judges them.
    Check(fn(&Site) -> anyhow::Result<()>),
}

impl From<Command> for Work {
    fn from(command: Command) -> Self {
        Self::Command(Box::new(command))
    }
}

/// One check that must pass.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// The step starts when these have ended, with or without success.
    pub(super) after: &'static [&'static str],
    /// The step also waits until this one has ended or has printed that its tests run. Until then cargo holds the lock
    /// of the build directory, and the new step could take the lock first and delay the tests.
    pub(super) once_running: Option<&'static str>,
    /// The step needs both cores: it simulates, or runs several clusters of a debug build.
    pub(super) alone: bool,
    pub(super) deadline: Duration,
    /// One after the other; the first failure ends the step.
    pub(super) work: fn(&Context) -> Vec<Work>,
}

/// All steps, in the order in which they start unless `after` or `once_running` delays one.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "format",
        about: "cargo fmt",
        after: &[],
        once_running: None,
        alone: false,
        deadline: minutes(2),
        work: |_| vec![cargo(&["fmt", "--all", "--check"]).into()],
    },
    Step {
        name: "tidy",
        about: "floors, circles, length, links, limits, words",
        after: &["format"],
        once_running: None,
        alone: false,
        deadline: minutes(2),
        work: |_| {
            let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "xtask".into()));
            command.arg("tidy");
            vec![command.into()]
        },
    },
    Step {
        name: "build",
        about: "all programs and tests, with the features that the tests use",
        after: &["format"],
        once_running: None,
        alone: false,
        deadline: minutes(40),
        work: |_| vec![cargo(&["test", "--workspace", "--locked", "--no-run"]).into()],
    },
    Step {
        name: "tests",
        about: "cargo test --workspace: clusters in one process, real processes, kill -9",
        after: &["build"],
        once_running: None,
        alone: false,
        deadline: minutes(30),
        work: tests,
    },
    Step {
        name: "clippy",
        about: "no warning in any target",
        after: &["build"],
        once_running: Some("tests"),
        alone: false,
        deadline: minutes(30),
        work: |_| {
            vec![
                cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]).into(),
            ]
        },
    },
    Step {
        name: "docs",
        about: "the documentation builds, and every link in it leads somewhere",
        after: &["clippy"],
        once_running: Some("tests"),
        alone: false,
        deadline: minutes(20),
        work: documentation,
    },
    Step {
        name: "deny",
        about: "licences, sources, known vulnerabilities (deny.toml)",
        after: &["docs"],
        once_running: None,
        alone: false,
        deadline: minutes(20),
        work: dependencies,
    },
    Step {
        name: "release",
        about: "a build without debug assertions has no planted bug",
        after: &["deny"],
        once_running: Some("tests"),
        alone: false,
        deadline: minutes(20),
        work: |_| {
            vec![cargo(&["test", "--locked", "--release", "-p", "conclave-core", "--lib", "planted"]).into()]
        },
    },
    Step {
        name: "containers",
        about: "the images, a composition of them, and what may happen to it",
        after: &["tests"],
        once_running: None,
        alone: true,
        deadline: minutes(30),
        work: |context| {
            let mut command = context.script("containers", &[]);
            command.env("CONCLAVE_PROGRAMS", &context.programs);
            vec![command.into()]
        },
    },
    Step {
        name: "planted",
        about: "each planted bug is found by the experiment that is named for it",
        after: &["tests"],
        once_running: None,
        alone: true,
        deadline: minutes(25),
        work: |_| vec![Work::Check(planted::check)],
    },
    Step {
        name: "sim",
        about: "simulated clusters: seeds that once found something, then three minutes of fresh ones",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(20),
        work: simulation,
    },
    Step {
        name: "metrics",
        about: "boards, alerts and documents name what exists; a real Prometheus asks all of it",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(15),
        work: |context| vec![context.script("metrics", &["conclave"]).into()],
    },
    Step {
        name: "chaos",
        about: "the experiment smoke passes, its damaged history does not, a killed controller leaves nothing broken",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(15),
        work: |_| vec![Work::Check(chaos::check)],
    },
    Step {
        name: "smoke",
        about: "up, send, kill every server once: nothing missing, doubled or out of order",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        work: |_| vec![Work::Check(smoke::check)],
    },
    Step {
        name: "dns",
        about: "dig, drill and kdig get the same answers, also after a leader was killed",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        work: |_| vec![Work::Check(dns::check)],
    },
    Step {
        name: "units",
        about: "systemd understands the units, and finds them confined",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        work: |_| vec![Work::Check(units::check)],
    },
    Step {
        name: "k8s",
        about: "the manifests against the API's schemas of three versions",
        after: &["tests"],
        once_running: None,
        alone: false,
        deadline: minutes(10),
        work: |context| vec![context.script("k8s", &[]).into()],
    },
];

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// The tests mostly wait, for elections and for processes, so two more than the machine has processors run at a time.
fn tests(_: &Context) -> Vec<Work> {
    let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    command.env("RUST_TEST_THREADS", (processors + 2).to_string());
    vec![command.into()]
}

/// Builds the documentation with private items, which is for conclave's developers.
fn documentation(_: &Context) -> Vec<Work> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    vec![command.into()]
}

/// Installs cargo-deny if it is missing, as a build without optimisation: it is built once and runs for a second.
/// Without the advisory database, which some machines cannot reach, all other checks run and the summary has a note.
fn dependencies(_: &Context) -> Vec<Work> {
    let mut work = Vec::new();
    let version = cargo(&["deny", "--version"]).stderr(Stdio::null()).output();
    let installed = version.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word == CARGO_DENY)
    });
    if !installed {
        let version = format!("={CARGO_DENY}");
        work.push(
            cargo(&["install", "--locked", "--profile", "dev", "cargo-deny", "--version", &version]).into(),
        );
    }
    let mut check = Command::new("sh");
    check.args([
        "-c",
        "if cargo deny --locked fetch db; then exec cargo deny --locked check; fi
         cargo deny --locked check bans licenses sources &&
         echo 'ci-note: known vulnerabilities were NOT checked: the advisory database cannot be reached'",
    ]);
    work.push(check.into());
    work
}

/// Seeds of the simulation that found a bug once, then new ones, which change with each commit and each day.
fn simulation(_: &Context) -> Vec<Work> {
    let head = Command::new("git").args(["rev-parse", "HEAD"]).output();
    let head = head.map(|output| output.stdout).unwrap_or_default();
    let day = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    // FNV-1a: any hash serves.
    let hash = head.iter().chain(&day.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let from = (hash % 4_000_000_000).to_string();
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "xtask".into()));
    // One core: the steps beside it need the other one, and mostly wait.
    command.args(["sim", "--regressions", "--for", "3m", "--jobs", "1", "--from", &from]);
    vec![command.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

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
