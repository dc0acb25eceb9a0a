//! Access to files: real ones in production, simulated ones in tests with power failures.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use conclave_core::ShardId;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::private;

/// A file of a data dir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFile {
    /// The log of all groups.
    Log,
    /// The hard state (term and vote) of all groups.
    Votes,
    /// The applied state of all groups.
    State,
    /// The staging file of a snapshot that this shard receives.
    Staging(ShardId),
}

impl DataFile {
    pub(crate) const LOG: &str = "log.redb";
    pub(crate) const VOTES: &str = "votes";
    pub(crate) const STATE: &str = "state.redb";

    /// The file's name in the data dir.
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
    /// Opens the file, and creates an empty one if it does not exist. When this returns, the existence
    /// of the file survives a crash; its content does after [`StorageBackend::sync_data`].
    ///
    /// # Errors
    /// Errors of the operating system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Whether the file exists.
    ///
    /// # Errors
    /// Errors of the operating system.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Removes the file, if it exists.
    ///
    /// # Errors
    /// Errors of the operating system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The file's size, bytes. For metrics and displays only.
    ///
    /// # Errors
    /// Errors of the operating system.
    fn size(&self, path: &Path) -> io::Result<u64> {
        std::fs::metadata(path).map(|data| data.len())
    }

    /// Free space for this process on the file system of the data dir, and the size of that file system, bytes.
    ///
    /// # Errors
    /// Errors of the operating system.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(dir)?;
        Ok((disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize))
    }

    /// How long the next sync takes on the runtime's clock. Used only with [`crate::Work::Tasks`], where syncs are
    /// simulated.
    fn sync_takes(&self) -> Duration {
        Duration::ZERO
    }
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let file = private::options().read(true).write(true).create(true).truncate(false).open(path)?;
        private::restrict(&file);
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

/// Syncs a directory, so that the names of its files survive a crash.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Empties a redb file whose creation was interrupted by a crash. redb writes the file's header last,
/// so such a file has none. Only for files in which nothing can have been stored yet.
pub(crate) fn begin_again(file: &dyn StorageBackend) -> io::Result<()> {
    let mut start = [0; 8];
    let len = file.len()?;
    if len >= start.len() as u64 {
        file.read(0, &mut start)?;
    }
    if len > 0 && start == [0; 8] { file.set_len(0) } else { Ok(()) }
}

/// A file of a [`Disk`] in the form that redb takes. Only one process uses a data dir at a time (see the
/// lock in [`crate::identity`]), so the files themselves need no locks.
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
