//! Files and directories that only their owner may use.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The permissions of group and others.
pub(crate) const FOREIGN: u32 = 0o077;

/// Options that create a file with mode 0600.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Creates a file, or empties the one that is there, and makes it private. A symbolic link is not followed: another file
/// would be emptied.
///
/// # Errors
/// If the file cannot be created, is a symbolic link, or belongs to somebody else.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = options();
    options.write(true).create(true).truncate(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(path).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} is a symbolic link, and only a plain file is written there: remove it",
                path.display()
            ),
        ),
        _ => error,
    })?;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_behind_a_symbolic_link_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "kept").unwrap();
        symlink(&target, &link).unwrap();
        let error = create(&link).unwrap_err().to_string();
        assert!(error.contains(&format!("{} is a symbolic link", link.display())), "{error}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        // A link to nowhere makes no file elsewhere, either.
        fs::remove_file(&target).unwrap();
        create(&link).unwrap_err();
        assert!(!target.exists());
        create(&target).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
    }
}
