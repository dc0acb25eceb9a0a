//! A simulated disk with power failures.
//!
//! Writes stay in a cache until they are synced. After a power failure, each unsynced sector of 512 bytes
//! has its old content or its new one. All handles from before the failure return errors, so that no
//! destructor can repair anything. The power can fail at any operation, after a given number of them. The
//! disk can also be full, slow, unable to sync, or answer syncs without doing them.
//!
//! For tests and simulations only: everything is in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;

use crate::disk::Disk;
use crate::lock;

const SECTOR: usize = 512;
/// The longest time that a sync is held. A passing test holds none for longer.
const HELD_MAX: Duration = Duration::from_secs(30);

/// A disk in memory. Cheap to clone; every clone is the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<Sim>>, Arc<Gate>);

/// Counters of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of syncs.
    pub syncs: u64,
    /// The number of power failures.
    pub power_cuts: u64,
    /// Sectors that were not synced at a power failure.
    pub unsynced: u64,
    /// Unsynced sectors that reached the disk nevertheless.
    pub kept: u64,
}

/// How many of the unsynced sectors reach the disk in a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// None of them.
    Nothing,
    /// All, half or none of them, as the disk's random numbers decide.
    Some,
}

/// Holds syncs of one file.
#[derive(Debug, Default)]
struct Gate {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    path: Option<PathBuf>,
    waiting: usize,
}

#[derive(Debug)]
struct Sim {
    files: BTreeMap<PathBuf, SimFile>,
    random: StdRng,
    /// Raised by every power failure; handles of an earlier life return errors.
    life: u64,
    /// Writing operations until the power fails.
    left: Option<u64>,
    dead: bool,
    capacity: u64,
    /// Syncs report success without making anything durable; tests must detect this.
    ignores_syncs: bool,
    /// Syncs fail.
    fails: bool,
    /// No file may grow.
    full: bool,
    /// The shortest time of a sync.
    slow: Duration,
    counts: Counts,
}

#[derive(Debug, Default)]
struct SimFile {
    synced: Vec<u8>,
    current: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// The smallest length since the last sync, if the file was truncated: all content after it is lost.
    cut_to: Option<usize>,
}

impl SimFile {
    /// Moves all written data to the disk.
    fn sync(&mut self) {
        if let Some(len) = self.cut_to.take() {
            self.synced.truncate(len);
        }
        self.synced.resize(self.current.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.current.len());
            if range.start < range.end {
                self.synced[range.clone()].copy_from_slice(&self.current[range]);
            }
        }
    }
}

#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl SimDisk {
    /// An empty disk; the seed decides which sectors survive power failures.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let sim = Sim {
            files: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            life: 0,
            left: None,
            dead: false,
            capacity: u64::MAX,
            ignores_syncs: false,
            fails: false,
            full: false,
            slow: Duration::ZERO,
            counts: Counts::default(),
        };
        Self(Arc::new(Mutex::new(sim)), Arc::default())
    }

    /// From now on, syncs of this file do not return.
    pub fn hold(&self, path: &Path) {
        lock(&self.1.held).path = Some(path.to_owned());
    }

    /// Waits until a sync is held; false if none is within half a minute.
    #[must_use]
    pub fn until_held(&self) -> bool {
        let held = lock(&self.1.held);
        let none = |held: &mut Held| held.waiting == 0;
        let waited = self.1.changed.wait_timeout_while(held, HELD_MAX, none);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Lets the held syncs return.
    pub fn release(&self) {
        lock(&self.1.held).path = None;
        self.1.changed.notify_all();
    }

    fn pass(&self, path: &Path) {
        let Gate { held, changed } = &*self.1;
        let mut held = lock(held);
        if held.path.as_deref() != Some(path) {
            return;
        }
        held.waiting += 1;
        changed.notify_all();
        held = changed.wait_while(held, |held| held.path.is_some()).unwrap_or_else(PoisonError::into_inner);
        held.waiting -= 1;
    }

    fn sim(&self) -> std::sync::MutexGuard<'_, Sim> {
        lock(&self.0)
    }

    /// The power fails after this many more writing operations.
    pub fn fail_after(&self, operations: u64) {
        self.sim().left = Some(operations);
    }

    /// Bounds the size of all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.sim().capacity = bytes;
    }

    /// The size of all files together, bytes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.sim().files.values().map(|file| file.current.len() as u64).sum()
    }

    /// From now on, syncs report success without making anything durable.
    pub fn ignore_syncs(&self) {
        self.sim().ignores_syncs = true;
    }

    /// From now on, syncs are done again.
    pub fn obey_syncs(&self) {
        self.sim().ignores_syncs = false;
    }

    /// Whether the power has failed by [`SimDisk::fail_after`], and [`SimDisk::crash`] must restore it.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.sim().dead
    }

    /// The counters so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.sim().counts
    }

    /// Sets faults: syncs take at least `slow` ([`Disk::sync_takes`]), syncs fail, or no file may grow.
    pub fn set_faults(&self, slow: Duration, fails: bool, full: bool) {
        let mut sim = self.sim();
        (sim.slow, sim.fails, sim.full) = (slow, fails, full);
    }

    /// Changes a file's content, as damage would; false if the file does not exist.
    pub fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut sim = self.sim();
        let Some(file) = sim.files.get_mut(path) else { return false };
        change(&mut file.current);
        file.synced.clone_from(&file.current);
        file.cut_to = None;
        true
    }

    /// Simulates a killed process on a running machine: old handles return errors, and all written data can be read,
    /// but is not synced: a power failure can still lose it.
    pub fn kill(&self) {
        let mut sim = self.sim();
        sim.life += 1;
        sim.left = None;
        sim.dead = false;
    }

    /// The power fails, unless it has failed already, and comes back.
    pub fn crash(&self) {
        self.lose_power(Remains::Some);
    }

    /// Like [`SimDisk::crash`], with a choice of the unsynced sectors that remain.
    pub fn lose_power(&self, remains: Remains) {
        let mut sim = self.sim();
        let Sim { files, random, counts, .. } = &mut *sim;
        counts.power_cuts += 1;
        // None, all or half of the unsynced sectors have reached the disk.
        let chance = match remains {
            Remains::Nothing => 0.0,
            Remains::Some => [0.0, 1.0, 0.5][random.random_range(0..3)],
        };
        for file in files.values_mut() {
            let len = if random.random_bool(chance) { file.current.len() } else { file.synced.len() };
            let mut after = file.synced.clone();
            after.resize(len, 0);
            for sector in &file.dirty {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(len).min(file.current.len());
                counts.unsynced += 1;
                if random.random_bool(chance) && range.start < range.end {
                    counts.kept += 1;
                    after[range.clone()].copy_from_slice(&file.current[range]);
                }
            }
            file.current.clone_from(&after);
            file.synced = after;
            file.dirty.clear();
            file.cut_to = None;
        }
        sim.life += 1;
        sim.left = None;
        sim.dead = false;
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let mut sim = self.sim();
        if sim.dead {
            return Err(io::Error::other("the power is off"));
        }
        sim.files.entry(path.to_owned()).or_default();
        Ok(Box::new(Handle { disk: self.clone(), path: path.to_owned(), life: sim.life }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.sim().files.contains_key(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        if sim.dead {
            return Err(io::Error::other("the power is off"));
        }
        sim.files.remove(path);
        Ok(())
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        let sim = self.sim();
        let file = sim.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.current.len() as u64)
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        let used = self.used();
        let capacity = self.sim().capacity;
        Ok((capacity.saturating_sub(used), capacity))
    }

    /// From 0.1 ms to a few milliseconds, mostly short; longer with the fault `slow`.
    fn sync_takes(&self) -> Duration {
        let mut sim = self.sim();
        let draw: f64 = sim.random.random();
        Duration::from_micros(100) + Duration::from_millis(4).mul_f64(draw.powi(4)) + sim.slow
    }
}

/// A file offset as an index. All of the file is in memory, so its offsets fit.
fn index(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

impl Handle {
    fn with<T>(&self, writes: bool, work: impl FnOnce(&mut SimFile) -> io::Result<T>) -> io::Result<T> {
        let mut sim = self.disk.sim();
        if writes && sim.life == self.life {
            match &mut sim.left {
                Some(0) => sim.dead = true,
                Some(left) => *left -= 1,
                None => {}
            }
        }
        if sim.dead || sim.life != self.life {
            return Err(io::Error::other("the power is off"));
        }
        work(sim.files.get_mut(&self.path).ok_or(io::ErrorKind::NotFound)?)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(false, |file| Ok(file.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(false, |file| {
            let offset = index(offset);
            let bytes = file.current.get(offset..offset.saturating_add(out.len()));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let others: u64 = {
            let sim = self.disk.sim();
            sim.files
                .iter()
                .filter(|(path, _)| **path != self.path)
                .map(|(_, file)| file.current.len() as u64)
                .sum()
        };
        let (capacity, full) = {
            let sim = self.disk.sim();
            (sim.capacity, sim.full)
        };
        self.with(true, |file| {
            if len > file.current.len() as u64 && (full || others + len > capacity) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let len = index(len);
            if len < file.current.len() {
                file.cut_to = Some(file.cut_to.map_or(len, |shortest| shortest.min(len)));
            }
            file.current.resize(len, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.pass(&self.path);
        let (ignores_syncs, fails) = {
            let mut sim = self.disk.sim();
            sim.counts.syncs += 1;
            (sim.ignores_syncs, sim.fails)
        };
        self.with(true, |file| {
            if fails {
                return Err(io::Error::other("the sync failed (injected fault)"));
            }
            if !ignores_syncs {
                file.sync();
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(true, |file| {
            let start = index(offset);
            let end = start + data.len();
            if file.current.len() < end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.current[start..end].copy_from_slice(data);
            file.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_keeps_the_content_of_a_file_that_was_truncated_and_grew_again() {
        let disk = SimDisk::new(1);
        let path = Path::new("file");
        let file = disk.open(path).unwrap();
        file.set_len(2_000).unwrap();
        file.write(0, &[1; 2_000]).unwrap();
        file.sync_data().unwrap();
        file.set_len(700).unwrap();
        file.set_len(1_500).unwrap();
        file.write(1_400, &[2; 100]).unwrap();
        file.sync_data().unwrap();
        file.write(0, &[3; 600]).unwrap();
        disk.lose_power(Remains::Nothing);
        let file = disk.open(path).unwrap();
        let mut bytes = vec![9; 1_500];
        file.read(0, &mut bytes).unwrap();
        let wanted = [vec![1; 700], vec![0; 700], vec![2; 100]].concat();
        assert_eq!((file.len().unwrap(), bytes), (1_500, wanted));
    }
}
