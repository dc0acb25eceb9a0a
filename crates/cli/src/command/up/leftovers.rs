//! Processes of an earlier `conclave up` of the same directory that was killed. They notice that the pipe to them has
//! closed and stop by themselves, but until then they hold the ports and the data dirs, and one that is frozen does so for ever.
//!
//! The list of processes, which only an `up` that was killed leaves behind, names them. A process is one of the list only
//! if it has the id and the start of the list: ids are used again.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Signal, geteuid};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::list;
use crate::exit::{Exit, Failed};
use crate::limits::{UP_KILL_PATIENCE, UP_POLL_INTERVAL, UP_STOP_AGAIN_INTERVAL};

/// The processes that an earlier `up` has left behind.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// Those that still run.
    running: Vec<Leftover>,
    /// Whether the earlier `up` was killed.
    was_killed: bool,
}

/// The list of processes, as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    /// Whether processes that end are started again.
    #[serde(default)]
    pub(super) restarts: bool,
    /// The id of the cluster's certificate authority, if its servers speak TLS.
    #[serde(default)]
    pub(super) authority: Option<String>,
    children: Vec<Leftover>,
}

impl Listed {
    /// Reads the list in this directory; `None` if there is none that only this user can have written.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&read(&list::file(dir)).ok()?).ok()
    }

    /// The process with this name.
    pub(super) fn find(&self, name: &str) -> Option<&Leftover> {
        self.children.iter().find(|child| child.name == name)
    }
}

/// A process that an `up` has started.
#[derive(Debug, Deserialize)]
pub(super) struct Leftover {
    name: String,
    pid: Option<u32>,
    started: Option<String>,
    /// Why it could not be sent a signal.
    #[serde(skip)]
    error: Option<Errno>,
}

impl Leftovers {
    /// Finds the processes that an earlier `up` has left behind. Nobody else may run an `up` of this directory meanwhile.
    pub(super) fn of(dir: &Path) -> Self {
        let text = match read(&list::file(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            text => text.unwrap_or_default(),
        };
        // A damaged list, or one of another version or of somebody else, names nobody.
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
        (!self.running.is_empty()).then(|| {
            format!(
                "an earlier `conclave up` of this directory was killed; stopping what it left: {}",
                self.names()
            )
        })
    }

    fn names(&self) -> String {
        let name = |left: &Leftover| {
            let error = left.error.map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} (pid {}{error})", left.name, left.pid.unwrap_or_default())
        };
        self.running.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Stops the processes, and kills those that still run after this time. Returns when none runs any more.
    ///
    /// # Errors
    /// If one still runs some seconds after it was killed, or may not be sent a signal.
    pub(super) async fn stop(self, patience: Duration) -> Result<(), Failed> {
        self.stop_by(patience, UP_KILL_PATIENCE, Leftover::send).await
    }

    async fn stop_by(
        mut self,
        patience: Duration,
        kill_patience: Duration,
        send: impl Fn(&Leftover, Signal) -> Result<(), Errno>,
    ) -> Result<(), Failed> {
        let deadline = Instant::now() + patience;
        let mut next = Instant::now();
        while !self.running.is_empty() {
            let now = Instant::now();
            if now >= next {
                next = now + UP_STOP_AGAIN_INTERVAL;
                for left in &mut self.running {
                    // A process that stops already is ended at once by another signal: it waits for clients to go elsewhere, and
                    // all of them stop. A frozen one must go on to stop.
                    let kill = (now >= deadline).then_some(Signal::KILL);
                    left.error = [Signal::TERM, Signal::CONT]
                        .into_iter()
                        .chain(kill)
                        .find_map(|signal| send(left, signal).err().filter(|&error| error != Errno::SRCH));
                }
            }
            sleep(UP_POLL_INTERVAL).await;
            self.running.retain(Leftover::runs);
            if Instant::now() >= deadline + kill_patience && !self.running.is_empty() {
                let what = format!(
                    "processes of an earlier `conclave up` of this directory do not end: {}",
                    self.names()
                );
                let next = "end them as the user that started them, or wait until the disk that holds them up answers";
                return Err(Failed::new(Exit::Refused, what, next));
            }
        }
        Ok(())
    }
}

/// Reads the list, if only this user can have written it: whoever has planted another one would have chosen which
/// processes are killed.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::options().read(true).custom_flags(nofollow()).open(path)?;
    if !is_own(&file.metadata()?, geteuid().as_raw()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// Another list of this user must not be taken for that of this directory. Nor may a pipe hold this process up.
fn nofollow() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

/// Whether this is a file of the user alone, which nobody else can write, and which has no other name.
fn is_own(list: &Metadata, user: u32) -> bool {
    list.is_file() && list.uid() == user && list.mode() & 0o022 == 0 && list.nlink() == 1
}

impl Leftover {
    /// The process with this id and this start.
    pub(super) fn new(name: &str, pid: u32, started: Option<String>) -> Self {
        Self { name: name.to_owned(), pid: Some(pid), started, error: None }
    }

    /// Its id; `None` while it does not run.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Asks it to stop.
    pub(super) fn terminate(&self) -> Result<(), Errno> {
        self.send(Signal::TERM)
    }

    /// Whether this very process runs.
    pub(super) fn runs(&self) -> bool {
        self.started.is_some() && self.pid.and_then(start_of) == self.started
    }

    /// Sends a signal to this very process, and never to another one that has got its id.
    #[cfg(target_os = "linux")]
    fn send(&self, signal: Signal) -> Result<(), Errno> {
        use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
        let pid = self.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let process = pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
        // Checked after the process was opened, so that no other process can take its place.
        if self.runs() { pidfd_send_signal(process, signal) } else { Err(Errno::SRCH) }
    }

    /// Elsewhere the start of a process is not known, so nobody is found.
    #[cfg(not(target_os = "linux"))]
    fn send(&self, _: Signal) -> Result<(), Errno> {
        Err(Errno::SRCH)
    }
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
    use std::fs::Permissions;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::private;

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
        let mut file = private::create(&list::file(dir)).expect("a file");
        file.write_all(list.to_string().as_bytes()).expect("it is written");
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
        left.stop(Duration::ZERO).await.unwrap();
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
        left.stop(Duration::ZERO).await.unwrap();
        assert!(child.try_wait().unwrap().is_none());
        // The same after the list was read.
        let (name, pid, started) = ("node1".to_owned(), Some(child.id()), Some("1/1".to_owned()));
        assert_eq!(Leftover { name, pid, started, error: None }.send(Signal::KILL), Err(Errno::SRCH));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().code().is_some(), "it ended by itself");
    }

    #[tokio::test]
    async fn a_process_that_nothing_ends_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let this = std::process::id();
        write(dir.path(), this, &start_of(this).unwrap());
        let left = Leftovers::of(dir.path());
        let refused = |_: &Leftover, _| Err(Errno::PERM);
        let failed = left.stop_by(Duration::ZERO, Duration::ZERO, refused).await.unwrap_err();
        assert!(failed.what.contains(&format!("node1 (pid {this}: ")), "{failed}");
        assert!(failed.what.contains(&Errno::PERM.to_string()), "{failed}");
    }

    #[test]
    fn a_list_that_others_can_have_written_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let list = list::file(dir.path());
        let this = std::process::id();
        write(dir.path(), this, &start_of(this).unwrap());
        assert!(Leftovers::of(dir.path()).note().is_some());
        let metadata = fs::metadata(&list).unwrap();
        assert!(is_own(&metadata, metadata.uid()) && !is_own(&metadata, metadata.uid() + 1));
        for mode in [0o620, 0o602] {
            fs::set_permissions(&list, Permissions::from_mode(mode)).unwrap();
            let left = Leftovers::of(dir.path());
            assert!(left.was_killed() && left.note().is_none(), "{mode:o}");
        }
        fs::set_permissions(&list, Permissions::from_mode(0o600)).unwrap();
        // The list of another directory.
        let another = tempfile::tempdir().unwrap();
        symlink(&list, list::file(another.path())).unwrap();
        assert!(Leftovers::of(another.path()).note().is_none());
        fs::remove_file(list::file(another.path())).unwrap();
        fs::hard_link(&list, list::file(another.path())).unwrap();
        assert!(Leftovers::of(another.path()).note().is_none());
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
