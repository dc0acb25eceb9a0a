//! Secrets: created in files and read from files, never taken from the command line and never printed.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use conclave_net::{SecretError, read_given_secret};
use conclave_proto::mac::{SECRET_BYTES, Secret};

use crate::exit::{Exit, Failed};
use crate::{output, private};

/// The token of a session. Never printed by [`std::fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn new(token: String) -> Self {
        Self(token)
    }

    /// The token as text. Callers must not log it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// White space around a secret that is tolerated, bytes.
const AROUND: u64 = 1024;

/// Reads a secret. `what` names it in the error.
///
/// # Errors
/// If the file cannot be read, is this user's own and others can read it, or its content is not a valid secret.
pub(crate) fn read(path: &Path, what: &str) -> Result<Secret, Failed> {
    let failed = |why: String| {
        let next =
            format!("make one with: (umask 077; head -c 32 /dev/urandom | base64 > {})", path.display());
        Failed::new(Exit::Usage, why, next)
    };
    let content = content(path, what, &failed)?;
    Secret::new(&content).map_err(|error| failed(format!("{}: {error}", path.display())))
}

/// Reads a file with a secret. `failed` makes the error of a file that cannot be read.
///
/// # Errors
/// If the file cannot be read, or is this user's own and others can read it.
pub(crate) fn content(path: &Path, what: &str, failed: &dyn Fn(String) -> Failed) -> Result<Vec<u8>, Failed> {
    let exposed = || format!("the {what} in {} can be read by other users", path.display());
    match read_given_secret(path, *SECRET_BYTES.end() as u64 + AROUND) {
        Ok(given) => {
            if given.exposed.is_some() {
                output::error(&format!("conclave: warning: {}", exposed()));
            }
            Ok(given.content)
        }
        Err(SecretError::Exposed(_)) => {
            let next = format!("chmod 600 {}, and make a new one if others may have read it", path.display());
            Err(Failed::new(Exit::Usage, exposed(), next))
        }
        Err(SecretError::File(error)) => {
            Err(failed(format!("the {what} in {} cannot be read: {error}", path.display())))
        }
    }
}

/// Creates a secret unless it exists, readable by its owner only.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    write(path, &random())
}

/// 32 random bytes, in hexadecimal.
pub(crate) fn random() -> String {
    let secret: [u8; 32] = rand::random();
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a secret, readable by its owner only.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(path: &Path, secret: &str) -> io::Result<()> {
    // Written under another name and renamed, so that the file is always complete.
    let temporary = path.with_extension("new");
    // One that was left behind may be read-only.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = private::create(&temporary)?;
    writeln!(out, "{secret}")?;
    out.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write_private(path: &Path, text: &str) {
        private::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_private(&path, "0123456789abcdef");
        assert!(read(&path, "cluster's secret").is_ok());
        for mode in [0o640, 0o604, 0o622] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = read(&path, "cluster's secret").unwrap_err();
            assert!(refused.what.contains("can be read by other users"), "{refused}");
            assert!(refused.next.contains("chmod 600"), "{refused}");
        }
    }

    #[test]
    fn a_secret_is_created_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let left = dir.path().join("secret.new");
        fs::write(&left, "left over").unwrap();
        fs::set_permissions(&left, Permissions::from_mode(0o400)).unwrap();
        create(&path).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(first.trim().len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        assert!(read(&path, "secret").is_ok());
    }

    #[test]
    fn errors_about_a_secret_do_not_reveal_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let missing = read(&path, "cluster's secret").unwrap_err();
        assert!(missing.what.contains("cannot be read") && missing.next.contains("urandom"), "{missing}");
        write_private(&path, "hunter2");
        let short = read(&path, "cluster's secret").unwrap_err();
        assert!(short.what.contains("7 bytes") && !short.to_string().contains("hunter2"), "{short}");
        write_private(&path, "  0123456789abcdef\n");
        assert_eq!(read(&path, "x").unwrap(), Secret::new(b"0123456789abcdef").unwrap());
        // An endless device is read up to the bound.
        assert!(read(Path::new("/dev/zero"), "x").is_err());
    }
}
