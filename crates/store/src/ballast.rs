//! A file that only takes up space, to be removed when the disk is full: then a node can still start.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::private;

/// Its name in the data dir.
const FILE: &str = "ballast";
/// Its size, bytes. Far more than what opening a data dir writes.
const BYTES: u64 = 16 * 1024 * 1024;
/// The ballast is made only where it leaves at least this many times its size free.
const ROOM: u64 = 4;
/// With less room than this, bytes, opening a data dir may fail.
const NEEDED: u64 = BYTES / 4;

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Removes the ballast if the disk has too little room to open the data dir. Blocks.
pub(crate) fn drop_if_needed(disk: &dyn Disk, dir: &Path) {
    let path = path(dir);
    if !path.exists() || !disk.space(dir).is_ok_and(|(free, size)| size > 0 && free < NEEDED) {
        return;
    }
    match std::fs::remove_file(&path) {
        Ok(()) => tracing::warn!(bytes = BYTES, "disk full, ballast dropped: free some space"),
        Err(error) => tracing::warn!(%error, "disk full, and the ballast cannot be dropped"),
    }
}

/// Makes the ballast, if there is none and the disk has ample room. Blocks.
///
/// # Errors
/// If the file cannot be made; then none is left.
pub(crate) fn keep(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let path = path(dir);
    let (free, _) = disk.space(dir)?;
    if path.exists() || free < ROOM * BYTES {
        return Ok(());
    }
    let file = private::options().write(true).create_new(true).open(&path)?;
    allocate(&file).inspect_err(|_| {
        // A file without its space is worse than none: nobody would make it again.
        let _ = std::fs::remove_file(&path);
    })
}

/// Takes up the space.
#[cfg(target_os = "linux")]
fn allocate(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, BYTES)?)
}

/// Without a call that allocates, the file stays empty.
#[cfg(not(target_os = "linux"))]
fn allocate(_: &File) -> io::Result<()> {
    Ok(())
}
