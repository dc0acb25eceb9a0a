//! Files and directories that only their owner may use: a data dir holds everybody's messages.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, set_permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// The permissions of group and others.
const FOREIGN: u32 = 0o077;

/// Options that create a file with mode 0600.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Creates a file with mode 0600, or empties the one that is there. A symbolic link is not followed: another file would be
/// emptied.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = options();
    options.write(true).create(true).truncate(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path)
}

/// Creates a directory and its parents with mode 0700.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes the permissions of group and others from a directory, such as one that an older version made. A directory of
/// another owner, such as the root of a volume, keeps the permissions that this owner chose.
pub(crate) fn restrict_dir(dir: &Path) {
    if dir.metadata().is_ok_and(|metadata| metadata.mode() & FOREIGN != 0) {
        let _ = set_permissions(dir, Permissions::from_mode(0o700));
    }
}

/// Takes the permissions of group and others from a file that an older version made.
pub(crate) fn restrict(file: &File) {
    if file.metadata().is_ok_and(|metadata| metadata.mode() & FOREIGN != 0) {
        let _ = file.set_permissions(Permissions::from_mode(0o600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_behind_a_symbolic_link_is_not_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        create(&link).unwrap_err();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
        create(&target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "");
    }
}
