//! What this user knows about the identities of clusters.
//!
//! * `STATE_DIR/<cluster id>/.tls`: the id of the cluster's certificate authority. A cluster with this file is never spoken
//!   to in plain text again. A user's name cannot begin with a dot, so programs of version 0.1.0, which know only the
//!   users' directories, skip the file.
//! * `STATE_DIR/known-servers`: the authorities of servers by address, which `conclave up` writes for its own servers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use conclave_client::CaId;

use crate::exit::{Exit, Failed};
use crate::limits::{KNOWN_FILE_BYTES_MAX, KNOWN_SERVERS_MAX};

const AUTHORITY: &str = ".tls";
const SERVERS: &str = "known-servers";
/// What stands in place of the authority of a server without TLS.
const PLAIN: &str = "plain";

/// The known identities in a state directory.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    state_dir: PathBuf,
}

impl Known {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// The certificate authority of a cluster; `None` if nothing says that it uses TLS.
    ///
    /// # Errors
    /// If the file is there and cannot be read: then the cluster must not be spoken to at all.
    pub(crate) fn authority(&self, cluster_id: &str) -> Result<Option<CaId>, Failed> {
        let path = self.state_dir.join(cluster_id).join(AUTHORITY);
        let failed = |why: String| {
            let what = format!("the identity of the cluster in {} cannot be read: {why}", path.display());
            Failed::new(Exit::Refused, what, "write the 32 digits of the cluster's authority into it")
        };
        match read(&path) {
            Ok(Some(text)) => text.trim().parse().map(Some).map_err(|error| failed(format!("{error}"))),
            Ok(None) => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Whether this user has spoken to the cluster before.
    pub(crate) fn has(&self, cluster_id: &str) -> bool {
        self.state_dir.join(cluster_id).is_dir()
    }

    /// Keeps the certificate authority of a cluster.
    pub(crate) fn remember(&self, cluster_id: &str, authority: CaId) -> io::Result<()> {
        let dir = self.state_dir.join(cluster_id);
        fs::create_dir_all(&dir)?;
        replace(&dir.join(AUTHORITY), &format!("{authority}\n"))
    }

    /// What `conclave up` said about the servers at these addresses: their authority, or that they speak no TLS. `None` if
    /// nothing is known, or they differ.
    pub(crate) fn of_servers(&self, addresses: &[String]) -> Option<Option<CaId>> {
        let text = read(&self.state_dir.join(SERVERS)).ok().flatten()?;
        let known = text.lines().filter_map(|line| line.split_once(' '));
        let found: BTreeSet<Option<CaId>> = known
            .filter(|(address, _)| addresses.iter().any(|other| other == address))
            .filter_map(|(_, authority)| match authority {
                PLAIN => Some(None),
                authority => authority.parse().ok().map(Some),
            })
            .collect();
        found.first().copied().filter(|_| found.len() == 1)
    }

    /// Keeps the authority of the servers at these addresses, in place of what was known about them; `None` says that they
    /// speak no TLS.
    pub(crate) fn set_servers(&self, addresses: &[String], authority: Option<CaId>) -> io::Result<()> {
        let path = self.state_dir.join(SERVERS);
        let before = read(&path)?.unwrap_or_default();
        let mut text = String::new();
        let says = authority.map_or_else(|| PLAIN.to_owned(), |authority| authority.to_string());
        addresses.iter().for_each(|address| text.push_str(&format!("{address} {says}\n")));
        let other = |line: &&str| {
            line.split_once(' ').is_some_and(|(address, _)| !addresses.iter().any(|own| own == address))
        };
        for line in before.lines().filter(other).take(KNOWN_SERVERS_MAX) {
            text.push_str(line);
            text.push('\n');
        }
        if text == before {
            return Ok(());
        }
        fs::create_dir_all(&self.state_dir)?;
        replace(&path, &text)
    }
}

/// The text of a file; `None` if there is no such file.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(KNOWN_FILE_BYTES_MAX).read_to_string(&mut text).map(|_| Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> Vec<String> {
        ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    #[test]
    fn the_authority_of_a_cluster_is_kept_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        let id = "ab".repeat(16);
        assert_eq!((known.authority(&id).unwrap(), known.has(&id)), (None, false));
        known.remember(&id, CaId(7)).unwrap();
        assert_eq!((known.authority(&id).unwrap(), known.has(&id)), (Some(CaId(7)), true));
        fs::write(dir.path().join(&id).join(AUTHORITY), "noise").unwrap();
        assert!(known.authority(&id).unwrap_err().what.contains("32 digits"));
    }

    #[test]
    fn servers_have_the_authority_that_was_set_last() {
        let dir = tempfile::tempdir().unwrap();
        let known = Known::new(dir.path());
        known.set_servers(&addresses(&[1, 2]), Some(CaId(7))).unwrap();
        known.set_servers(&addresses(&[3]), Some(CaId(8))).unwrap();
        assert_eq!(known.of_servers(&addresses(&[2, 9])), Some(Some(CaId(7))));
        assert_eq!(known.of_servers(&addresses(&[2, 3])), None, "two clusters");
        known.set_servers(&addresses(&[2]), Some(CaId(8))).unwrap();
        assert_eq!(known.of_servers(&addresses(&[2, 3])), Some(Some(CaId(8))));
        known.set_servers(&addresses(&[3, 2]), None).unwrap();
        assert_eq!(known.of_servers(&addresses(&[2, 3])), Some(None), "they speak no TLS now");
        assert_eq!(known.of_servers(&addresses(&[1])), Some(Some(CaId(7))));
    }
}
