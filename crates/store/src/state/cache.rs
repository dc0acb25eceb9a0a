//! Rows in memory: recently used rows, and rows that are not written yet.
//!
//! Invariant: an unwritten row is never dropped. Time is counted in *epochs*: a change belongs to the
//! current epoch, and the writer takes all changes of an epoch at once.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A map by ids that the cluster gives out, so that clients cannot choose colliding ids.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A quick hasher for small keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    /// The epoch of the last change; 0 if the row is as in the file.
    changed: u64,
    /// The row's key is in `dirty`.
    queued: bool,
    /// The row was used since the last visit of the eviction.
    used: Cell<bool>,
}

/// A cache of rows. The module describes epochs and eviction.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    slots: IdMap<K, Slot<V>>,
    /// Every key once, in the order in which the eviction visits them.
    order: VecDeque<K>,
    dirty: Vec<K>,
}

impl<K: Clone + Eq + Hash, V> Cache<K, V> {
    pub(crate) fn new() -> Self {
        Self { slots: IdMap::default(), order: VecDeque::new(), dirty: Vec::new() }
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.slots.contains_key(key)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let slot = self.slots.get(key)?;
        slot.used.set(true);
        Some(&slot.value)
    }

    /// All rows in memory, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.value))
    }

    /// The rows that have changed since the epoch `written`, in no order.
    pub(crate) fn unwritten(&self, written: u64) -> impl Iterator<Item = (&K, &V)> {
        let changed = self.slots.iter().filter(move |(_, slot)| slot.changed > written);
        changed.map(|(key, slot)| (key, &slot.value))
    }

    /// Adds a row as it is in the file.
    pub(crate) fn insert_clean(&mut self, key: K, value: V) {
        self.order.push_back(key.clone());
        self.slots.insert(key, Slot { value, changed: 0, queued: false, used: Cell::new(true) });
    }

    /// A row that is about to change in this epoch; created if it is not in the cache.
    pub(crate) fn change(&mut self, key: K, epoch: u64, make: impl FnOnce() -> V) -> &mut V {
        let order = &mut self.order;
        let dirty = &mut self.dirty;
        let slot = self.slots.entry(key.clone()).or_insert_with(|| {
            order.push_back(key.clone());
            Slot { value: make(), changed: 0, queued: false, used: Cell::new(true) }
        });
        slot.changed = epoch;
        if !slot.queued {
            slot.queued = true;
            dirty.push(key);
        }
        &mut slot.value
    }

    /// Passes every row that changed since the last call to `each`.
    pub(crate) fn take_dirty(&mut self, mut each: impl FnMut(&K, &V)) {
        for key in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.queued = false;
                each(&key, &slot.value);
            }
        }
    }

    /// Drops rows that were not used lately and are written (up to the epoch `written`), while there
    /// are more than `max`. Visits a bounded number of rows in each call.
    pub(crate) fn evict(&mut self, max: usize, written: u64) {
        let mut looks = 2 * self.slots.len().saturating_sub(max).min(1024);
        while self.slots.len() > max && looks > 0 {
            looks -= 1;
            let Some(key) = self.order.pop_front() else { return };
            match self.slots.get(&key) {
                Some(slot) if slot.changed > written || slot.queued || slot.used.replace(false) => {
                    self.order.push_back(key);
                }
                Some(_) => {
                    self.slots.remove(&key);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwritten_rows_are_never_evicted() {
        let mut cache = Cache::new();
        for n in 0..10_u64 {
            cache.insert_clean(n, n);
        }
        for n in 0..5 {
            *cache.change(n, 1, || 0) += 100;
        }
        *cache.change(50, 1, || 7) += 1;
        for _ in 0..10 {
            cache.evict(0, 0);
        }
        assert_eq!(cache.slots.len(), 6, "the changed ones are left");
        let mut taken = Vec::new();
        cache.take_dirty(|key, value| taken.push((*key, *value)));
        assert_eq!(taken, [(0, 100), (1, 101), (2, 102), (3, 103), (4, 104), (50, 8)]);
        assert!(cache.dirty.is_empty());
        for _ in 0..10 {
            cache.evict(0, 0);
        }
        assert_eq!(cache.slots.len(), 6, "taken is not written");
        for _ in 0..10 {
            cache.evict(2, 1);
        }
        assert_eq!(cache.slots.len(), 2);
    }
}
