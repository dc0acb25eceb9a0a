//! Copies of data dirs: made of a server that stands still, put in the place of its data dir, and taken away again.
//!
//! What must stay true: a data dir is never removed, and is moved only while no server can have it open. A file in the copy
//! marks it, so the next controller knows which of the two directories is the copy after this one was killed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;
use tokio::time::Instant;

use super::{BACK_DEADLINE, Local, POLL_INTERVAL, state, state_in};
use crate::backend::BackendError;
use crate::limits::COPY_BYTES_MAX;

/// The file that marks a copy.
const MARKER: &str = "copied-by-conclave-chaos";
/// The file that a server holds locked in its data dir.
const LOCK: &str = "lock";
/// The file of a data dir that only takes up space.
const BALLAST: &str = "ballast";

/// A server's data dir and its copy.
#[derive(Clone, Debug)]
pub(super) struct DataDirs {
    /// The place of the data dir: the server opens this path.
    place: PathBuf,
    /// The place of the copy. While the copy is in the place of the data dir, the data dir is here.
    copy: PathBuf,
    /// A copy that is being made or removed.
    unfinished: PathBuf,
}

impl DataDirs {
    /// Those of a server of the `conclave up` in this directory.
    pub(super) fn of(up: &Path, server: &str) -> Self {
        let beside = |suffix: &str| up.join(format!("{server}.{suffix}"));
        Self { place: up.join(server), copy: beside("copy"), unfinished: beside("copy.unfinished") }
    }

    /// Whether the copy is in the place of the data dir.
    pub(super) fn is_restored(&self) -> bool {
        self.place.join(MARKER).exists()
    }

    /// Whether there is a copy beside the data dir.
    pub(super) fn has_copy(&self) -> bool {
        self.copy.join(MARKER).exists()
    }

    /// Whether the server may have been stopped for a copy that was not finished.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished.exists()
    }

    /// Begins a copy. From here on, [`DataDirs::is_unfinished`] until [`DataDirs::make`] is done.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.remove()?;
        DirBuilder::new().mode(0o700).create(&self.unfinished)?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.unfinished.join(MARKER))?;
        Ok(())
    }

    /// Makes the copy that was begun. The server must not write meanwhile. Blocks.
    pub(super) fn make(&self) -> io::Result<()> {
        let mut bytes = 0;
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.place)? {
            let entry = entry?;
            if [LOCK, BALLAST].iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if !entry.file_type()?.is_file() {
                let path = entry.path();
                return Err(io::Error::other(format!("{} is no file of a data dir", path.display())));
            }
            bytes += entry.metadata()?.len();
            names.push(entry.file_name());
        }
        if bytes > COPY_BYTES_MAX {
            return Err(io::Error::other(format!(
                "the data dir has {bytes} bytes, and a copy may have at most {COPY_BYTES_MAX}"
            )));
        }
        for name in names {
            fs::copy(self.place.join(&name), self.unfinished.join(&name))?;
        }
        fs::rename(&self.unfinished, &self.copy)
    }

    /// Removes the copy, finished or not. Blocks.
    ///
    /// # Errors
    /// If the copy is in the place of the data dir, or the directory in the copy's place is no copy.
    pub(super) fn remove(&self) -> io::Result<()> {
        if self.is_restored() {
            return Err(io::Error::other(format!(
                "{} is a copy: put the data dir back first",
                self.place.display()
            )));
        }
        remove_if_there(&self.unfinished)?;
        if self.has_copy() {
            // Only a whole directory has a mark: one that is removed in part is in the other place.
            fs::rename(&self.copy, &self.unfinished)?;
        } else if self.copy.exists() {
            return Err(io::Error::other(format!("{} is no copy of a data dir", self.copy.display())));
        }
        remove_if_there(&self.unfinished)
    }

    /// Exchanges the data dir and the copy. Returns false if a server has one of them open. Blocks.
    pub(super) fn try_exchange(&self) -> io::Result<bool> {
        // A server that starts meanwhile finds its data dir in use, and ends.
        let (Some(_place), Some(_copy)) = (lock(&self.place)?, lock(&self.copy)?) else { return Ok(false) };
        renameat_with(CWD, &self.place, CWD, &self.copy, RenameFlags::EXCHANGE)?;
        // The journal closes a fault only after this.
        self.place.parent().map_or(Ok(()), |up| File::open(up)?.sync_all())?;
        Ok(true)
    }
}

fn remove_if_there(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The lock that a server takes on its data dir.
#[derive(Debug)]
struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // To close the file is not enough: a process that is being started at this moment may have a copy of it. The file
        // is closed next, whatever this says.
        let _ = self.0.unlock();
    }
}

/// Takes the lock of a data dir; `None` if a server has it.
fn lock(dir: &Path) -> io::Result<Option<DirLock>> {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(DirLock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Local {
    pub(super) fn data_dirs(&self, name: &str) -> DataDirs {
        DataDirs::of(self.path.parent().unwrap_or(Path::new("")), name)
    }

    /// Copies the data dir of a running server, which stands still meanwhile: its files are those of one moment.
    pub(super) async fn copy_data_dir(&self, name: &str) -> Result<(), BackendError> {
        let what = || format!("copy the data dir of {name}");
        let dirs = self.data_dirs(name);
        if dirs.is_restored() {
            let why = "an older copy is in its place; heal that fault first".to_owned();
            return Err(BackendError::Failed { what: what(), why });
        }
        let begun = dirs.clone();
        blocking(what, move || begun.begin()).await?;
        let pid = self.wait_until_running(name).await?;
        let was_frozen = state(pid) == Some('T');
        self.signal(name, Signal::STOP)?;
        let copied = match wait_until_still(pid).await {
            Ok(()) => blocking(what, move || dirs.make()).await,
            Err(why) => Err(BackendError::Failed { what: what(), why }),
        };
        if !was_frozen {
            self.signal(name, Signal::CONT)?;
        }
        copied
    }

    /// Removes a server's copy, after its own data dir is back in its place.
    pub(super) async fn remove_copy(&self, name: &str) -> Result<(), BackendError> {
        let dirs = self.data_dirs(name);
        if dirs.is_unfinished() {
            self.signal(name, Signal::CONT)?;
        }
        self.put_back(name).await?;
        blocking(|| format!("remove the copy of the data dir of {name}"), move || dirs.remove()).await
    }

    /// Kills a server and puts the copy in the place of its data dir. `up` starts the server on it.
    pub(super) async fn restore_old_copy(&self, name: &str) -> Result<(), BackendError> {
        let dirs = self.data_dirs(name);
        if dirs.is_restored() {
            return Ok(());
        }
        if !dirs.has_copy() {
            return Err(BackendError::Failed {
                what: format!("put back an older copy of the data dir of {name}"),
                why: "there is no copy: `copy-data-dir` has to make it before, and to last longer".to_owned(),
            });
        }
        self.exchange(name, &dirs).await
    }

    /// Puts a server's own data dir back in its place, if the copy is there. `up` starts the server on it.
    pub(super) async fn put_back(&self, name: &str) -> Result<(), BackendError> {
        let dirs = self.data_dirs(name);
        if dirs.is_restored() { self.exchange(name, &dirs).await } else { Ok(()) }
    }

    /// Kills the server, and exchanges its data dir and the copy before `up` starts it again.
    async fn exchange(&self, name: &str, dirs: &DataDirs) -> Result<(), BackendError> {
        let what = || format!("exchange the data dir of {name} and its copy");
        let deadline = Instant::now() + BACK_DEADLINE;
        loop {
            self.signal(name, Signal::KILL)?;
            let dirs = dirs.clone();
            if blocking(what, move || dirs.try_exchange()).await? {
                return Ok(());
            }
            if Instant::now() > deadline {
                let why = "a process that is not the server of conclave up has one of them open".to_owned();
                return Err(BackendError::Failed { what: what(), why });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Waits until every thread of a stopped process stands still: a thread in a write goes on until its end.
async fn wait_until_still(pid: i32) -> Result<(), String> {
    let deadline = Instant::now() + BACK_DEADLINE;
    loop {
        let still =
            threads(pid).is_some_and(|threads| threads.iter().all(|state| matches!(state, 'T' | 't')));
        if still {
            return Ok(());
        }
        if Instant::now() > deadline || state(pid).is_none() {
            return Err("its process does not stand still".to_owned());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The states of a process's threads, as [`state`] gives them; `None` if they cannot be read now.
fn threads(pid: i32) -> Option<Vec<char>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks
        .map(|task| state_in(&task.ok()?.path().join("stat")))
        .collect::<Option<Vec<char>>>()
        .filter(|states| !states.is_empty())
}

/// Runs work that reads and writes files on a thread that may block.
async fn blocking<T: Send + 'static>(
    what: impl Fn() -> String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BackendError> {
    let failed = |why: String| BackendError::Failed { what: what(), why };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
