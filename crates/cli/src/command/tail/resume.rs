//! The resume file: the position of each printed room.
//!
//! A line is appended and synced after each printed event, so the last complete line of a room is never ahead of the
//! output. An incomplete line at the end is ignored. A file that has grown is rewritten under another name and renamed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failed};
use crate::limits::RESUME_FILE_BYTES_MAX;

/// The start of the first line, before the cluster id.
const HEADING: &str = "conclave resume file, at least once, cluster ";

/// An open resume file. It is locked, because two readers of one file would skip each other's events.
#[derive(Debug)]
pub(super) struct ResumeFile {
    path: PathBuf,
    cluster: String,
    file: File,
    bytes: u64,
    positions: BTreeMap<String, u64>,
    lock: File,
}

impl Drop for ResumeFile {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is being started holds it open, too, until it runs its program.
        let _ = self.lock.unlock();
    }
}

impl ResumeFile {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// If it cannot be used, is in use, belongs to another cluster, or is not a resume file.
    pub(super) fn open(path: &Path, cluster: &str) -> Result<Self, Failed> {
        let io = |error: io::Error| cannot_use(path, &error);
        // The file itself gets replaced, so the lock is a separate file.
        let lock = OpenOptions::new().create(true).append(true).open(beside(path, "lock")).map_err(io)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Failed::new(
                Exit::Refused,
                format!("the resume file {} is in use by another command", path.display()),
                "use another file for each reader",
            ),
            fs::TryLockError::Error(error) => io(error),
        })?;
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(io(error)),
        };
        let positions = parse(&text, cluster).map_err(|what| {
            let what = format!("the resume file {} {what}", path.display());
            Failed::new(Exit::Refused, what, "use another file, or remove this one to begin again")
        })?;
        let (file, bytes) = rewrite(path, cluster, &positions).map_err(io)?;
        Ok(Self { path: path.to_owned(), cluster: cluster.to_owned(), file, bytes, positions, lock })
    }

    /// The last printed event of a room.
    pub(super) fn position(&self, room: &str) -> Option<u64> {
        self.positions.get(room).copied()
    }

    /// Records on disk that an event was printed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn passed(&mut self, room: &str, seq: u64) -> Result<(), Failed> {
        self.positions.insert(room.to_owned(), seq);
        self.write(room, seq).map_err(|error| cannot_use(&self.path, &error))
    }

    fn write(&mut self, room: &str, seq: u64) -> io::Result<()> {
        if self.bytes > RESUME_FILE_BYTES_MAX {
            (self.file, self.bytes) = rewrite(&self.path, &self.cluster, &self.positions)?;
            return Ok(());
        }
        let line = format!("{room} {seq}\n");
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        self.file.sync_data()
    }
}

fn parse(text: &str, cluster: &str) -> Result<BTreeMap<String, u64>, String> {
    if !text.is_empty() && !text.contains('\n') {
        // The first line is never incomplete, because the file is created by a rename.
        return Err("is not a resume file".to_owned());
    }
    // A crash may leave an incomplete line after the last line feed.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = complete.lines();
    match lines.next() {
        None => return Ok(BTreeMap::new()),
        Some(first) => match first.strip_prefix(HEADING) {
            Some(id) if id == cluster => {}
            Some(id) => return Err(format!("belongs to another cluster ({id})")),
            None => return Err("is not a resume file".to_owned()),
        },
    }
    lines
        .map(|line| {
            let (room, seq) = line.split_once(' ')?;
            Some((room.to_owned(), seq.parse().ok()?))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "is damaged".to_owned())
}

/// Rewrites the file, and returns it open at its end.
fn rewrite(path: &Path, cluster: &str, positions: &BTreeMap<String, u64>) -> io::Result<(File, u64)> {
    let mut text = format!("{HEADING}{cluster}\n");
    for (room, seq) in positions {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{room} {seq}");
    }
    let temporary = beside(path, "new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()?;
    }
    Ok((file, text.len() as u64))
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

fn cannot_use(path: &Path, error: &io::Error) -> Failed {
    let what = format!("the resume file {} cannot be used: {error}", path.display());
    Failed::new(Exit::Refused, what, "give --resume-file a place that you may write to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        let mut file = ResumeFile::open(&path, "c1").unwrap();
        assert_eq!(file.position("general"), None);
        for seq in 1..=20_000 {
            // Without a sync: 20,000 of them would be too slow.
            file.positions.insert("general".into(), seq);
            if seq > 19_990 {
                file.passed("general", seq).unwrap();
            }
        }
        file.passed("ops", 3).unwrap();
        drop(file);
        let file = ResumeFile::open(&path, "c1").unwrap();
        assert_eq!((file.position("general"), file.position("ops")), (Some(20_000), Some(3)));
    }

    #[test]
    fn a_grown_file_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        let mut file = ResumeFile::open(&path, "c1").unwrap();
        file.bytes = RESUME_FILE_BYTES_MAX + 1;
        file.passed("general", 7).unwrap();
        file.passed("general", 8).unwrap();
        assert!(file.bytes < 200);
        drop(file);
        assert_eq!(ResumeFile::open(&path, "c1").unwrap().position("general"), Some(8));
    }

    #[test]
    fn an_incomplete_line_is_ignored() {
        let text = format!("{HEADING}c1\ngeneral 41\ngeneral 4");
        assert_eq!(parse(&text, "c1").unwrap()["general"], 41);
        assert!(parse("", "c1").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        let file = ResumeFile::open(&path, "c1").unwrap();
        assert!(ResumeFile::open(&path, "c1").unwrap_err().what.contains("in use"));
        drop(file);
        assert!(ResumeFile::open(&path, "c2").unwrap_err().what.contains("another cluster (c1)"));
        for text in ["dear diary\n", "dear diary"] {
            fs::write(&path, text).unwrap();
            assert!(ResumeFile::open(&path, "c1").unwrap_err().what.contains("not a resume file"));
        }
        fs::write(&path, format!("{HEADING}c1\ngeneral many\n")).unwrap();
        assert!(ResumeFile::open(&path, "c1").unwrap_err().what.contains("damaged"));
        assert!(ResumeFile::open(Path::new("/nowhere/at/all"), "c1").is_err());
    }
}
