//! The resume file: the position of a consumer in each room.
//!
//! ```text
//! conclave resume file 2, at least once, cluster be1020ae…
//! 6 1042 ops
//! ```
//!
//! A line names a room by its id, the seq up to which everything is taken, and the room's name for people. Lines are
//! appended and synced, and the last complete line of a room counts. An incomplete line at the end is ignored. A file that
//! has grown is replaced. Version 0.1.0 wrote `NAME SEQ`; such a file is read and replaced. Names of digits alone are not
//! taken over from it, because it also wrote ids in their place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failed};
use crate::files;
use crate::limits::RESUME_FILE_BYTES_MAX;

/// The start of the first line, before the cluster id.
const HEADING: &str = "conclave resume file 2, at least once, cluster ";
/// The same in version 0.1.0.
const HEADING_BY_NAME: &str = "conclave resume file, at least once, cluster ";
/// Stands in place of an id that is not known yet.
const NO_ID: &str = "-";

/// The positions of a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Positions {
    /// Seq and name by room id.
    rooms: BTreeMap<u64, (u64, String)>,
    /// Seq by name: rooms of a file of version 0.1.0 that were not followed since.
    by_name: BTreeMap<String, u64>,
}

/// An open resume file. It is locked, because two readers of one file would skip each other's events.
#[derive(Debug)]
pub(super) struct ResumeFile {
    /// The file itself, behind symbolic links.
    path: PathBuf,
    cluster: String,
    file: File,
    bytes: u64,
    positions: Positions,
    lock: File,
}

impl Drop for ResumeFile {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is being started holds it open, too, until it runs its program.
        let _ = self.lock.unlock();
    }
}

impl ResumeFile {
    /// Opens or creates the file, for these rooms by name and id.
    ///
    /// # Errors
    /// If it cannot be used, is in use, belongs to another cluster, or is not a resume file.
    pub(super) fn open(path: &Path, cluster: &str, rooms: &BTreeMap<String, u64>) -> Result<Self, Failed> {
        let io = |error: io::Error| cannot_use(path, &error);
        let path = &files::resolve(path).map_err(io)?;
        // The file itself gets replaced, so the lock is a separate file.
        let lock =
            OpenOptions::new().create(true).append(true).open(files::beside(path, "lock")).map_err(io)?;
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
        let mut positions = parse(&text, cluster).map_err(|what| {
            let what = format!("the resume file {} {what}", path.display());
            Failed::new(Exit::Refused, what, "use another file, or remove this one to begin again")
        })?;
        for (name, &id) in rooms {
            if let Some(seq) = positions.by_name.remove(name) {
                positions.rooms.entry(id).or_insert((seq, name.clone()));
            }
        }
        let (file, bytes) = rewrite(path, cluster, &positions).map_err(io)?;
        Ok(Self { path: path.clone(), cluster: cluster.to_owned(), file, bytes, positions, lock })
    }

    /// The last event of a room that was taken.
    pub(super) fn position(&self, room_id: u64) -> Option<u64> {
        self.positions.rooms.get(&room_id).map(|(seq, _)| *seq)
    }

    /// Records on disk that these events, and all before them in their rooms, were taken: room id, name, seq.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn taken(&mut self, events: &[(u64, &str, u64)]) -> Result<(), Failed> {
        if events.is_empty() {
            return Ok(());
        }
        for &(id, name, seq) in events {
            self.positions.rooms.insert(id, (seq, name.to_owned()));
        }
        self.write(events).map_err(|error| cannot_use(&self.path, &error))
    }

    fn write(&mut self, events: &[(u64, &str, u64)]) -> io::Result<()> {
        if self.bytes > RESUME_FILE_BYTES_MAX {
            (self.file, self.bytes) = rewrite(&self.path, &self.cluster, &self.positions)?;
            return Ok(());
        }
        let lines: String = events.iter().map(|(id, name, seq)| format!("{id} {seq} {name}\n")).collect();
        self.file.write_all(lines.as_bytes())?;
        self.bytes += lines.len() as u64;
        self.file.sync_data()
    }
}

fn parse(text: &str, cluster: &str) -> Result<Positions, String> {
    let mut positions = Positions::default();
    if !text.is_empty() && !text.contains('\n') {
        // The first line is never incomplete, because the file is created by a rename.
        return Err("is not a resume file".to_owned());
    }
    // A crash may leave an incomplete line after the last line feed.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = complete.lines();
    let Some(first) = lines.next() else { return Ok(positions) };
    let (id, by_name) = match (first.strip_prefix(HEADING), first.strip_prefix(HEADING_BY_NAME)) {
        (Some(id), _) => (id, false),
        (None, Some(id)) => (id, true),
        (None, None) => return Err("is not a resume file".to_owned()),
    };
    if id != cluster {
        return Err(format!("belongs to another cluster ({id})"));
    }
    for line in lines {
        let read = if by_name { positions.read_by_name(line) } else { positions.read(line) };
        read.ok_or_else(|| "is damaged".to_owned())?;
    }
    Ok(positions)
}

impl Positions {
    /// Reads `ID SEQ NAME`.
    fn read(&mut self, line: &str) -> Option<()> {
        let (id, rest) = line.split_once(' ')?;
        let (seq, name) = rest.split_once(' ')?;
        let seq = seq.parse().ok()?;
        if id == NO_ID {
            self.by_name.insert(name.to_owned(), seq);
        } else {
            self.rooms.insert(id.parse().ok()?, (seq, name.to_owned()));
        }
        Some(())
    }

    /// Reads `NAME SEQ`.
    fn read_by_name(&mut self, line: &str) -> Option<()> {
        let (name, seq) = line.split_once(' ')?;
        let seq = seq.parse().ok()?;
        if !name.bytes().all(|b| b.is_ascii_digit()) {
            self.by_name.insert(name.to_owned(), seq);
        }
        Some(())
    }
}

/// Replaces the file, and returns it open at its end.
fn rewrite(path: &Path, cluster: &str, positions: &Positions) -> io::Result<(File, u64)> {
    let mut text = format!("{HEADING}{cluster}\n");
    for (id, (seq, name)) in &positions.rooms {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{id} {seq} {name}");
    }
    for (name, seq) in &positions.by_name {
        let _ = writeln!(text, "{NO_ID} {seq} {name}");
    }
    files::replace(path, &text)?;
    Ok((OpenOptions::new().append(true).open(path)?, text.len() as u64))
}

fn cannot_use(path: &Path, error: &io::Error) -> Failed {
    let what = format!("the resume file {} cannot be used: {error}", path.display());
    Failed::new(Exit::Refused, what, "give --resume-file a place that you may write to")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> BTreeMap<String, u64> {
        BTreeMap::from([("general".to_owned(), 1), ("ops".to_owned(), 6), ("6".to_owned(), 9)])
    }

    fn open(path: &Path, cluster: &str) -> Result<ResumeFile, Failed> {
        ResumeFile::open(path, cluster, &rooms())
    }

    #[test]
    fn positions_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        let mut file = open(&path, "c1").unwrap();
        assert_eq!(file.position(1), None);
        for seq in 1..=20 {
            file.taken(&[(1, "general", seq)]).unwrap();
        }
        file.taken(&[(6, "ops", 3), (1, "general", 21)]).unwrap();
        drop(file);
        let file = open(&path, "c1").unwrap();
        assert_eq!((file.position(1), file.position(6), file.position(9)), (Some(21), Some(3), None));
    }

    #[test]
    fn a_grown_file_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        let mut file = open(&path, "c1").unwrap();
        file.bytes = RESUME_FILE_BYTES_MAX + 1;
        file.taken(&[(1, "general", 7)]).unwrap();
        file.taken(&[(1, "general", 8)]).unwrap();
        assert!(file.bytes < 200);
        drop(file);
        assert_eq!(open(&path, "c1").unwrap().position(1), Some(8));
    }

    #[test]
    fn an_incomplete_line_is_ignored() {
        let text = format!("{HEADING}c1\n1 41 general\n1 4");
        assert_eq!(parse(&text, "c1").unwrap().rooms[&1].0, 41);
        assert_eq!(parse("", "c1").unwrap(), Positions::default());
    }

    #[test]
    fn a_file_of_version_0_1_0_is_read_by_name_and_never_by_a_name_that_may_be_an_id() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        fs::write(&path, format!("{HEADING_BY_NAME}c1\ngeneral 41\n6 5\nother 8\n")).unwrap();
        let file = open(&path, "c1").unwrap();
        // `6 5` may be event 5 of #ops, whose id is 6. Event 5 of the room #6 may not have been printed.
        assert_eq!((file.position(1), file.position(6), file.position(9)), (Some(41), None, None));
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{HEADING}c1\n1 41 general\n- 8 other\n"));
        let more = BTreeMap::from([("other".to_owned(), 12)]);
        assert_eq!(ResumeFile::open(&path, "c1", &more).unwrap().position(12), Some(8));
    }

    #[test]
    fn a_wrong_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pos");
        let file = open(&path, "c1").unwrap();
        assert!(open(&path, "c1").unwrap_err().what.contains("in use"));
        drop(file);
        assert!(open(&path, "c2").unwrap_err().what.contains("another cluster (c1)"));
        for text in ["dear diary\n", "dear diary"] {
            fs::write(&path, text).unwrap();
            assert!(open(&path, "c1").unwrap_err().what.contains("not a resume file"));
        }
        fs::write(&path, format!("{HEADING}c1\n1 many general\n")).unwrap();
        assert!(open(&path, "c1").unwrap_err().what.contains("damaged"));
        assert!(open(Path::new("/nowhere/at/all"), "c1").is_err());
        assert!(open(dir.path(), "c1").is_err());
    }
}
