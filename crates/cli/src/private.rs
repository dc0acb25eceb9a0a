//! Files and directories that only their owner may use.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The permissions of group and others.
pub(crate) const FOREIGN: u32 = 0o077;

/// Options that create a file with mode 0600.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Creates a file, or empties the one that is there, and makes it private.
///
/// # Errors
/// If the file cannot be created, or belongs to somebody else.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = options().write(true).create(true).truncate(true).open(path)?;
    restrict(&file)?;
    Ok(file)
}

/// Takes the permissions of group and others from a file.
///
/// # Errors
/// If the file belongs to somebody else.
pub(crate) fn restrict(file: &File) -> io::Result<()> {
    if file.metadata()?.mode() & FOREIGN == 0 {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Creates a directory and its parents with mode 0700.
///
/// # Errors
/// If the directory cannot be created.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes the permissions of group and others from a directory.
///
/// # Errors
/// If the directory belongs to somebody else.
pub(crate) fn restrict_dir(dir: &Path) -> io::Result<()> {
    if fs::metadata(dir)?.mode() & FOREIGN == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}
