//! Reading files that only their owner may read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The error of a secret that other users can read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} can be read by other users (mode {mode:04o}): whoever reads it can act as this cluster. Change it to \
     mode 0600 (chmod 600), and make a new one if others may have read it"
)]
pub struct Exposed {
    path: String,
    mode: u32,
}

/// The error of reading a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Other users can read it.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Reads a secret of at most this many bytes. Blocks.
///
/// # Errors
/// [`SecretError::Exposed`] if the file can be read by everybody, or is this process's own and its group can read it.
/// Secrets that the system gives to a service, such as a volume of Kubernetes, belong to root and are readable by the
/// service's group.
pub fn read_secret(path: &Path, bytes_max: u64) -> Result<Vec<u8>, SecretError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    let foreign_bits = if own { 0o077 } else { 0o007 };
    if metadata.mode() & foreign_bits != 0 {
        let exposed = Exposed { path: path.display().to_string(), mode: metadata.mode() & 0o7777 };
        return Err(exposed.into());
    }
    Ok(bounded(file, bytes_max)?)
}

pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, bytes_max)
}

fn bounded(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content)?;
    match u64::try_from(content.len()) {
        Ok(length) if length <= bytes_max => Ok(content),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes"))),
    }
}
