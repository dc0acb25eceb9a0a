//! The log-ins of this user on this machine.
//!
//! * `STATE_DIR/<cluster id>/<user>/.login`: the token of the user's log-in. The sessions of outboxes are opened with it.
//! * `STATE_DIR/<cluster id>/.user`: the name as which commands act in this cluster, unless another one is given.
//!
//! No user and no outbox has a name that begins with a dot. Only their owner can read the files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failed};
use crate::known::is_cluster_id;
use crate::limits::USER_FILE_BYTES_MAX;
use crate::secret::Token;
use crate::{parse, private, secret};

const LOGIN: &str = ".login";
/// The name of the file in a cluster's directory.
pub(crate) const USER: &str = ".user";
/// How the token of a session begins.
const TOKEN_PREFIX: &str = "cnv1_";

/// The log-ins in a state directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogIns<'a> {
    state_dir: &'a Path,
}

impl<'a> LogIns<'a> {
    pub(crate) fn new(state_dir: &'a Path) -> Self {
        Self { state_dir }
    }

    fn file(&self, cluster_id: &str, user: &str) -> PathBuf {
        self.state_dir.join(cluster_id).join(user).join(LOGIN)
    }

    /// The token of a user's log-in; `None` if the user is not logged in here.
    ///
    /// # Errors
    /// If the file is there and cannot be used, such as one that others can read.
    pub(crate) fn token(&self, cluster_id: &str, user: &str) -> Result<Option<Token>, Failed> {
        let path = self.file(cluster_id, user);
        if !is_cluster_id(cluster_id) || !path.exists() {
            return Ok(None);
        }
        let failed = |why: String| Failed::new(Exit::Refused, why, format!("conclave login {user}"));
        let content = secret::content(&path, "log-in", &failed)?;
        match token(&content) {
            Some(token) => Ok(Some(token)),
            None => Err(failed(format!("{} has no log-in", path.display()))),
        }
    }

    /// Keeps the token of a user's log-in.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn keep(&self, cluster_id: &str, user: &str, token: &str) -> io::Result<()> {
        let path = self.file(cluster_id, user);
        if let Some(dir) = path.parent() {
            private::create_dir(dir)?;
        }
        secret::write(&path, token)
    }

    /// Removes the token of a user's log-in.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub(crate) fn forget(&self, cluster_id: &str, user: &str) -> io::Result<()> {
        match fs::remove_file(self.file(cluster_id, user)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The name as which commands act in a cluster; `None` if there is none. A damaged file counts as none: the name is shown
    /// before anything is done under it, and opens nothing without its log-in.
    pub(crate) fn user(&self, cluster_id: &str) -> Option<String> {
        if !is_cluster_id(cluster_id) {
            return None;
        }
        let path = self.state_dir.join(cluster_id).join(USER);
        let is_short = fs::metadata(&path).is_ok_and(|file| file.len() <= USER_FILE_BYTES_MAX);
        parse::user(fs::read_to_string(path).ok().filter(|_| is_short)?.trim()).ok()
    }

    /// Makes a name the one as which commands act in a cluster.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn set_user(&self, cluster_id: &str, user: &str) -> io::Result<()> {
        let dir = self.state_dir.join(cluster_id);
        private::create_dir(&dir)?;
        secret::write(&dir.join(USER), user)
    }
}

/// The token of a session in the content of a file or variable.
pub(crate) fn token(content: &[u8]) -> Option<Token> {
    let text = std::str::from_utf8(content.trim_ascii()).ok()?;
    let digits = text.strip_prefix(TOKEN_PREFIX)?;
    let good = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| Token::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_log_in_is_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (logins, id) = (LogIns::new(dir.path()), "ab".repeat(16));
        assert_eq!(logins.token(&id, "ana"), Ok(None));
        logins.keep(&id, "ana", "cnv1_07").unwrap();
        logins.keep(&id, "ana", "cnv1_08").unwrap();
        assert_eq!(logins.token(&id, "ana").unwrap().unwrap().reveal(), "cnv1_08");
        assert_eq!(logins.token(&id, "bob"), Ok(None));
        let path = logins.file(&id, "ana");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(logins.token(&id, "ana").unwrap_err().what.contains("can be read by other users"));
        logins.forget(&id, "ana").unwrap();
        logins.forget(&id, "ana").unwrap();
        assert_eq!(logins.token(&id, "ana"), Ok(None));
    }

    #[test]
    fn a_damaged_log_in_is_an_error_that_does_not_repeat_it() {
        let dir = tempfile::tempdir().unwrap();
        let (logins, id) = (LogIns::new(dir.path()), "ab".repeat(16));
        logins.keep(&id, "ana", "hunter2").unwrap();
        let failed = logins.token(&id, "ana").unwrap_err();
        assert!(failed.next.contains("conclave login ana"), "{failed}");
        assert!(!failed.to_string().contains("hunter2"), "{failed}");
    }

    #[test]
    fn the_name_of_a_cluster_is_a_users_name_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let (logins, id) = (LogIns::new(dir.path()), "ab".repeat(16));
        assert_eq!(logins.user(&id), None);
        logins.set_user(&id, "bob").unwrap();
        assert_eq!(logins.user(&id).as_deref(), Some("bob"));
        for damaged in ["../ana", "", "ANA", &"a".repeat(500)] {
            logins.set_user(&id, damaged).unwrap();
            assert_eq!(logins.user(&id), None, "{damaged}");
        }
        assert_eq!(logins.user("../elsewhere"), None);
    }
}
