//! The boots of a data dir: one random number for each time that a node started on it.
//!
//! A copy of a data dir that is put back later does not know the boots since it was made. Nodes remember the last boot
//! of each other one; a data dir that does not know that boot has gone back in time, so that the votes and entries
//! which its node has acknowledged since are missing in it.

use std::fmt::{self, Write as _};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use crate::disk::sync_dir;
use crate::error::OpenError;
use crate::private;

/// Name of the file.
const FILE: &str = "boots";
/// Its first word.
const MAGIC: &str = "conclave-boots";
/// Its format.
const FORMAT: u32 = 1;
/// Maximum number of boots that are kept. A node that missed all of them refuses the data dir, as one that went back.
const BOOTS_MAX: usize = 4_096;

/// One start of a node: a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The boots of a data dir, oldest first; the last one is the current one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boots(Vec<BootId>);

impl Boots {
    /// Reads the boots of a data dir. Versions that knew no boots left none.
    ///
    /// # Errors
    /// If the file is damaged, of a newer version, or unreadable.
    pub fn read(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let damaged = |what: &str| OpenError::IdentityDamaged { path: path.clone(), what: what.to_owned() };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(damaged("it is not text")),
            Err(error) => return Err(OpenError::access(&path, error)),
        };
        let (body, check) =
            text.rsplit_once("check ").ok_or_else(|| damaged("its last line, the checksum, is missing"))?;
        if u32::from_str_radix(check.trim(), 16) != Ok(crc32fast::hash(body.as_bytes())) {
            return Err(damaged("its checksum is wrong"));
        }
        let mut lines = body.lines();
        let version = lines.next().and_then(|line| line.strip_prefix(MAGIC)?.trim().parse::<u32>().ok());
        match version {
            Some(found) if found > FORMAT => {
                return Err(OpenError::Newer { path, found, known: FORMAT });
            }
            Some(_) => {}
            None => return Err(damaged("it does not begin with the first line of a list of boots")),
        }
        let boot = |line| u64::from_str_radix(line, 16).map(BootId);
        let boots: Result<_, _> = lines.map(boot).collect();
        boots.map(Self).map_err(|_| damaged("a line is no boot"))
    }

    /// The boots of the data dir and a new one, which is not written yet.
    pub(crate) fn with_new(dir: &Path) -> Result<Self, OpenError> {
        let Self(mut boots) = Self::read(dir)?;
        boots.push(BootId(rand::random()));
        Ok(Self::newest(boots))
    }

    /// Writes the boots. When this returns, they survive a crash.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let (path, temporary) = (dir.join(FILE), dir.join("boots.new"));
        let write = || {
            let mut file = private::create(&temporary)?;
            file.write_all(self.to_text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            sync_dir(dir)
        };
        write().map_err(|error| OpenError::access(&path, error))
    }

    /// From another node's words, oldest first. Only the newest are kept.
    pub fn from_peer(boots: impl IntoIterator<Item = u64>) -> Self {
        Self::newest(boots.into_iter().map(BootId).collect())
    }

    fn newest(mut boots: Vec<BootId>) -> Self {
        boots.drain(..boots.len().saturating_sub(BOOTS_MAX));
        Self(boots)
    }

    /// The current boot; `None` if there was none.
    #[must_use]
    pub fn current(&self) -> Option<BootId> {
        self.0.last().copied()
    }

    /// Whether the data dir had this boot.
    #[must_use]
    pub fn contains(&self, boot: BootId) -> bool {
        self.0.contains(&boot)
    }

    /// All boots, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = BootId> {
        self.0.iter().copied()
    }

    fn to_text(&self) -> String {
        let mut text = format!("{MAGIC} {FORMAT}\n");
        for boot in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{boot}");
        }
        let crc = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "check {crc:08x}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boot_is_kept_up_to_a_number() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Boots::read(dir.path()).unwrap(), Boots::default());
        let begin = || {
            let boots = Boots::with_new(dir.path()).unwrap();
            boots.write(dir.path()).unwrap();
            boots
        };
        let first = begin();
        let second = begin();
        assert_eq!(Boots::read(dir.path()).unwrap(), second);
        assert!(second.contains(first.current().unwrap()) && !first.contains(second.current().unwrap()));
        let many = Boots((0..BOOTS_MAX as u64).map(BootId).collect());
        std::fs::write(dir.path().join(FILE), many.to_text()).unwrap();
        let next = begin();
        assert_eq!(next.iter().count(), BOOTS_MAX);
        assert!(!next.contains(BootId(0)) && next.contains(BootId(1)));
        let many = Boots::from_peer(0..=BOOTS_MAX as u64);
        assert_eq!((many.iter().count(), many.current()), (BOOTS_MAX, Some(BootId(BOOTS_MAX as u64))));
    }

    #[test]
    fn a_damaged_list_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        Boots::with_new(dir.path()).unwrap().write(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for damage in [text.replace("boots 1", "boats 1"), text[..text.len() - 3].to_owned(), String::new()] {
            std::fs::write(&path, &damage).unwrap();
            assert!(
                matches!(Boots::with_new(dir.path()), Err(OpenError::IdentityDamaged { .. })),
                "{damage}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damage);
        }
    }
}
