//! The last line that a process wrote to its log: one that cannot start logs the reason in one sentence.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::log::older;

/// The part of a log's end that is searched for its last line, bytes.
const LAST_WORDS_BYTES: u64 = 4 * 1024;

/// Where the part of a log begins that a process wrote: the lines before it are of earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Begin {
    /// In the log.
    at: u64,
    /// In the file with the older part; `None` as long as the log was not moved there.
    older: Option<u64>,
}

impl Begin {
    /// The process begins to write at this length of the log.
    pub(super) fn at(length: u64) -> Self {
        Self { at: length, older: None }
    }

    /// The log was moved to the file with the older part, but for this many bytes at its beginning.
    pub(super) fn rotated(&mut self, cut: u64) {
        *self = Self { at: 0, older: Some(self.at.saturating_sub(cut)) };
    }

    /// The last line of the process, or why there is none.
    pub(super) fn last_words(mut self, log: &Path) -> String {
        let length = std::fs::metadata(log).map_or(0, |metadata| metadata.len());
        if length < self.at {
            // It was moved a moment ago.
            self.rotated(0);
        }
        let mut text = end(log, self.at).unwrap_or_default();
        if let Some(begin) = self.older.filter(|_| text.is_empty()) {
            text = end(&older(log, 1), begin).unwrap_or_default();
        }
        // Advice follows on a separate line, which is skipped. So is the count of lines that could not be written.
        let mut lines = text
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("  next: "))
            .filter(|line| !line.contains("log lines dropped"));
        lines.next().map_or_else(
            || nothing(log, available(log)),
            |line| line.trim_start_matches("conclave: ").to_owned(),
        )
    }
}

/// The end of what lies behind this place in a log.
fn end(log: &Path, begin: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(begin.max(length.saturating_sub(LAST_WORDS_BYTES))))?;
    let mut end = Vec::new();
    // A process that still writes does not hold this up.
    file.take(2 * LAST_WORDS_BYTES).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// The bytes that are left on the disk of the log, if they are known.
fn available(log: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(log.parent()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Why there is no last line, given the bytes that are left on the disk of the log, if they are known.
fn nothing(log: &Path, available: Option<u64>) -> String {
    match available {
        Some(bytes) if bytes < LAST_WORDS_BYTES => {
            let dir = log.parent().unwrap_or(log);
            format!("the disk of {} is full, so its log could not be written", dir.display())
        }
        _ => "it has logged nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_words_are_the_last_line_without_advice() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text =
            "INFO x\nconclave: the port is in use\n  next: use another\nWARN log lines dropped lines=1\n\n";
        assert_eq!(Begin::default().last_words(&log), "it has logged nothing");
        fs::write(&log, text).unwrap();
        assert_eq!(Begin::default().last_words(&log), "the port is in use");
    }

    #[test]
    fn only_what_the_process_itself_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "old\n").unwrap();
        let mut begin = Begin::at(4);
        assert_eq!(begin.last_words(&log), "it has logged nothing");
        fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(begin.last_words(&log), "new");

        // Moved, also before anybody has noted it, and in part.
        fs::write(&log, "").unwrap();
        fs::write(older(&log, 1), "old\nnew\n").unwrap();
        assert_eq!(begin.last_words(&log), "new");
        begin.rotated(0);
        assert_eq!(begin.last_words(&log), "new");
        fs::write(older(&log, 1), "old\n").unwrap();
        assert_eq!(begin.last_words(&log), "it has logged nothing");
        let mut cut = Begin::at(4);
        cut.rotated(2);
        fs::write(older(&log, 1), "d\nlater\n").unwrap();
        assert_eq!(cut.last_words(&log), "later");
        fs::write(&log, "last\n").unwrap();
        assert_eq!(cut.last_words(&log), "last");
    }

    #[test]
    fn a_full_disk_is_named_where_the_log_could_not_be_written() {
        let log = Path::new("/data/up/node1.log");
        for (available, says) in [
            (Some(0), "the disk of /data/up is full, so its log could not be written"),
            (Some(1 << 20), "it has logged nothing"),
            (None, "it has logged nothing"),
        ] {
            assert_eq!(nothing(log, available), says);
        }
    }
}
