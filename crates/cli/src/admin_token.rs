//! The admin token: read from a file that is given, or kept by `conclave up` for the user who started it.
//!
//! `conclave up` makes a token in its directory and keeps a copy in the user's state directory, below the cluster's id.
//! So `conclave admin` of the same user needs no flag.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use conclave_proto::admin_token::{AdminToken, PREFIX};

use crate::exit::{Exit, Failed};
use crate::known::is_cluster_id;
use crate::{private, secret};

/// The name of the copy in the state directory. No user has a name that begins with a dot.
const KEPT: &str = ".admin-token";

/// Reads the token from a file.
///
/// # Errors
/// If the file cannot be read, is this user's own and others can read it, or has no token.
pub(crate) fn read(path: &Path) -> Result<AdminToken, Failed> {
    let failed = |why: String| {
        let file = path.display();
        let next = format!(
            "make one with: (umask 077; echo {PREFIX}$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \\n') > {file})"
        );
        Failed::new(Exit::Usage, why, next)
    };
    let content = secret::content(path, "admin token", &failed)?;
    AdminToken::parse(&content).map_err(|error| failed(format!("{}: {error}", path.display())))
}

/// Makes a token in a file, unless the file exists.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if path.exists() { Ok(()) } else { secret::write(path, &format!("{PREFIX}{}", secret::random())) }
}

/// The copies of tokens in a user's state directory.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    state_dir: PathBuf,
}

impl Kept {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    fn file(&self, cluster_id: &str) -> Option<PathBuf> {
        is_cluster_id(cluster_id).then(|| self.state_dir.join(cluster_id).join(KEPT))
    }

    /// The token of this cluster, if there is a copy that can be read.
    pub(crate) fn load(&self, cluster_id: &str) -> Option<AdminToken> {
        read(&self.file(cluster_id)?).ok()
    }

    /// Keeps a copy of the token of this cluster.
    ///
    /// # Errors
    /// If the copy cannot be written.
    pub(crate) fn keep(&self, cluster_id: &str, token: &AdminToken) -> io::Result<()> {
        let Some(file) = self.file(cluster_id) else { return Ok(()) };
        if let Some(dir) = file.parent() {
            private::create_dir(dir)?;
        }
        secret::write(&file, token.reveal())
    }

    /// Removes the copy of a cluster that is gone for good.
    pub(crate) fn forget(&self, cluster_id: &str) {
        let Some(file) = self.file(cluster_id) else { return };
        // A copy that stays is of no use to anybody, nor is the directory, unless it has somebody's session.
        let _ = fs::remove_file(&file);
        let _ = file.parent().map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept_below_the_id_of_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin-token");
        create(&file).unwrap();
        let token = read(&file).unwrap();
        create(&file).unwrap();
        assert_eq!(read(&file).unwrap(), token);

        let kept = Kept::new(dir.path());
        let id = "7".repeat(32);
        assert_eq!(kept.load(&id), None);
        kept.keep(&id, &token).unwrap();
        assert_eq!(kept.load(&id), Some(token.clone()));
        assert_eq!(kept.load(&"8".repeat(32)), None);
        kept.keep("../elsewhere", &token).unwrap();
        assert_eq!(kept.load("../elsewhere"), None);
        kept.forget(&id);
        assert_eq!(kept.load(&id), None);
        assert!(!dir.path().join(&id).exists());
    }

    #[test]
    fn a_file_without_a_token_is_refused_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin-token");
        secret::write(&file, "hunter2").unwrap();
        let failed = read(&file).unwrap_err();
        assert!(failed.what.contains("no admin token") && failed.next.contains("umask 077"), "{failed}");
        assert!(!failed.to_string().contains("hunter2"), "{failed}");
    }
}
