//! Where files come from: real ones in production, simulated ones in tests that lose power.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use conclave_core::ShardId;
use redb::StorageBackend;
use redb::backends::FileBackend;

/// A file of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFile {
    /// Log of all groups.
    Log,
    /// Votes of all groups.
    Votes,
    /// Applied state of all groups.
    State,
    /// A snapshot that is being received.
    Staging(ShardId),
}

impl DataFile {
    pub(crate) const LOG: &str = "log.redb";
    pub(crate) const VOTES: &str = "votes";
    pub(crate) const STATE: &str = "state.redb";

    /// Its name in the directory.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Log => Self::LOG.to_owned(),
            Self::Votes => Self::VOTES.to_owned(),
            Self::State => Self::STATE.to_owned(),
            Self::Staging(shard) => format!("snapshot-{shard}.part"),
        }
    }
}

/// Opens files.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens the file, made empty if it is not there. When this returns, the file survives a crash
    /// (its content does from [`StorageBackend::sync_data`] on).
    ///
    /// # Errors
    /// What the operating system reports.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Whether the file is there.
    ///
    /// # Errors
    /// What the operating system reports.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// What the operating system reports.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The file's size, bytes; for people to look at.
    ///
    /// # Errors
    /// What the operating system reports.
    fn size(&self, path: &Path) -> io::Result<u64> {
        std::fs::metadata(path).map(|data| data.len())
    }

    /// What is left for this process where the directory is, and how large that is, bytes.
    ///
    /// # Errors
    /// What the operating system reports.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(dir)?;
        Ok((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
    }

    /// How long the next sync takes. Only asked with [`crate::Work::Tasks`]: real ones take as long as they do.
    fn sync_takes(&self) -> Duration {
        Duration::ZERO
    }
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() == 0
            && let Some(dir) = path.parent()
        {
            sync_dir(dir)?;
        }
        FileBackend::new(file).map(|file| Box::new(file) as Box<dyn StorageBackend>).map_err(io::Error::other)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Empties a redb file whose making a crash interrupted: what it begins with is written last. Only
/// for files in which nothing can have been stored yet.
pub(crate) fn begin_again(file: &dyn StorageBackend) -> io::Result<()> {
    let mut start = [0; 8];
    let len = file.len()?;
    if len >= start.len() as u64 {
        file.read(0, &mut start)?;
    }
    if len > 0 && start == [0; 8] { file.set_len(0) } else { Ok(()) }
}

/// What a [`Disk`] opened, in the form that redb takes. One process uses a directory at a time (see
/// the lock in [`crate::identity`]), so that the files themselves need no locks.
#[derive(Debug)]
pub(crate) struct Backend(pub(crate) Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
