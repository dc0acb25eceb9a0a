//! The identity of a data dir, and the lock that only one process at a time holds on it.
//!
//! A data dir belongs to one node for ever. Its identity is a small text file that is written once: a
//! data dir that was swapped, copied or emptied is detected before anything is read from it.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

use conclave_core::{DataDirId, NodeId};

use crate::disk::{DataFile, sync_dir};
use crate::error::OpenError;
use crate::private;

/// Name of the file with the identity of a data dir, which is written at the first start.
pub const IDENTITY_FILE: &str = "identity";
/// Name of the lock file.
const LOCK: &str = "lock";
/// First word of the identity file.
const MAGIC: &str = "conclave-data-directory";
/// The format of the data dir. Raised when older programs must not open it any more.
/// 2: the hard state has its own file.
pub(crate) const FORMAT: u32 = 2;

/// The owner of a data dir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: u128,
    /// The digest of the plan that the cluster began with: its name, its first nodes and its number of shards. The same
    /// as the cluster's id in a cluster that began without TLS.
    pub plan: u128,
    /// The cluster's name.
    pub cluster_name: String,
    /// The node's id, which never changes.
    pub node: NodeId,
    /// The random id of the data dir, chosen when it was created.
    pub directory: DataDirId,
}

impl Identity {
    /// Reads the identity of a data dir; `None` if the data dir is new.
    ///
    /// # Errors
    /// If the identity file is damaged, of a newer version, unreadable, or missing beside data files.
    pub fn read(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join(IDENTITY_FILE);
        let mut text = String::new();
        match File::open(&path).and_then(|mut file| file.read_to_string(&mut text)) {
            Ok(_) => parse(&path, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                for file in [DataFile::LOG, DataFile::VOTES, DataFile::STATE] {
                    if dir.join(file).exists() {
                        return Err(OpenError::IdentityMissing { dir: dir.to_owned() });
                    }
                }
                Ok(None)
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(OpenError::IdentityDamaged { path, what: "it is not text".to_owned() })
            }
            Err(error) => Err(OpenError::access(&path, error)),
        }
    }

    /// Creates the data dir and its identity, with a new random id. When this returns, both survive a
    /// crash.
    ///
    /// # Errors
    /// If the data dir has an identity already, or cannot be written.
    pub fn create(dir: &Path, cluster: u128, cluster_name: &str, node: NodeId) -> Result<Self, OpenError> {
        Self::create_planned(dir, cluster, cluster, cluster_name, node)
    }

    /// As [`Identity::create`], for a cluster whose id is not the digest of its plan.
    ///
    /// # Errors
    /// As [`Identity::create`].
    pub fn create_planned(
        dir: &Path,
        cluster: u128,
        plan: u128,
        cluster_name: &str,
        node: NodeId,
    ) -> Result<Self, OpenError> {
        private::create_dir(dir).map_err(|error| OpenError::access(dir, error))?;
        let _lock = DataDirLock::take(dir)?;
        if Self::read(dir)?.is_some() {
            let error = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(OpenError::access(&dir.join(IDENTITY_FILE), error));
        }
        let directory = DataDirId(rand::random());
        let identity = Self { cluster, plan, cluster_name: cluster_name.to_owned(), node, directory };
        let path = dir.join(IDENTITY_FILE);
        let temporary = dir.join("identity.new");
        let write = || {
            let mut file = private::create(&temporary)?;
            private::restrict(&file);
            file.write_all(identity.to_text().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            sync_dir(dir)?;
            // The directory itself may be new, too.
            dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
        };
        write().map_err(|error| OpenError::access(&path, error))?;
        Self::restrict(dir);
        Ok(identity)
    }

    /// Makes a data dir and its identity private. An older version gave them the usual permissions.
    pub(crate) fn restrict(dir: &Path) {
        private::restrict_dir(dir);
        // The identity was read, so the file is there. If it is gone, reading it fails, which is where the error belongs.
        if let Ok(file) = File::open(dir.join(IDENTITY_FILE)) {
            private::restrict(&file);
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "{MAGIC} {FORMAT}\ncluster {:032x}\ncluster-name {}\nnode {}\ndirectory {}\n",
            self.cluster,
            self.cluster_name.escape_default(),
            self.node,
            self.directory
        );
        if self.plan != self.cluster {
            // Versions that do not know this line skip it. Writing to a String cannot fail.
            let _ = writeln!(text, "plan {:032x}", self.plan);
        }
        let crc = crc32fast::hash(text.as_bytes());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "check {crc:08x}");
        text
    }

    /// Returns an error if the data dir is not the expected one.
    pub(crate) fn check(&self, dir: &Path, expected: &Self) -> Result<(), OpenError> {
        let dir = dir.to_owned();
        if self.cluster != expected.cluster {
            let name = |identity: &Self| format!("{} ({:032x})", identity.cluster_name, identity.cluster);
            return Err(OpenError::OtherCluster { dir, found: name(self), expected: name(expected) });
        }
        if self.plan != expected.plan {
            return Err(OpenError::OtherPlan { dir });
        }
        if self.node != expected.node {
            return Err(OpenError::OtherNode { dir, found: self.node, expected: expected.node });
        }
        if self.directory != expected.directory {
            return Err(OpenError::OtherDirectory { dir });
        }
        Ok(())
    }
}

fn parse(path: &Path, text: &str) -> Result<Identity, OpenError> {
    let damaged = |what: &str| OpenError::IdentityDamaged { path: path.to_owned(), what: what.to_owned() };
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| line.strip_prefix(MAGIC));
    let version =
        version.ok_or_else(|| damaged("it does not begin with the first line of an identity file"))?;
    let version: u32 =
        version.trim().parse().map_err(|_| damaged("the format in its first line is not a number"))?;
    if version > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known: FORMAT });
    }
    let (body, check) =
        text.rsplit_once("check ").ok_or_else(|| damaged("its last line, the checksum, is missing"))?;
    if u32::from_str_radix(check.trim(), 16) != Ok(crc32fast::hash(body.as_bytes())) {
        return Err(damaged("its checksum is wrong"));
    }
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.ok_or_else(|| damaged(&format!("{name} is missing")))
    };
    let cluster = u128::from_str_radix(field("cluster")?, 16).map_err(|_| damaged("cluster is no id"))?;
    let cluster_name = unescape(field("cluster-name")?);
    let node = field("node")?.parse().map_err(|_| damaged("node is no number"))?;
    let directory =
        u128::from_str_radix(field("directory")?, 16).map_err(|_| damaged("directory is no id"))?;
    let plan = match lines.next().and_then(|line| line.strip_prefix("plan ")) {
        Some(plan) => u128::from_str_radix(plan, 16).map_err(|_| damaged("plan is no digest"))?,
        None => cluster,
    };
    Ok(Identity { cluster, plan, cluster_name, node: NodeId(node), directory: DataDirId(directory) })
}

/// Reverses [`str::escape_default`]. Cluster names are usually plain, so this seldom changes anything.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let code: String = rest.by_ref().skip(1).take_while(|c| *c != '}').collect();
                out.extend(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32));
            }
            other => out.extend(other),
        }
    }
    out
}

/// The lock on a data dir. The operating system releases it when the process ends.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    file: File,
}

impl Drop for DataDirLock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is being started holds it open, too, until it runs its program.
        let _ = self.file.unlock();
    }
}

impl DataDirLock {
    pub(crate) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK);
        let open = private::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(|error| OpenError::access(&path, error))?;
        private::restrict(&file);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Without a readable lock file, the error does not name the holder.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() {
                    "another process".to_owned()
                } else {
                    format!("process {holder}")
                };
                return Err(OpenError::Locked { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(OpenError::access(&path, error)),
        }
        let write = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        write.map_err(|error| OpenError::access(&path, error))?;
        Ok(Self { file })
    }
}
