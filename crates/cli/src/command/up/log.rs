//! Bounds the logs of the processes, while they run.
//!
//! A process writes to its log's file by itself, and not through a pipe to `up`: it must go on while a terminal has stopped
//! `up`, and after `up` was killed. So nobody can give it another file, and a log that has become too large is copied and
//! emptied. A line that is written in between is lost.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::private;

/// The file with the older part of a log: 1 or, older still, 2.
pub(super) fn older(log: &Path, number: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Moves the content of a log with more than this many bytes to the file [`older`] 1, whose content moves to `older` 2.
/// Keeps the end of a log that has grown beyond twice the bound. Returns how many bytes of its beginning are not kept, if it
/// was moved. Blocks.
///
/// # Errors
/// If a file cannot be written; a later call begins again.
pub(super) fn rotate(log: &Path, bytes_max: u64) -> io::Result<Option<u64>> {
    let Some(length) = found(fs::metadata(log))?.map(|metadata| metadata.len()) else { return Ok(None) };
    if length <= bytes_max {
        return Ok(None);
    }
    let copy = older(log, 1);
    // First, because that makes room on the disk for the copy.
    found(fs::rename(&copy, older(log, 2)))?;
    let mut log = File::options().read(true).write(true).open(log)?;
    let begin = if length > 2 * bytes_max { length - bytes_max } else { 0 };
    log.seek(SeekFrom::Start(begin))?;
    let mut out = private::create(&copy)?;
    // The process writes on meanwhile: with a bound, this ends.
    io::copy(&mut (&log).take(2 * bytes_max), &mut out)?;
    log.set_len(0)?;
    Ok(Some(begin))
}

/// `None` if the file does not exist.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_open_log_is_bounded_and_its_lines_are_kept_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("node1.log");
        rotate(&log, 100).unwrap();
        let mut open = private::options().create(true).append(true).open(&log).unwrap();
        for line in 0..40 {
            writeln!(open, "line {line:04}").unwrap();
            rotate(&log, 100).unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let parts = [older(&log, 2), older(&log, 1), log.clone()].map(|path| read(&path));
        assert!(parts.iter().all(|part| part.len() <= 110), "{parts:?}");
        let whole = parts.concat();
        let expected: String = (18..40).map(|line| format!("line {line:04}\n")).collect();
        assert!(whole.ends_with(&expected), "{whole}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn of_a_log_that_an_older_version_left_the_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("node1.log");
        fs::write(&log, format!("{}the end\n", "x".repeat(10_000))).unwrap();
        assert_eq!(rotate(&log, 100).unwrap(), Some(9_908));
        let kept = fs::read_to_string(older(&log, 1)).unwrap();
        assert!(kept.len() == 100 && kept.ends_with("the end\n"), "{kept}");
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    }
}
