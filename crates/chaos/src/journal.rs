//! The faults that are in force, on disk.
//!
//! What must stay true: a fault is in the journal, synced, before it is applied, and is closed only after it was healed. So
//! after a crash of the controller, the next one knows what to heal. A lock keeps a second controller out.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// A fault that is, or may be, in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The number of the fault in this journal, from 1.
    pub id: u64,
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
    /// Its targets.
    pub nodes: Vec<String>,
    /// The names of all servers when it was applied: a partition needs them to know both sides.
    pub all: Vec<String>,
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Applied(Applied),
    Healed(u64),
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another controller has the journal locked.
    #[error("another controller is at work on this cluster ({}); stop it first", .0.display())]
    Locked(PathBuf),
    /// The file cannot be used.
    #[error("the journal {} cannot be used: {source}", .path.display())]
    Io {
        /// The journal.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line before the last one cannot be parsed.
    #[error(
        "the journal {} is damaged in line {line}: it no longer tells which faults are in force; heal the cluster by hand (start what was stopped, restart every server), then remove the file",
        .path.display()
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// The journal of one cluster.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    open: BTreeMap<u64, Applied>,
    next: u64,
    /// The length of all complete lines, bytes.
    whole: u64,
}

impl Drop for Journal {
    fn drop(&mut self) {
        // To close the file is not enough: a process that is being started at this moment may have a copy of it. The file
        // is closed next, whatever this says.
        let _ = self.file.unlock();
    }
}

impl Journal {
    /// Opens the journal, and creates it if it does not exist. The faults of an earlier controller are in
    /// [`Journal::open_faults`].
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = open.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::Locked(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let mut open = BTreeMap::new();
        let mut next = 1;
        let mut whole = 0;
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            match serde_json::from_str(line.trim_end()) {
                Ok(Line::Applied(applied)) => {
                    next = next.max(applied.id + 1);
                    open.insert(applied.id, applied);
                }
                Ok(Line::Healed(id)) => {
                    open.remove(&id);
                }
                // An incomplete last line: the controller crashed while it wrote it, so the fault was not applied yet.
                Err(_) if !line.ends_with('\n') => break,
                Err(_) => return Err(JournalError::Damaged { path: path.to_owned(), line: number }),
            }
            whole += line.len() as u64;
        }
        // No open fault: start over, so that the file stays small.
        let keep = if open.is_empty() { 0 } else { whole };
        let journal = Self { path: path.to_owned(), file, open, next, whole: keep };
        journal.file.set_len(keep).and_then(|()| journal.file.sync_all()).map_err(failed)?;
        Ok(journal)
    }

    /// Writes a fault and syncs. Only then may the fault be applied.
    ///
    /// # Errors
    /// If the fault cannot be written or synced.
    pub fn apply(
        &mut self,
        fault: Fault,
        nodes: Vec<String>,
        all: Vec<String>,
    ) -> Result<Applied, JournalError> {
        let applied = Applied { id: self.next, fault, nodes, all };
        self.write(&Line::Applied(applied.clone()))?;
        self.next += 1;
        self.open.insert(applied.id, applied.clone());
        Ok(applied)
    }

    /// Closes a fault. Only after it was healed.
    ///
    /// # Errors
    /// If the line cannot be written or synced.
    pub fn healed(&mut self, id: u64) -> Result<(), JournalError> {
        self.write(&Line::Healed(id))?;
        self.open.remove(&id);
        if self.open.is_empty() {
            // No open fault: start over, so that the file of a long-running controller does not grow. If a crash undoes the
            // truncation, every fault in the file is closed already.
            let failed = |source| JournalError::Io { path: self.path.clone(), source };
            self.file.set_len(0).map_err(failed)?;
            self.whole = 0;
        }
        Ok(())
    }

    /// The faults that are not healed, the oldest first.
    #[must_use]
    pub fn open_faults(&self) -> Vec<Applied> {
        self.open.values().cloned().collect()
    }

    fn write(&mut self, line: &Line) -> Result<(), JournalError> {
        let mut text = serde_json::to_string(line)
            .map_err(|error| JournalError::Io { path: self.path.clone(), source: error.into() })?;
        text.push('\n');
        // Removes the rest of a write that failed, for example on a full disk: it must not stand before the next line. As the last
        // line it would do no harm, since opening the journal cuts it off.
        let written = self.file.set_len(self.whole);
        let written = written.and_then(|()| self.file.write_all(text.as_bytes()));
        let written = written.and_then(|()| self.file.sync_data());
        written.map_err(|source| JournalError::Io { path: self.path.clone(), source })?;
        self.whole += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn open_faults_are_there_for_the_next_controller() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Locked(_))));
        let first = journal.apply(Fault::Pause, names(&["a"]), names(&["a", "b"])).unwrap();
        let second =
            journal.apply(Fault::PowerCut { torn: true }, names(&["b"]), names(&["a", "b"])).unwrap();
        journal.healed(first.id).unwrap();
        drop(journal);

        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.open_faults(), std::slice::from_ref(&second));
        let third = journal.apply(Fault::Kill, names(&["a"]), names(&["a", "b"])).unwrap();
        assert!(third.id > second.id);
        journal.healed(second.id).unwrap();
        journal.healed(third.id).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        let fourth = journal.apply(Fault::Kill, names(&["a"]), names(&["a", "b"])).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.open_faults(), std::slice::from_ref(&fourth));
        journal.healed(fourth.id).unwrap();
        drop(journal);
        assert!(Journal::open(&path).unwrap().open_faults().is_empty());
    }

    #[test]
    fn the_rest_of_a_failed_write_is_removed_before_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        let pause = journal.apply(Fault::Pause, names(&["a"]), names(&["a"])).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"applied\":{\"id\":2,\"fau").unwrap();
        let kill = journal.apply(Fault::Kill, names(&["a"]), names(&["a"])).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().open_faults(), [pause, kill]);
    }

    #[test]
    fn an_incomplete_last_line_is_ignored_and_other_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::open(&path).unwrap();
        journal.apply(Fault::Pause, names(&["a"]), names(&["a"])).unwrap();
        journal.apply(Fault::Kill, names(&["a"]), names(&["a"])).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.open_faults().len(), 1);
        drop(journal);
        let mut damaged = whole;
        damaged[3] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Damaged { line: 1, .. })));
    }
}
