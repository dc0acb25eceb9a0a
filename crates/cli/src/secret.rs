//! Secrets: read from files, never from the command line, never shown.

use std::fs::File;
use std::io::{self, Read as _};
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_saying_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let missing = read(&path, "cluster's secret").unwrap_err();
        assert!(missing.what.contains("cannot be read") && missing.next.contains("urandom"), "{missing}");
        std::fs::write(&path, "hunter2").unwrap();
        let short = read(&path, "cluster's secret").unwrap_err();
        assert!(short.what.contains("7 bytes") && !short.to_string().contains("hunter2"), "{short}");
        std::fs::write(&path, "  0123456789abcdef\n").unwrap();
        assert_eq!(read(&path, "x").unwrap(), Secret::new(b"0123456789abcdef").unwrap());
        // A device that never ends is read to its bound.
        assert!(read(Path::new("/dev/zero"), "x").is_err());
    }
}
