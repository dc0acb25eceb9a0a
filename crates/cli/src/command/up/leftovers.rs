//! Processes of an earlier `conclave up` of the same directory that was killed. They notice that the pipe to them has
//! closed and stop by themselves, but until then they hold the ports and the data dirs, and one that is frozen does so for ever.
//!
//! The list of processes, which only an `up` that was killed leaves behind, names them. A process is one of the list only
//! if it has the id and the start of the list: ids are used again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::list;
use crate::limits::{UP_POLL_INTERVAL, UP_STOP_AGAIN_INTERVAL};

/// The processes that an earlier `up` has left behind.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Those that still run.
    running: Vec<Leftover>,
    /// Whether the earlier `up` was killed.
    was_killed: bool,
}

#[derive(Debug, Deserialize)]
struct Listed {
    children: Vec<Leftover>,
}

#[derive(Debug, Deserialize)]
struct Leftover {
    name: String,
    pid: Option<u32>,
    started: Option<String>,
}

impl Leftovers {
    /// Finds the processes that an earlier `up` has left behind. Nobody else may run an `up` of this directory meanwhile.
    pub(super) fn of(dir: &Path) -> Self {
        let Ok(text) = fs::read(list::file(dir)) else { return Self::default() };
        // A damaged list, or one of another version, names nobody.
        let mut running =
            serde_json::from_slice(&text).map_or_else(|_| Vec::new(), |list: Listed| list.children);
        running.retain(Leftover::runs);
        Self { running, was_killed: true }
    }

    /// Whether the earlier `up` was killed. Then its ports may still be in use, also by a process that the list does not name yet.
    pub(super) fn was_killed(&self) -> bool {
        self.was_killed
    }

    /// The processes, for people; `None` if none runs.
    pub(super) fn note(&self) -> Option<String> {
        let name = |left: &Leftover| format!("{} (pid {})", left.name, left.pid.unwrap_or_default());
        let names: Vec<String> = self.running.iter().map(name).collect();
        (!names.is_empty()).then(|| {
            format!(
                "an earlier `conclave up` of this directory was killed; stopping what it left: {}",
                names.join(", ")
            )
        })
    }

    /// Stops the processes, and kills those that still run after this time. Returns when none runs any more.
    pub(super) async fn stop(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut next = Instant::now();
        while !self.running.is_empty() {
            let now = Instant::now();
            if now >= next {
                next = now + UP_STOP_AGAIN_INTERVAL;
                for left in &self.running {
                    // A process that stops already is ended at once by another signal: it waits for clients to go elsewhere, and
                    // all of them stop. A frozen one must go on to stop.
                    left.send(Signal::TERM);
                    left.send(Signal::CONT);
                    if now >= deadline {
                        left.send(Signal::KILL);
                    }
                }
            }
            sleep(UP_POLL_INTERVAL).await;
            self.running.retain(Leftover::runs);
        }
    }
}

impl Leftover {
    fn runs(&self) -> bool {
        self.started.is_some() && self.pid.and_then(start_of) == self.started
    }

    /// Sends a signal to this very process, and never to another one that has got its id.
    #[cfg(target_os = "linux")]
    fn send(&self, signal: Signal) {
        use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
        let pid = self.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return };
        // Checked after the process was opened, so that no other process can take its place.
        if self.runs() {
            // The process may have ended.
            let _ = pidfd_send_signal(process, signal);
        }
    }

    /// Elsewhere the start of a process is not known, so nobody is found.
    #[cfg(not(target_os = "linux"))]
    fn send(&self, _: Signal) {}
}

/// The start of a running process: which start of the machine, and how long after that. Two processes with the same id differ in
/// it. `None` if the process has ended, or the system does not tell.
pub(super) fn start_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields follow the name, which is in parentheses and may contain parentheses itself.
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace();
    let state = fields.next()?;
    // The 22nd field of all, in ticks since the machine's start.
    let ticks = fields.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // One that nobody has waited for yet holds nothing any more.
    (!matches!(state, "Z" | "X")).then(|| format!("{}/{ticks}", boot.trim()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that ignores SIGTERM.
    fn stubborn() -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' TERM; echo ready; read never"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let out = child.stdout.as_mut().expect("it is piped");
        BufReader::new(out).read_line(&mut String::new()).expect("a line");
        child
    }

    fn write(dir: &Path, pid: u32, started: &str) {
        let list = serde_json::json!({"children": [
            {"name": "node1", "pid": pid, "started": started, "kind": "server"},
            {"name": "node2", "pid": null},
        ]});
        fs::write(list::file(dir), list.to_string()).expect("a file");
    }

    #[tokio::test]
    async fn a_process_that_does_not_stop_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Leftovers::of(dir.path()).was_killed());
        let mut child = stubborn();
        write(dir.path(), child.id(), &start_of(child.id()).unwrap());
        let left = Leftovers::of(dir.path());
        assert!(left.was_killed());
        let note = left.note().unwrap();
        assert!(note.contains(&format!("node1 (pid {})", child.id())) && !note.contains("node2"), "{note}");
        left.stop(Duration::ZERO).await;
        assert!(!child.wait().unwrap().success());
        assert_eq!(start_of(child.id()), None);
    }

    #[tokio::test]
    async fn another_process_with_the_same_id_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = stubborn();
        write(dir.path(), child.id(), "another boot/1");
        let left = Leftovers::of(dir.path());
        assert_eq!((left.was_killed(), left.note()), (true, None));
        left.stop(Duration::ZERO).await;
        assert!(child.try_wait().unwrap().is_none());
        // The same after the list was read.
        let late =
            Leftover { name: "node1".to_owned(), pid: Some(child.id()), started: Some("1/1".to_owned()) };
        late.send(Signal::KILL);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().code().is_some(), "it ended by itself");
    }

    #[test]
    fn a_damaged_list_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{\"children\": 7}", "{\"children\": [{\"name\": \"node1\", \"pid\": 1}]}"] {
            fs::write(list::file(dir.path()), text).unwrap();
            let left = Leftovers::of(dir.path());
            assert!(left.was_killed() && left.note().is_none(), "{text}");
        }
    }
}
