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

/// Reads the token of a server from a file.
///
/// # Errors
/// If the file cannot be read, is this user's own and others can read it, or has no token.
pub(crate) fn read(path: &Path) -> Result<AdminToken, Failed> {
    let file = path.display();
    let next = format!(
        "make one with: (umask 077; echo {PREFIX}$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \\n') > {file})"
    );
    read_or(path, &next)
}

/// Reads the token of an operator from a file. A new token would be of no use: the servers have another one.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_given(path: &Path) -> Result<AdminToken, Failed> {
    read_or(path, &format!("{SERVERS_FILE}, readable by you alone"))
}

/// Reads the token from a file. `next` is the advice if there is none in it.
fn read_or(path: &Path, next: &str) -> Result<AdminToken, Failed> {
    if path.to_string_lossy().starts_with(PREFIX) && !path.exists() {
        // Not repeated: what is printed ends in logs.
        let what = "an admin token was given where the path of the file with it belongs";
        let next =
            format!("write it into a file that only you can read, and give its path instead of {PREFIX}…");
        return Err(Failed::new(Exit::Usage, what, next));
    }
    let failed = |why: String| Failed::new(Exit::Usage, why, next);
    let content = secret::content(path, "admin token", &failed)?;
    AdminToken::parse(&content).map_err(|error| failed(format!("{}: {error}", path.display())))
}

/// Makes a token in a file, unless the file exists and is not empty.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let is_there = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() || metadata.len() > 0);
    if is_there { Ok(()) } else { secret::write(path, &format!("{PREFIX}{}", secret::random())) }
}

/// Advice for operators.
pub(crate) const SERVERS_FILE: &str = "give --admin-token-file (or CONCLAVE_ADMIN_TOKEN_FILE) the file that the servers have; \
                                       `conclave up` has it in its directory as admin-token";

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

    /// The token of this cluster; `None` if there is no copy.
    ///
    /// # Errors
    /// If there is a copy that cannot be used, such as one that others can read.
    pub(crate) fn load(&self, cluster_id: &str) -> Result<Option<AdminToken>, Failed> {
        match self.file(cluster_id) {
            Some(file) if file.exists() => read_given(&file).map(Some),
            _ => Ok(None),
        }
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_in_place_of_its_file_is_not_repeated() {
        let token = format!("{PREFIX}{}", "7".repeat(64));
        for failed in [read(Path::new(&token)).unwrap_err(), read_given(Path::new(&token)).unwrap_err()] {
            assert!(
                failed.what.contains("path of the file") && !failed.to_string().contains("777"),
                "{failed}"
            );
        }
        let missing = read_given(Path::new("/nowhere/admin-token")).unwrap_err();
        assert!(missing.next.contains("that the servers have"), "{missing}");
    }

    #[test]
    fn a_token_is_made_once_and_kept_below_the_id_of_its_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin-token");
        fs::write(&file, "").unwrap();
        create(&file).unwrap();
        let token = read(&file).unwrap();
        create(&file).unwrap();
        assert_eq!(read(&file).unwrap(), token);

        let kept = Kept::new(dir.path());
        let id = "7".repeat(32);
        assert_eq!(kept.load(&id), Ok(None));
        kept.keep(&id, &token).unwrap();
        assert_eq!(kept.load(&id), Ok(Some(token.clone())));
        assert_eq!(kept.load(&"8".repeat(32)), Ok(None));
        kept.keep("../elsewhere", &token).unwrap();
        assert_eq!(kept.load("../elsewhere"), Ok(None));
        let copy = dir.path().join(&id).join(KEPT);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
        let exposed = kept.load(&id).unwrap_err();
        assert!(exposed.what.contains("can be read by other users"), "{exposed}");
        kept.forget(&id);
        assert_eq!(kept.load(&id), Ok(None));
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
