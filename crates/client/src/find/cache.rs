//! A file with the members that earlier connections learned: with it, a client starts although no name server answers.
//!
//! The file is text. Below a line with the searched seeds there is one line for each address:
//!
//! ```text
//! conclave members 1
//! asked conclave+srv://conclave.internal
//! 10.83.0.11:7400
//! 10.83.0.12:7400
//! ```
//!
//! The file is only a hint: invalid lines are skipped, and an invalid file is overwritten. If two processes write at
//! the same time, the file of one of them remains.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use conclave_core::limits::NODES_MAX;

use super::Seed;
use crate::limits::{MEMBERS_CLUSTERS_MAX, MEMBERS_FILE_BYTES_MAX};

const HEADER: &str = "conclave members 1";
const ASKED: &str = "asked ";

/// The content of the file: searched seeds and the members that they led to, the latest first.
type Memory = Vec<(String, Vec<String>)>;

/// Reads the members for the seeds `asked`. Blocks.
///
/// # Errors
/// If the file exists and cannot be read.
pub fn recall(file: &Path, asked: &str) -> io::Result<Vec<String>> {
    let memory = parse(&read(file)?);
    Ok(memory.into_iter().find(|(known, _)| known == asked).map(|(_, members)| members).unwrap_or_default())
}

/// Writes the members for the seeds `asked`, followed by former members. Blocks.
///
/// # Errors
/// If the file cannot be read or written.
pub fn remember(file: &Path, asked: &str, members: &[String]) -> io::Result<()> {
    let before = read(file)?;
    let text = render(&updated(parse(&before), asked, members));
    if text == before {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Written under another name and renamed, so that no reader sees half a file.
    let mut draft = file.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    // Only its owner can read it: it says where this user's clusters are.
    let made = crate::storage::draft().open(&draft);
    let written = made.and_then(|mut new| new.write_all(text.as_bytes()));
    written.and_then(|()| fs::rename(&draft, file)).inspect_err(|_| {
        // A file that is left behind does no harm.
        let _ = fs::remove_file(&draft);
    })
}

fn read(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    match File::open(file) {
        Ok(file) => file.take(MEMBERS_FILE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(text: &str) -> Memory {
    let mut memory = Memory::new();
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return memory;
    }
    for line in lines {
        if let Some(asked) = line.strip_prefix(ASKED) {
            if memory.len() == MEMBERS_CLUSTERS_MAX {
                break;
            }
            memory.push((asked.to_owned(), Vec::new()));
        } else if let Some((_, members)) = memory.last_mut()
            && let Ok(Seed::Node(address)) = line.parse()
            && members.len() < NODES_MAX
            && !members.contains(&address)
        {
            members.push(address);
        }
    }
    memory
}

fn updated(mut memory: Memory, asked: &str, members: &[String]) -> Memory {
    let at = memory.iter().position(|(known, _)| known == asked);
    let former = at.map(|at| memory.remove(at).1).unwrap_or_default();
    let mut now: Vec<String> = Vec::new();
    for member in members.iter().chain(&former) {
        if now.len() < NODES_MAX && !now.contains(member) {
            now.push(member.clone());
        }
    }
    memory.insert(0, (asked.replace('\n', " "), now));
    memory.truncate(MEMBERS_CLUSTERS_MAX);
    memory
}

fn render(memory: &Memory) -> String {
    let mut text = format!("{HEADER}\n");
    for (asked, members) in memory {
        text.extend([ASKED, asked, "\n"]);
        for member in members {
            text.extend([member, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn addresses(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!("10.0.0.{n}:7400")).collect()
    }

    #[test]
    fn remembered_members_are_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/members");
        assert_eq!(recall(&file, "a").unwrap(), Vec::<String>::new());
        remember(&file, "a", &addresses(1..4)).unwrap();
        remember(&file, "b", &addresses(7..8)).unwrap();
        assert_eq!(recall(&file, "a").unwrap(), addresses(1..4));
        remember(&file, "a", &addresses(3..5)).unwrap();
        let expected = ["10.0.0.3:7400", "10.0.0.4:7400", "10.0.0.1:7400", "10.0.0.2:7400"];
        assert_eq!(recall(&file, "a").unwrap(), expected, "former members come last");
        assert_eq!(recall(&file, "b").unwrap(), addresses(7..8));
        assert_eq!(fs::read_dir(dir.path().join("state")).unwrap().count(), 1, "no drafts are left");
        for path in [&file, &dir.path().join("state")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        }
    }

    #[test]
    fn the_file_stays_within_its_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("members");
        for round in 0..20 {
            remember(&file, &round.to_string(), &addresses(0..200)).unwrap();
        }
        assert_eq!(recall(&file, "19").unwrap().len(), NODES_MAX);
        assert_eq!(recall(&file, "3").unwrap().len(), 0);
        assert!(fs::metadata(&file).unwrap().len() < MEMBERS_FILE_BYTES_MAX);
    }

    #[test]
    fn a_directory_in_place_of_the_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(recall(dir.path(), "a").is_err());
        assert!(remember(dir.path(), "a", &addresses(0..1)).is_err());
    }

    proptest! {
        /// Whatever the file contains, only addresses are read, and the next write repairs the file.
        #[test]
        fn damage_is_survived(damage in proptest::collection::vec(any::<u8>(), 0..80), at in 0_usize..120) {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("members");
            remember(&file, "a", &addresses(0..5)).unwrap();
            let mut bytes = fs::read(&file).unwrap();
            let at = at.min(bytes.len());
            let end = (at + damage.len()).min(bytes.len());
            bytes.splice(at..end, damage);
            fs::write(&file, bytes).unwrap();
            for address in recall(&file, "a").unwrap() {
                prop_assert!(matches!(address.parse(), Ok(Seed::Node(_))), "{}", address);
            }
            remember(&file, "a", &addresses(5..7)).unwrap();
            prop_assert_eq!(&recall(&file, "a").unwrap()[..2], &addresses(5..7)[..]);
        }
    }
}
