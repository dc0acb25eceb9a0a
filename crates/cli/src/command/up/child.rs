//! Runs one server process: starts, watches, restarts and stops it.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::last_words::Begin;
use super::leftovers::start_of;
use super::log::rotate;
use crate::limits::{UP_LOG_CHECK_INTERVAL, UP_RESTART_DELAY, UP_STOP_DEADLINE};
use crate::private;

/// The two ways to stop the servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    /// Drain, then stop.
    pub(super) graceful: CancellationToken,
    /// Kill at once.
    pub(super) now: CancellationToken,
}

/// An event of the process with this index.
#[derive(Debug)]
pub(super) struct ChildEvent {
    pub(super) index: usize,
    pub(super) event: ProcessEvent,
}

/// A process that runs, or whose end is not known yet.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) pid: u32,
    /// Its start, which tells it from later processes with the same id; `None` if the system does not tell.
    pub(super) start: Option<String>,
}

/// An event of a process.
#[derive(Debug)]
pub(super) enum ProcessEvent {
    /// The process was started.
    Started {
        process: Running,
        /// Whether this is a restart.
        again: bool,
    },
    /// The process ended, or could not be started.
    Ended { cause: ExitCause, last_words: String },
}

impl ProcessEvent {
    /// The running process.
    pub(super) fn running(&self) -> Option<&Running> {
        match self {
            Self::Started { process, .. } => Some(process),
            Self::Ended { .. } => None,
        }
    }
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExitCause {
    Code(i32),
    Signal(i32),
    NotStarted(String),
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(0) => write!(f, "has stopped"),
            Self::Code(code) => write!(f, "has ended with code {code}"),
            Self::Signal(9) => write!(f, "was killed (signal 9)"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::NotStarted(why) => write!(f, "could not be started ({why})"),
        }
    }
}

impl From<ExitStatus> for ExitCause {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

/// Keeps one process running.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) index: usize,
    pub(super) executable: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) log: PathBuf,
    pub(super) log_bytes_max: u64,
    pub(super) restart: bool,
    pub(super) events: mpsc::Sender<ChildEvent>,
    pub(super) stop: Stop,
}

impl Keeper {
    /// Runs until a shutdown is requested or, without restarts, until the process ends.
    pub(super) async fn run(self) {
        let begin = Mutex::default();
        tokio::select! {
            biased;
            () = self.keep(&begin) => {}
            () = self.bound_log(&begin) => {}
        }
    }

    /// Bounds the size of the log. Never ends.
    async fn bound_log(&self, begin: &Mutex<Begin>) {
        let mut check = tokio::time::interval(UP_LOG_CHECK_INTERVAL);
        loop {
            check.tick().await;
            let (log, bytes_max) = (self.log.clone(), self.log_bytes_max);
            // A log that cannot be moved, because the disk is full or was removed, is tried again.
            let rotated = tokio::task::spawn_blocking(move || rotate(&log, bytes_max)).await;
            if let Ok(Ok(Some(cut))) = rotated {
                begin.lock().unwrap_or_else(PoisonError::into_inner).rotated(cut);
            }
        }
    }

    /// Keeps the process running. `begin` is where its part of the log begins.
    async fn keep(&self, begin: &Mutex<Begin>) {
        let mut again = false;
        loop {
            let length = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
            *begin.lock().unwrap_or_else(PoisonError::into_inner) = Begin::at(length);
            let cause = match self.spawn() {
                Ok((child, pipe)) => {
                    // Nobody has waited for the process yet, so no other one can have its id.
                    let pid = child.id().unwrap_or_default();
                    let process = Running { pid, start: start_of(pid) };
                    self.report(ProcessEvent::Started { process, again }).await;
                    let cause = self.watch(child).await;
                    // Held until here: the process stops when the pipe closes.
                    drop(pipe);
                    cause
                }
                Err(error) => ExitCause::NotStarted(error.to_string()),
            };
            if self.stop.graceful.is_cancelled() {
                return;
            }
            let begin = *begin.lock().unwrap_or_else(PoisonError::into_inner);
            self.report(ProcessEvent::Ended { cause, last_words: begin.last_words(&self.log) }).await;
            if !self.restart {
                // Other processes may still run, so the channel stays open until the shutdown.
                return self.stop.graceful.cancelled().await;
            }
            tokio::select! {
                () = self.stop.graceful.cancelled() => return,
                () = tokio::time::sleep(UP_RESTART_DELAY) => again = true,
            }
        }
    }

    async fn report(&self, event: ProcessEvent) {
        // During a shutdown nobody receives events, so the send must not block.
        tokio::select! {
            () = self.stop.graceful.cancelled() => {}
            _ = self.events.send(ChildEvent { index: self.index, event }) => {}
        }
    }

    fn spawn(&self) -> io::Result<(Child, Option<ChildStdin>)> {
        let log = private::options().create(true).append(true).open(&self.log)?;
        private::restrict(&log)?;
        let mut child = Command::new(&self.executable)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal must only reach this process, which then stops the servers.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // Taken out of the child, because `wait` closes it.
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }

    /// Waits until the process ends. On a shutdown sends SIGTERM, and SIGKILL after `UP_STOP_DEADLINE` or a second
    /// signal.
    async fn watch(&self, mut child: Child) -> ExitCause {
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            () = self.stop.graceful.cancelled() => None,
        };
        let status = match ended {
            Some(status) => status,
            None => {
                terminate(&child);
                tokio::select! {
                    status = child.wait() => status,
                    () = self.stop.now.cancelled() => kill(&mut child).await,
                    () = tokio::time::sleep(UP_STOP_DEADLINE) => kill(&mut child).await,
                }
            }
        };
        status.map_or_else(|error| ExitCause::NotStarted(error.to_string()), ExitCause::from)
    }
}

async fn kill(child: &mut Child) -> io::Result<ExitStatus> {
    child.kill().await?;
    child.wait().await
}

/// Sends SIGTERM. The child has not been waited for, so its id cannot belong to another process.
fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The process may have ended already.
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::log::older;
    use super::*;

    #[test]
    fn exit_causes_are_described() {
        assert_eq!(ExitCause::from(ExitStatus::from_raw(9)).to_string(), "was killed (signal 9)");
        assert_eq!(ExitCause::from(ExitStatus::from_raw(1 << 8)).to_string(), "has ended with code 1");
        assert_eq!(ExitCause::from(ExitStatus::from_raw(0)).to_string(), "has stopped");
    }

    fn keeper(script: &str, dir: &Path, restart: bool) -> (Keeper, mpsc::Receiver<ChildEvent>) {
        let (events, happened) = mpsc::channel(8);
        let keeper = Keeper {
            index: 0,
            executable: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: dir.join("log"),
            log_bytes_max: 1_000,
            restart,
            events,
            stop: Stop::default(),
        };
        (keeper, happened)
    }

    #[tokio::test]
    async fn a_server_that_dies_is_reported_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, mut happened) = keeper("echo no room left >&2; exit 3", dir.path(), false);
        let stop = keeper.stop.clone();
        let task = tokio::spawn(keeper.run());
        let started = happened.recv().await.unwrap().event;
        assert!(started.running().is_some());
        let ProcessEvent::Ended { cause, last_words } = happened.recv().await.unwrap().event else {
            panic!("it runs")
        };
        assert_eq!((cause, last_words.as_str()), (ExitCause::Code(3), "no room left"));
        stop.graceful.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_line_of_an_earlier_run_is_no_last_word() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log"), "an old reason\n").unwrap();
        let (keeper, mut happened) = keeper("exit 3", dir.path(), false);
        let stop = keeper.stop.clone();
        let task = tokio::spawn(keeper.run());
        happened.recv().await.unwrap();
        let ProcessEvent::Ended { last_words, .. } = happened.recv().await.unwrap().event else {
            panic!("it runs")
        };
        assert!(!last_words.contains("an old reason"), "{last_words}");
        stop.graceful.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn the_log_of_a_running_process_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let script = "i=0; while [ $i -lt 500 ]; do echo number $i; i=$((i + 1)); done; cat";
        let (keeper, mut happened) = keeper(script, dir.path(), false);
        let (stop, log) = (keeper.stop.clone(), keeper.log.clone());
        let task = tokio::spawn(keeper.run());
        happened.recv().await.unwrap();
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let moved = async {
            while length(&older(&log, 1)) == 0 || length(&log) > 1_000 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), moved).await.unwrap();
        stop.graceful.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_shutdown_sends_sigterm_and_a_second_one_kills() {
        let dir = tempfile::tempdir().unwrap();
        let (polite, mut happened) = keeper("cat", dir.path(), true);
        let stop = polite.stop.clone();
        let task = tokio::spawn(polite.run());
        happened.recv().await.unwrap();
        stop.graceful.cancel();
        task.await.unwrap();

        let (ignoring, mut happened) =
            keeper("trap '' TERM; echo ignoring; while :; do read x; done", dir.path(), true);
        let stop = ignoring.stop.clone();
        let task = tokio::spawn(ignoring.run());
        happened.recv().await.unwrap();
        stop.graceful.cancel();
        stop.now.cancel();
        task.await.unwrap();
    }
}
