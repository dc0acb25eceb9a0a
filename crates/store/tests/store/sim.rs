//! A disk that loses power.
//!
//! What is written lies in a cache until it is synced. When the power fails, each sector of 512
//! bytes that was not synced has its old content or its new one; and every handle from before is
//! dead, so that nothing can be repaired on the way out. The power can fail by itself in the middle
//! of anything: after a number of operations. And the disk can be full.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use conclave_store::Disk;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>, Arc<Gate>);

/// Where syncs of one file are held up.
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
    /// Raised by every power failure.
    life: u64,
    /// Writing operations until the power fails.
    left: Option<u64>,
    dead: bool,
    capacity: u64,
    /// Answer syncs without doing them: the tests must notice.
    lies: bool,
}

#[derive(Debug, Default)]
struct SimFile {
    synced: Vec<u8>,
    current: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let sim = Sim {
            files: BTreeMap::new(),
            random: StdRng::seed_from_u64(seed),
            life: 0,
            left: None,
            dead: false,
            capacity: u64::MAX,
            lies: false,
        };
        Self(Arc::new(Mutex::new(sim)), Arc::default())
    }

    /// From now on, syncs of this file do not return.
    pub(crate) fn hold(&self, path: &Path) {
        self.1.held.lock().unwrap().path = Some(path.to_owned());
    }

    /// Waits until one is held up.
    pub(crate) fn until_held(&self) {
        let held = self.1.held.lock().unwrap();
        let none = |held: &mut Held| held.waiting == 0;
        let waited = self.1.changed.wait_timeout_while(held, Duration::from_secs(30), none).unwrap();
        assert!(!waited.1.timed_out(), "nothing is synced");
    }

    /// Lets them return.
    pub(crate) fn release(&self) {
        self.1.held.lock().unwrap().path = None;
        self.1.changed.notify_all();
    }

    fn pass(&self, path: &Path) {
        let Gate { held, changed } = &*self.1;
        let mut held = held.lock().unwrap();
        if held.path.as_deref() != Some(path) {
            return;
        }
        held.waiting += 1;
        changed.notify_all();
        held = changed.wait_while(held, |held| held.path.is_some()).unwrap();
        held.waiting -= 1;
    }

    fn sim(&self) -> std::sync::MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }

    /// The power fails after so many more writing operations.
    pub(crate) fn fail_after(&self, operations: u64) {
        self.sim().left = Some(operations);
    }

    /// No file may grow so that all are larger than this.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.sim().capacity = bytes;
    }

    pub(crate) fn used(&self) -> u64 {
        self.sim().files.values().map(|file| file.current.len() as u64).sum()
    }

    pub(crate) fn lie(&self) {
        self.sim().lies = true;
    }

    pub(crate) fn be_honest(&self) {
        self.sim().lies = false;
    }

    pub(crate) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut sim = self.sim();
        let file = sim.files.get_mut(path).unwrap();
        change(&mut file.current);
        file.synced.clone_from(&file.current);
    }

    /// The power fails, if it has not, and comes back.
    pub(crate) fn crash(&self) {
        let mut sim = self.sim();
        let Sim { files, random, .. } = &mut *sim;
        // Nothing, everything or half of what was not synced has reached the disk.
        let chance = [0.0, 1.0, 0.5][random.random_range(0..3)];
        for file in files.values_mut() {
            let len = if random.random_bool(chance) { file.current.len() } else { file.synced.len() };
            let mut after = file.synced.clone();
            after.resize(len, 0);
            for sector in &file.dirty {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(len).min(file.current.len());
                if random.random_bool(chance) && range.start < range.end {
                    after[range.clone()].copy_from_slice(&file.current[range]);
                }
            }
            file.current.clone_from(&after);
            file.synced = after;
            file.dirty.clear();
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
            let offset = usize::try_from(offset).unwrap();
            let bytes = file.current.get(offset..offset + out.len());
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
        let capacity = self.disk.sim().capacity;
        self.with(true, |file| {
            if len > file.current.len() as u64 && others + len > capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.current.resize(usize::try_from(len).unwrap(), 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.pass(&self.path);
        let lies = self.disk.sim().lies;
        self.with(true, |file| {
            if !lies {
                file.synced.clone_from(&file.current);
                file.dirty.clear();
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(true, |file| {
            let start = usize::try_from(offset).unwrap();
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
