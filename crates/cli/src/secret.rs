//! Secrets: made in files and read from files, never from the command line, never shown.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use conclave_proto::seal::{SECRET_BYTES, Secret};

use crate::exit::{Exit, Failed};

/// White space around a secret that is read with it.
const AROUND: u64 = 1024;

/// Reads a secret. `what` it is, is for the error.
///
/// # Errors
/// If there is no such file, or its content is no secret.
pub(crate) fn read(path: &Path, what: &str) -> Result<Secret, Failed> {
    let failed = |why: String| {
        let next =
            format!("make one with: (umask 077; head -c 32 /dev/urandom | base64 > {})", path.display());
        Failed::new(Exit::Usage, why, next)
    };
    let content = bytes(path)
        .map_err(|error| failed(format!("the {what} in {} cannot be read: {error}", path.display())))?;
    Secret::new(&content).map_err(|error| failed(format!("{}: {error}", path.display())))
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(*SECRET_BYTES.end() as u64 + AROUND).read_to_end(&mut content)?;
    Ok(content)
}

/// Makes a secret, if it is not there, readable by its owner only.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // Only a whole one ever has the name.
    let temporary = path.with_extension("new");
    let secret: [u8; 32] = rand::random();
    let mut text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // What an earlier attempt left may have been made with other permissions.
    out.set_permissions(Permissions::from_mode(0o600))?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(dir.path().join("secret.new"), "left over").unwrap();
        create(&path).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(first.trim().len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        assert!(read(&path, "secret").is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_saying_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let missing = read(&path, "cluster's secret").unwrap_err();
        assert!(missing.what.contains("cannot be read") && missing.next.contains("urandom"), "{missing}");
        fs::write(&path, "hunter2").unwrap();
        let short = read(&path, "cluster's secret").unwrap_err();
        assert!(short.what.contains("7 bytes") && !short.to_string().contains("hunter2"), "{short}");
        fs::write(&path, "  0123456789abcdef\n").unwrap();
        assert_eq!(read(&path, "x").unwrap(), Secret::new(b"0123456789abcdef").unwrap());
        // A device that never ends is read to its bound.
        assert!(read(Path::new("/dev/zero"), "x").is_err());
    }
}
