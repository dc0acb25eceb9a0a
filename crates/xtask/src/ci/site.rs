//! What a step that drives processes on this machine works with: a folder, the programs, its output, and a deadline.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Context;
use super::output::Output;

/// Deadline of a wait. Only a failure reaches it, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// Time between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);
/// Lines of each file that a failed step shows, from the end.
const LAST_LINES: usize = 20;
/// Lines of a command's error output in the message that it failed.
const MESSAGE_LINES: usize = 4;
/// Folders below the step's own that are searched for these files.
const DEPTH_MAX: usize = 2;

/// The place of a running step.
pub(super) struct Site<'a> {
    pub(super) context: &'a Context,
    /// For everything that the step writes; empty at the beginning, removed at the end.
    pub(super) dir: PathBuf,
    output: &'a Output,
    deadline: Instant,
    /// Numbers the commands whose output is not kept.
    runs: AtomicU64,
}

/// A process that is killed and reaped when this is dropped.
pub(super) struct Process {
    child: Child,
    /// The command and its first argument, for messages.
    name: String,
    /// The files with its output.
    pub(super) out: PathBuf,
    pub(super) err: PathBuf,
    /// Held open as long as the process is to run.
    _stdin: Option<ChildStdin>,
}

/// The result of a command that has ended.
#[derive(Debug)]
pub(super) struct Ran {
    name: String,
    /// `None` after a signal.
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl<'a> Site<'a> {
    pub(super) fn new(context: &'a Context, output: &'a Output, dir: PathBuf, deadline: Instant) -> Self {
        Self { context, dir, output, deadline, runs: AtomicU64::new(0) }
    }

    /// A new folder in this one, with the same output and deadline.
    pub(super) fn folder(&self, name: &str) -> anyhow::Result<Self> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self::new(self.context, self.output, dir, self.deadline))
    }

    /// Writes a line to the step's output.
    pub(super) fn say(&self, line: &str) -> anyhow::Result<()> {
        self.output.line(line.as_bytes())
    }

    /// The command that runs one of our programs: without the user's settings, except a planted bug, which lets people
    /// see a step fail.
    pub(super) fn program(&self, name: &str) -> anyhow::Result<Command> {
        let path = self.context.program(name);
        if !path.is_file() {
            bail!("there is no {}; build it with `cargo build --workspace`", path.display());
        }
        let mut command = Command::new(path);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if (name.starts_with("CONCLAVE_") && name != "CONCLAVE_PLANTED_BUG") || name == "RUST_LOG" {
                command.env_remove(&key);
            }
        }
        command.env("NO_COLOR", "1").env("CONCLAVE_STATE_DIR", self.dir.join("state"));
        Ok(command)
    }

    /// Starts a process. Its output goes to `LABEL.out` and `LABEL.err`.
    pub(super) fn start(&self, label: &str, command: &mut Command) -> anyhow::Result<Process> {
        let name = name_of(command);
        let (out, err) = (self.dir.join(format!("{label}.out")), self.dir.join(format!("{label}.err")));
        let create = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
        command.stdout(create(&out)?).stderr(create(&err)?);
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let stdin = child.stdin.take();
        Ok(Process { child, name, out, err, _stdin: stdin })
    }

    /// Runs a command to its end. Its input, if any, is this text.
    pub(super) fn run(&self, command: &mut Command, input: &str) -> anyhow::Result<Ran> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let label = format!("run{number}");
        let stdin = self.dir.join(format!("{label}.in"));
        fs::write(&stdin, input)?;
        command.stdin(File::open(&stdin)?);
        let mut process = self.start(&label, command)?;
        let status = self.end_of(&mut process)?;
        let (out, err) = (read(&process.out)?, read(&process.err)?);
        // Hundreds of commands run; what a failed one printed is in its result.
        for path in [&stdin, &process.out, &process.err] {
            fs::remove_file(path)?;
        }
        Ok(Ran { name: process.name.clone(), code: status.code(), out, err })
    }

    /// Waits until the process ends.
    pub(super) fn end_of(&self, process: &mut Process) -> anyhow::Result<ExitStatus> {
        let mut ended = None;
        let what = format!("the end of {}", process.name);
        // A command may take as long as the whole step.
        self.wait(&what, self.deadline, || {
            ended = process.child.try_wait()?;
            Ok(ended.is_some())
        })?;
        ended.context("it has ended")
    }

    /// Waits until the condition holds.
    pub(super) fn until(
        &self,
        what: &str,
        condition: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.wait(what, self.deadline.min(Instant::now() + PATIENCE), condition)
    }

    fn wait(
        &self,
        what: &str,
        deadline: Instant,
        mut condition: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        while !condition()? {
            if Instant::now() >= deadline {
                bail!("waited {} s in vain for {what}", began.elapsed().as_secs());
            }
            std::thread::park_timeout(POLL);
        }
        Ok(())
    }

    /// Prints the last lines of all output and logs in the folder, after a failure.
    pub(super) fn say_last_words(&self) -> anyhow::Result<()> {
        let mut files = Vec::new();
        find_output(&self.dir, DEPTH_MAX, &mut files);
        files.sort();
        for file in files {
            let text = fs::read(&file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            if lines.is_empty() {
                continue;
            }
            self.say(&format!("==> {} <==", file.strip_prefix(&self.dir).unwrap_or(&file).display()))?;
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                self.say(line)?;
            }
        }
        Ok(())
    }
}

/// Collects files with output of processes.
fn find_output(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    // A folder that cannot be read has nothing to show.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if depth > 0 {
                find_output(&path, depth - 1, files);
            }
        } else if path.extension().is_some_and(|end| end == "out" || end == "err" || end == "log") {
            files.push(path);
        }
    }
}

fn name_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    command.get_args().fold(program.into_owned(), |name, argument| name + " " + &argument.to_string_lossy())
}

/// Reads a file as text.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Process {
    /// Sends a signal. The process has not been reaped, so its id cannot belong to another one.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        send_signal(self.child.id(), signal)
    }

    /// Fails if the process has ended.
    pub(super) fn still_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended too early, {status}: {}", self.name, last_words(&read(&self.err)?))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and was reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    /// Fails if the command did not end with this code.
    pub(super) fn expect(self, code: i32) -> anyhow::Result<Self> {
        if self.code != Some(code) {
            let ended = self.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
            bail!("{} ended with {ended} instead of {code}: {}", self.name, last_words(&self.err));
        }
        Ok(self)
    }
}

/// The last lines of an error output, on one line.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => "it printed nothing".to_owned(),
        lines => lines[lines.len().saturating_sub(MESSAGE_LINES)..].join(" | "),
    }
}

/// Sends a signal to the process with this id.
pub(super) fn send_signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let id =
        i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process"))?;
    kill_process(id, signal).with_context(|| format!("send {signal:?} to process {pid}"))
}

/// The state of a process as the kernel names it, such as `S` (sleeping) or `T` (stopped); `None` if there is none.
pub(super) fn state_of(pid: u32) -> Option<char> {
    state_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The state in a line of `/proc/PID/stat`. The name before it is in parentheses and may contain any character.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether there is no such process any more. One that only was not reaped yet is gone.
pub(super) fn is_gone(pid: u32) -> bool {
    matches!(state_of(pid), None | Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_process_is_read_behind_its_name() {
        assert_eq!(state_in("12 (conclave) S 1 12"), Some('S'));
        assert_eq!(state_in("12 (a ) T b) T 1 12"), Some('T'));
        assert_eq!(state_in("12"), None);
        assert!(!is_gone(std::process::id()));
    }

    #[test]
    fn a_process_is_killed_and_reaped_when_it_is_dropped() {
        let context = Context::find(None).unwrap();
        let dir = std::env::temp_dir().join(format!("xtask-site-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let output = Output::create(&dir.join("log"), false).unwrap();
        let site = Site::new(&context, &output, dir.clone(), Instant::now() + PATIENCE);
        let mut process = site.start("sleeper", Command::new("sleep").arg("1000")).unwrap();
        process.still_runs().unwrap();
        let pid = process.child.id();
        drop(process);
        assert!(is_gone(pid));
        let ran = site.run(Command::new("sh").args(["-c", "cat; echo no >&2; exit 3"]), "words").unwrap();
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(3), "words", "no\n"));
        assert!(ran.expect(0).unwrap_err().to_string().ends_with("exit code 3 instead of 0: no"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_wait_ends_at_the_deadline_of_the_step() {
        let context = Context::find(None).unwrap();
        let dir = std::env::temp_dir().join(format!("xtask-wait-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let output = Output::create(&dir.join("log"), false).unwrap();
        let site = Site::new(&context, &output, dir.clone(), Instant::now());
        let error = site.until("nothing", || Ok(false)).unwrap_err().to_string();
        assert!(error.ends_with("in vain for nothing"), "{error}");
        let mut process = site.start("sleeper", Command::new("sleep").arg("1000")).unwrap();
        assert!(site.end_of(&mut process).unwrap_err().to_string().ends_with("the end of sleep 1000"));
        fs::remove_dir_all(dir).unwrap();
    }
}
