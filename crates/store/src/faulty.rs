//! A disk with fault injection: slow, full, unable to sync, or without power.
//!
//! Unsynced writes are kept in memory, away from the operating system, so that an injected power failure loses them
//! like a real one. Killing the process would not do that: the operating system keeps the written data. Only for nodes
//! that were started with fault injection enabled.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use redb::StorageBackend;

use crate::disk::{Disk, RealDisk};
use crate::lock;

/// The unit of loss in a power failure: the operating system's page.
const PAGE: u64 = PAGE_BYTES as u64;
const PAGE_BYTES: usize = 4096;
/// The unit in which a torn write reaches the disk, bytes.
const SECTOR: usize = 512;

/// The active faults of a node's disk. Shared by all of its files.
#[derive(Debug, Default)]
pub struct DiskFaults {
    sync_delay_ms: AtomicU64,
    fail_sync: AtomicBool,
    full: AtomicBool,
    free_bytes: Mutex<Option<u64>>,
    files: Mutex<Vec<Weak<File>>>,
}

impl DiskFaults {
    /// Replaces the active faults.
    pub fn set(&self, sync_delay: Duration, fail_sync: bool, full: bool) {
        let millis = u64::try_from(sync_delay.as_millis()).unwrap_or(u64::MAX);
        self.sync_delay_ms.store(millis, Ordering::Relaxed);
        self.fail_sync.store(fail_sync, Ordering::Relaxed);
        self.full.store(full, Ordering::Relaxed);
    }

    /// The bytes that the disk says are free, although all writes succeed.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        *lock(&self.free_bytes) = free;
    }

    /// Ends the process and loses all unsynced writes. If `torn`, some of them are written nevertheless, and the last
    /// page of these only in part; `seed` decides which.
    pub fn cut_power(&self, torn: bool, seed: u64) -> ! {
        let files: Vec<Arc<File>> = lock(&self.files).iter().filter_map(Weak::upgrade).collect();
        // The locks are held until the process ends, so that nothing else is written or synced.
        let held: Vec<_> = files
            .iter()
            .map(|file| (file, file.content.write().unwrap_or_else(std::sync::PoisonError::into_inner)))
            .collect();
        if torn {
            for (number, (file, content)) in (1_u64..).zip(&held) {
                // A page that cannot be written is lost like the others.
                let _ = file.tear(content, seed.wrapping_mul(number | 1));
            }
        }
        std::process::abort()
    }
}

/// The operating system's files, with injected faults.
#[derive(Debug)]
pub struct FaultyDisk {
    faults: Arc<DiskFaults>,
}

impl FaultyDisk {
    /// A disk with these faults.
    #[must_use]
    pub fn new(faults: Arc<DiskFaults>) -> Self {
        Self { faults }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let inner = RealDisk.open(path)?;
        let content = RwLock::new(Content { len: inner.len()?, pages: BTreeMap::new() });
        let file = Arc::new(File { inner, faults: Arc::clone(&self.faults), content });
        let mut files = lock(&self.faults.files);
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(&file));
        Ok(Box::new(Handle(file)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let (free, size) = RealDisk.space(dir)?;
        Ok((lock(&self.faults.free_bytes).unwrap_or(free), size))
    }
}

#[expect(clippy::disallowed_methods, reason = "being slow is what it is for, on a thread that may block")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A file offset as an index. All of the file is in memory, so its offsets fit.
fn index(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// One file.
#[derive(Debug)]
struct File {
    inner: Box<dyn StorageBackend>,
    faults: Arc<DiskFaults>,
    content: RwLock<Content>,
}

/// The changes since the last sync.
#[derive(Debug)]
struct Content {
    len: u64,
    /// Whole pages by their number.
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl File {
    fn read_content(&self) -> std::sync::RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write_content(&self) -> std::sync::RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn check_space(&self) -> io::Result<()> {
        if self.faults.full.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left (injected fault)"));
        }
        Ok(())
    }

    /// A page as it is on disk; zeros beyond the end of the file.
    fn stored(&self, page: u64) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
        let there = self.inner.len()?.saturating_sub(page * PAGE).min(PAGE);
        if there > 0 {
            self.inner.read(page * PAGE, &mut bytes[..index(there)])?;
        }
        Ok(bytes)
    }

    /// Writes the part of one page that is within the file.
    fn put(&self, content: &Content, page: u64, bytes: &[u8]) -> io::Result<()> {
        let there = content.len.saturating_sub(page * PAGE).min(bytes.len() as u64);
        if there == 0 {
            return Ok(());
        }
        let end = page * PAGE + there;
        if self.inner.len()? < end {
            self.inner.set_len(end)?;
        }
        self.inner.write(page * PAGE, &bytes[..index(there)])
    }

    /// Writes some of the unsynced pages.
    fn tear(&self, content: &Content, seed: u64) -> io::Result<()> {
        // Any order but that of the pages serves: the operating system promises none.
        let mixed = |page: u64| (page ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
        let mut written: Vec<_> = content.pages.iter().filter(|(page, _)| mixed(**page) % 2 == 0).collect();
        written.sort_by_key(|(page, _)| mixed(**page));
        let last = written.pop();
        for (page, bytes) in written {
            self.put(content, *page, bytes)?;
        }
        if let Some((page, bytes)) = last {
            let part = SECTOR * (1 + index(mixed(*page) >> 32) % (PAGE_BYTES / SECTOR - 1));
            self.put(content, *page, &bytes[..part])?;
        }
        self.inner.sync_data()
    }
}

/// The handle that redb uses.
#[derive(Debug)]
struct Handle(Arc<File>);

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read_content().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = &self.0;
        let content = file.read_content();
        let end = offset + out.len() as u64;
        if end > content.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = file.inner.len()?.saturating_sub(offset).min(out.len() as u64);
        let there = index(there);
        if there > 0 {
            file.inner.read(offset, &mut out[..there])?;
        }
        out[there..].fill(0);
        for (page, bytes) in content.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            out[index(from - offset)..index(to - offset)]
                .copy_from_slice(&bytes[index(from - start)..index(to - start)]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.0.write_content();
        if len > content.len {
            self.0.check_space()?;
        } else if len < content.len {
            content.pages.split_off(&len.div_ceil(PAGE));
            // Truncated bytes must not reappear when the file grows again. Files are truncated only when nothing in
            // them is needed, so an immediate truncation loses nothing that a power failure should keep.
            if self.0.inner.len()? > len {
                self.0.inner.set_len(len)?;
            }
            if let Some(bytes) = content.pages.get_mut(&(len / PAGE)) {
                bytes[index(len % PAGE)..].fill(0);
            }
        }
        content.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let file = &self.0;
        let delay = file.faults.sync_delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            pause(Duration::from_millis(delay));
        }
        let mut content = file.write_content();
        if file.faults.fail_sync.load(Ordering::Relaxed) {
            return Err(io::Error::other("the sync failed (injected fault)"));
        }
        file.check_space()?;
        for (page, bytes) in &content.pages {
            file.put(&content, *page, bytes)?;
        }
        if file.inner.len()? != content.len {
            file.inner.set_len(content.len)?;
        }
        file.inner.sync_data()?;
        content.pages.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = &self.0;
        file.check_space()?;
        let mut content = file.write_content();
        let end = offset + data.len() as u64;
        content.len = content.len.max(end);
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let start = page * PAGE;
            let (from, to) = (offset.max(start), end.min(start + PAGE));
            let bytes = match content.pages.entry(page) {
                Entry::Occupied(changed) => changed.into_mut(),
                Entry::Vacant(new) if to - from == PAGE => new.insert(vec![0; PAGE_BYTES].into()),
                Entry::Vacant(new) => new.insert(file.stored(page)?),
            };
            bytes[index(from - start)..index(to - start)]
                .copy_from_slice(&data[index(from - offset)..index(to - offset)]);
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(dir: &Path) -> (Arc<DiskFaults>, Box<dyn StorageBackend>) {
        let faults = Arc::new(DiskFaults::default());
        let disk = FaultyDisk::new(Arc::clone(&faults));
        (faults, disk.open(&dir.join("file")).unwrap())
    }

    fn whole(file: &dyn StorageBackend) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read(0, &mut out).unwrap();
        out
    }

    #[test]
    fn unsynced_writes_are_lost_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (_, file) = open(dir.path());
        file.set_len(10_000).unwrap();
        file.write(100, b"synced").unwrap();
        file.sync_data().unwrap();
        file.write(5_000, b"lost").unwrap();
        file.set_len(20_000).unwrap();
        assert_eq!(&whole(&*file)[5_000..5_004], b"lost");
        drop(file);
        let (_, file) = open(dir.path());
        assert_eq!(file.len().unwrap(), 10_000);
        assert_eq!(&whole(&*file)[100..106], b"synced");
        assert_eq!(&whole(&*file)[5_000..5_004], [0; 4]);
    }

    #[test]
    fn a_disk_can_be_full_and_can_fail_to_sync() {
        let dir = tempfile::tempdir().unwrap();
        let (faults, file) = open(dir.path());
        file.set_len(4_096).unwrap();
        faults.set(Duration::ZERO, false, true);
        assert_eq!(file.write(0, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        faults.set(Duration::ZERO, true, false);
        file.write(0, b"x").unwrap();
        assert!(file.sync_data().is_err());
        faults.set(Duration::ZERO, false, false);
        file.sync_data().unwrap();
    }

    #[test]
    fn a_torn_write_reaches_the_disk_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(DiskFaults::default());
        let disk = FaultyDisk::new(Arc::clone(&faults));
        let file = disk.open(&dir.path().join("file")).unwrap();
        file.write(0, &vec![7; 64 * 4_096]).unwrap();
        let inner = lock(&faults.files)[0].upgrade().unwrap();
        inner.tear(&inner.read_content(), 42).unwrap();
        drop((file, inner));
        let left = std::fs::read(dir.path().join("file")).unwrap();
        let pages = left.chunks(4_096).filter(|page| page.contains(&7)).count();
        assert!((1..64).contains(&pages), "{pages} of 64 pages");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_faulty_disk_without_faults_reads_like_a_plain_file(
            steps in proptest::collection::vec((0_u8..4, 0_usize..20_000, 1_usize..9_000, any::<u8>()), 1..40)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (_, file) = open(dir.path());
            let mut model: Vec<u8> = Vec::new();
            for (step, at, len, byte) in steps {
                match step {
                    0 | 1 => {
                        file.write(at as u64, &vec![byte; len]).unwrap();
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].fill(byte);
                    }
                    2 => {
                        file.set_len(at as u64).unwrap();
                        model.resize(at, 0);
                    }
                    _ => file.sync_data().unwrap(),
                }
                prop_assert_eq!(&whole(&*file), &model);
            }
            file.sync_data().unwrap();
            drop(file);
            prop_assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), model);
        }
    }
}
