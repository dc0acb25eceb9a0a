//! Files of keys and certificates: readable by their owner alone, and written as a whole or not at all.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::PkiError;

pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> PkiError + use<> {
    let path = path.display().to_string();
    move |source| PkiError::File { path: path.clone(), source }
}

/// Makes a directory for secrets, and its parents, with mode 0700. A directory that is there already keeps its mode.
pub(crate) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))
}

/// Writes a file with mode 0600, durably, and replaces what was there in one step.
///
/// # Errors
/// If the directory cannot be written to.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let temporary = prepare(path, content)?;
    temporary.persist(path).map_err(|error| failed(path)(error.error))?;
    sync_dir(path)
}

/// As [`write_secret`], but never replaces a file: then the error is [`PkiError::Exists`].
pub(crate) fn write_new_secret(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let temporary = prepare(path, content)?;
    temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.display().to_string()),
        _ => failed(path)(error.error),
    })?;
    sync_dir(path)
}

/// A synced temporary file beside `path`. Temporary files have mode 0600.
fn prepare(path: &Path, content: &[u8]) -> Result<tempfile::NamedTempFile, PkiError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temporary =
        tempfile::Builder::new().prefix(".conclave-").tempfile_in(dir).map_err(failed(path))?;
    temporary.write_all(content).map_err(failed(path))?;
    temporary.as_file().sync_all().map_err(failed(path))?;
    Ok(temporary)
}

fn sync_dir(path: &Path) -> Result<(), PkiError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}
