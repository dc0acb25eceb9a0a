//! Replaces state files, also symbolic links and files that are mounted by themselves.
//!
//! A file is replaced by a rename, so that a crash leaves the old content or the new one. A symbolic link is followed,
//! and its target is replaced. A file that cannot be renamed over, such as one that is mounted into a container by
//! itself, is written in place. What is no plain file is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::private;

/// The number of links that a path may lead through.
const LINKS_MAX: usize = 40;

/// The file that a path leads to, which need not exist yet.
///
/// # Errors
/// If it is no plain file, or the links lead nowhere.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let target = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(target);
            }
            Ok(metadata) if metadata.is_file() => return Ok(path),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "too many symbolic links"))
}

/// Replaces the content of a file, or creates it for its owner only, and syncs it. A file that is there keeps its permissions.
///
/// # Errors
/// If the file is no plain file, or cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = resolve(path)?;
    let permissions = fs::metadata(&path).map(|metadata| metadata.permissions()).ok();
    let temporary = beside(&path, &format!("{}.new", std::process::id()));
    let written = private::create(&temporary).and_then(|mut file| {
        if let Some(permissions) = permissions.clone() {
            file.set_permissions(permissions)?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    });
    let Err(error) = written else { return sync_parent(&path) };
    // A file that is left behind does no harm.
    let _ = fs::remove_file(&temporary);
    match error.kind() {
        io::ErrorKind::ResourceBusy
        | io::ErrorKind::CrossesDevices
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
            if permissions.is_some() =>
        {
            let mut file = OpenOptions::new().write(true).truncate(true).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        }
        _ => Err(error),
    }
}

/// The path with a suffix after its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_target_of_a_link_is_replaced_and_the_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (link, between, target) =
            (dir.path().join("link"), dir.path().join("between"), dir.path().join("volume/pos"));
        fs::create_dir(dir.path().join("volume")).unwrap();
        symlink("between", &link).unwrap();
        symlink("volume/pos", &between).unwrap();
        // A link may be there before its target.
        replace(&link, "one").unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path().join("volume")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_is_no_plain_file_is_refused_and_permissions_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(dir.path(), "x").is_err());
        assert!(replace(Path::new("/dev/null"), "x").unwrap_err().to_string().contains("no plain file"));
        let (circle, file) = (dir.path().join("circle"), dir.path().join("file"));
        symlink("circle", &circle).unwrap();
        assert!(replace(&circle, "x").is_err());
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        replace(&file, "x").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
