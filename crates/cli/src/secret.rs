//! Secrets: created in files and read from files, never taken from the command line and never printed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use conclave_proto::mac::{SECRET_BYTES, Secret};

use crate::exit::{Exit, Failed};

/// White space around a secret that is tolerated, bytes.
const AROUND: u64 = 1024;

/// Reads a secret. `what` names it in the error.
///
/// # Errors
/// If the file cannot be read, or its content is not a valid secret.
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

/// Creates a secret unless it exists, readable by its owner only.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    // Written under another name and renamed, so that the file is always complete.
    let temporary = path.with_extension("new");
    let secret: [u8; 32] = rand::random();
    let mut text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // A file that an earlier attempt left may have other permissions.
    out.set_permissions(Permissions::from_mode(0o600))?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_created_once_and_readable_by_its_owner_only() {
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
    fn errors_about_a_secret_do_not_reveal_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let missing = read(&path, "cluster's secret").unwrap_err();
        assert!(missing.what.contains("cannot be read") && missing.next.contains("urandom"), "{missing}");
        fs::write(&path, "hunter2").unwrap();
        let short = read(&path, "cluster's secret").unwrap_err();
        assert!(short.what.contains("7 bytes") && !short.to_string().contains("hunter2"), "{short}");
        fs::write(&path, "  0123456789abcdef\n").unwrap();
        assert_eq!(read(&path, "x").unwrap(), Secret::new(b"0123456789abcdef").unwrap());
        // An endless device is read up to the bound.
        assert!(read(Path::new("/dev/zero"), "x").is_err());
    }
}
