//! The errors of a data dir. Every message says what to do.

use std::io;
use std::path::{Path, PathBuf};

use conclave_core::NodeId;
use conclave_proto::FormatError;

/// A file could not be written, read or decoded. The node must stop, because its memory may differ from
/// the content of its disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error(
        "{file}: the disk is full; nothing acknowledged is lost; make room and start the node again ({what})"
    )]
    DiskFull {
        /// The name of the file.
        file: &'static str,
        /// The operation that failed.
        what: String,
    },
    /// The operating system reported an error.
    #[error("{file}: {what}; nothing acknowledged is lost; check the disk and start the node again")]
    Io {
        /// The name of the file.
        file: &'static str,
        /// The error.
        what: String,
    },
    /// The content of the file is damaged.
    #[error(
        "{file} is damaged: {what}; nothing acknowledged is lost while a majority of the nodes is intact; keep this data dir as it is, check the disk, and see docs/deploy.md, \"A damaged data dir\""
    )]
    Damaged {
        /// The name of the file.
        file: &'static str,
        /// The content that was found.
        what: String,
    },
    /// A newer version of the program wrote the content of the file.
    #[error(
        "{file} holds what a newer version of conclave wrote: {what}; upgrade this node, its data is intact"
    )]
    NeedsUpgrade {
        /// The name of the file.
        file: &'static str,
        /// The content that was found.
        what: String,
    },
    /// A snapshot is not usable. The shard's state is unchanged.
    #[error("the snapshot cannot be used: {0}; it will be sent again")]
    Snapshot(String),
    /// The shard's state is being replaced by a snapshot.
    #[error("the shard is receiving a snapshot; ask another node or try again")]
    Installing,
    /// The store is closed, or has failed earlier.
    #[error("the store is closed: {0}")]
    Closed(String),
}

impl StoreError {
    pub(crate) fn damaged(file: &'static str, what: impl Into<String>) -> Self {
        Self::Damaged { file, what: what.into() }
    }

    pub(crate) fn io(file: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::DiskFull { file, what: error.to_string() }
            }
            _ => Self::Io { file, what: error.to_string() },
        }
    }

    pub(crate) fn redb(file: &'static str, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) => Self::io(file, &error),
            redb::Error::Corrupted(what) => Self::damaged(file, what),
            redb::Error::PreviousIo => Self::Closed(format!("{file} failed before")),
            other => Self::Io { file, what: other.to_string() },
        }
    }

    /// A row or an entry of a file is not in a format that this version knows.
    pub(crate) fn format(file: &'static str, row: &str, error: &FormatError) -> Self {
        let what = format!("{row}: {error}");
        if error.is_newer() { Self::NeedsUpgrade { file, what } } else { Self::Damaged { file, what } }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::DiskFull { .. } => io::ErrorKind::StorageFull,
            StoreError::Damaged { .. } | StoreError::Snapshot(_) => io::ErrorKind::InvalidData,
            StoreError::NeedsUpgrade { .. } => io::ErrorKind::Unsupported,
            StoreError::Installing => io::ErrorKind::WouldBlock,
            StoreError::Closed(_) | StoreError::Io { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The reason why a read has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The room is not in this shard's state on this node.
    #[error("no such room")]
    RoomUnknown,
    /// The shard's state is being replaced by a snapshot.
    #[error("the shard is receiving a snapshot; ask another node or try again")]
    Installing,
    /// The file could not be read.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Installing => Self::Installing,
            error => Self::Store(error),
        }
    }
}

/// The reason why a data dir cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the data dir.
    #[error("{} is in use by {holder}; stop that process or use another directory", .dir.display())]
    Locked {
        /// The data dir.
        dir: PathBuf,
        /// The process that holds the lock, as far as it is known.
        holder: String,
    },
    /// A file or directory cannot be read or written.
    #[error("{} cannot be used: {error}; check its permissions and that its disk is writable", .path.display())]
    Access {
        /// The path of that file or directory.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The directory holds no files of conclave.
    #[error("{} is not a data directory of conclave yet; make one by starting a new node in it", .dir.display())]
    Empty {
        /// The data dir.
        dir: PathBuf,
    },
    /// One of the data files is missing.
    #[error(
        "{} is missing; put back the data dir as the node left it, all of its files together; see docs/deploy.md, \"A damaged data dir\"", .path.display()
    )]
    FileMissing {
        /// The file.
        path: PathBuf,
    },
    /// There are data files, but the identity file is missing.
    #[error(
        "{} holds data but its identity file is missing; put back the identity file of this data dir; see docs/deploy.md, \"A damaged data dir\"", .dir.display()
    )]
    IdentityMissing {
        /// The data dir.
        dir: PathBuf,
    },
    /// The identity file, or the list of boots beside it, cannot be decoded.
    #[error(
        "{} is damaged ({what}); put back this file of this data dir; see docs/deploy.md, \"A damaged data dir\"", .path.display()
    )]
    IdentityDamaged {
        /// The file.
        path: PathBuf,
        /// A description of the error.
        what: String,
    },
    /// The data dir belongs to another cluster.
    #[error(
        "{} belongs to the cluster {found}, not to {expected}; use another directory", .dir.display()
    )]
    OtherCluster {
        /// The data dir.
        dir: PathBuf,
        /// The cluster in the identity file.
        found: String,
        /// The expected cluster.
        expected: String,
    },
    /// The cluster of the data dir began with another plan.
    #[error(
        "the cluster in {} began with another name, other nodes or another number of shards; give the same ones as at \
         its first start, or use another directory", .dir.display()
    )]
    OtherPlan {
        /// The data dir.
        dir: PathBuf,
    },
    /// The data dir belongs to another node.
    #[error("{} belongs to node {found}, not to node {expected}; start it as node {found} or use another directory", .dir.display())]
    OtherNode {
        /// The data dir.
        dir: PathBuf,
        /// The node in the identity file.
        found: NodeId,
        /// The expected node.
        expected: NodeId,
    },
    /// The cluster and the node match, but the data dir is another copy than the expected one.
    #[error("{} is another copy of this node's directory; use the one that was in use last", .dir.display())]
    OtherDirectory {
        /// The data dir.
        dir: PathBuf,
    },
    /// A newer version of the program wrote the file.
    #[error("{} has format {found} and this program understands up to {known}; start the newer program again", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: u32,
        /// The newest format that this version knows.
        known: u32,
    },
    /// The data dir was created for another number of shards, which is fixed when a cluster is bootstrapped.
    #[error("{} was made for {found} shards, not for {expected}; the number of shards never changes", .dir.display())]
    OtherShards {
        /// The data dir.
        dir: PathBuf,
        /// The number of shards in the data dir.
        found: u32,
        /// The expected number of shards.
        expected: u32,
    },
    /// A data file cannot be read.
    #[error("{}: {error}", .dir.display())]
    Store {
        /// The data dir.
        dir: PathBuf,
        /// A description of the error.
        error: StoreError,
    },
}

impl OpenError {
    pub(crate) fn access(path: &Path, error: io::Error) -> Self {
        Self::Access { path: path.to_owned(), error }
    }
}
