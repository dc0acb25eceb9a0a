//! One group's log in memory: the place of every entry in the file, and the newest entries themselves.
//!
//! Invariants: the slots have no gaps; the cached entries are the newest ones; an entry that is not in
//! the file yet is cached.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use openraft::EntryPayload;

use crate::convert::log_id_of;
use crate::types::{Entry, LogId};

/// The place of an entry in the file: the commit's first row, and the range in the commit's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryLocation {
    pub(crate) row: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    place: Option<EntryLocation>,
    /// [`Group::stamp`] when the entry was appended.
    stamp: u32,
}

/// One group's log.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    cached: VecDeque<Entry>,
    cached_bytes: usize,
    /// Raised by every truncation, so that a place is never given to an entry that later replaced
    /// another at the same index.
    stamp: u32,
    /// The row that records a truncation, while earlier rows may still hold truncated entries; the
    /// largest number until that row is written. These earlier rows may be deleted only all at once,
    /// because the rest of them cannot be replayed without the first.
    pub(crate) truncated: Option<u64>,
    pub(crate) purged: Option<LogId>,
    /// `purged` is not in the file yet.
    pub(crate) purge_pending: bool,
    pub(crate) committed: Option<LogId>,
    /// `committed` is not in the file yet.
    pub(crate) committed_pending: bool,
}

/// A requested entry.
#[derive(Debug)]
pub(crate) enum FoundEntry {
    Cached(Entry),
    InFile(LogId, EntryLocation),
}

impl Group {
    /// The last index plus one.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The term of the entry at this index.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(at).map(|slot| slot.term)
    }

    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        let last = self.slots.back().map(|slot| log_id_of(slot.term, self.end() - 1));
        last.or(self.purged)
    }

    /// Appends entries and returns their stamp, which [`Group::written`] needs.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> io::Result<u32> {
        let Some(first) = entries.first() else { return Ok(self.stamp) };
        let expected =
            if self.slots.is_empty() { self.purged.map(|id| id.index + 1) } else { Some(self.end()) };
        if expected.is_some_and(|expected| expected != first.log_id.index) {
            let what = format!("entry {} does not follow {expected:?}", first.log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if self.slots.is_empty() {
            self.first = first.log_id.index;
        }
        for entry in entries {
            self.slots.push_back(Slot { term: entry.log_id.leader_id.term, place: None, stamp: self.stamp });
            self.cached_bytes += size(entry);
            self.cached.push_back(entry.clone());
        }
        Ok(self.stamp)
    }

    /// Adds an entry that is in the file already, as recovery finds it.
    pub(crate) fn recovered(&mut self, entry: Entry, place: EntryLocation, cached_bytes_max: usize) {
        if self.slots.is_empty() {
            self.first = entry.log_id.index;
        }
        let slot = Slot { term: entry.log_id.leader_id.term, place: Some(place), stamp: self.stamp };
        self.slots.push_back(slot);
        self.cached_bytes += size(&entry);
        self.cached.push_back(entry);
        self.evict(cached_bytes_max);
    }

    /// Drops all entries from this index on. Returns whether there were any.
    pub(crate) fn truncate(&mut self, from: u64) -> bool {
        if from >= self.end() {
            return false;
        }
        let keep = from.saturating_sub(self.first);
        let gone = self.end() - (self.first + keep);
        self.slots.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        for _ in 0..gone {
            if let Some(entry) = self.cached.pop_back() {
                self.cached_bytes -= size(&entry);
            }
        }
        self.stamp = self.stamp.wrapping_add(1);
        self.truncated = Some(u64::MAX);
        true
    }

    /// [`Group::stamp`].
    pub(crate) fn stamp(&self) -> u32 {
        self.stamp
    }

    /// Drops all entries up to this one, which may be beyond the last one.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        while !self.slots.is_empty() && self.first <= upto.index {
            if self.cached.len() == self.slots.len()
                && let Some(entry) = self.cached.pop_front()
            {
                self.cached_bytes -= size(&entry);
            }
            self.slots.pop_front();
            self.first += 1;
        }
        self.purged = Some(upto);
        self.purge_pending = true;
    }

    /// Records the places of the entries from `first` on, if they still have this stamp.
    pub(crate) fn written(&mut self, first: u64, stamp: u32, places: impl Iterator<Item = EntryLocation>) {
        for (index, place) in (first..).zip(places) {
            let slot =
                index.checked_sub(self.first).and_then(|at| self.slots.get_mut(usize::try_from(at).ok()?));
            if let Some(slot) = slot.filter(|slot| slot.stamp == stamp) {
                slot.place = Some(place);
            }
        }
    }

    /// Whether the entry is in memory, but not in the file yet.
    pub(crate) fn is_unwritten(&self, index: u64) -> bool {
        let at = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.place.is_none())
    }

    /// Whether the writer has processed all appends and truncations.
    pub(crate) fn is_settled(&self) -> bool {
        self.slots.back().is_none_or(|slot| slot.place.is_some()) && self.truncated != Some(u64::MAX)
    }

    /// Whether exactly this entry is in the file, or was purged from it.
    pub(crate) fn holds(&self, log_id: &LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= log_id.index) {
            return true;
        }
        let at = log_id.index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let slot = at.and_then(|at| self.slots.get(at));
        slot.is_some_and(|slot| slot.place.is_some() && slot.term == log_id.leader_id.term)
    }

    /// Evicts the oldest cached entries while the cache has more than `bytes_max` bytes.
    pub(crate) fn evict(&mut self, bytes_max: usize) {
        while self.cached_bytes > bytes_max {
            let oldest = self.slots.len() - self.cached.len();
            if self.slots.get(oldest).is_none_or(|slot| slot.place.is_none()) {
                return;
            }
            if let Some(entry) = self.cached.pop_front() {
                self.cached_bytes -= size(&entry);
            }
        }
    }

    /// The entries of a range: at least one if there is any, and up to about `bytes_max` bytes.
    pub(crate) fn find(&self, range: Range<u64>, bytes_max: usize) -> Vec<FoundEntry> {
        let mut out = Vec::new();
        let mut bytes = 0_usize;
        let uncached = self.slots.len() - self.cached.len();
        let start = range.start.max(self.first);
        for index in start..range.end.min(self.end()) {
            let at = usize::try_from(index - self.first).unwrap_or(usize::MAX);
            let Some(slot) = self.slots.get(at) else { break };
            let (found, len) = match (at.checked_sub(uncached).and_then(|at| self.cached.get(at)), slot.place)
            {
                (Some(entry), _) => (FoundEntry::Cached(entry.clone()), size(entry)),
                (None, Some(place)) => {
                    (FoundEntry::InFile(log_id_of(slot.term, index), place), place.len as usize)
                }
                (None, None) => break,
            };
            if !out.is_empty() && bytes + len > bytes_max {
                break;
            }
            bytes += len;
            out.push(found);
        }
        out
    }

    /// The oldest row with entries of this group.
    pub(crate) fn oldest_row(&self) -> Option<u64> {
        self.slots.front().and_then(|slot| slot.place).map(|place| place.row)
    }

    /// The entries in rows before this one.
    pub(crate) fn before_row(&self, row: u64) -> Option<Range<u64>> {
        let count = self.slots.partition_point(|slot| slot.place.is_some_and(|place| place.row < row));
        (count > 0).then(|| self.first..self.first + count as u64)
    }
}

/// The approximate size of an entry in memory, bytes.
pub(crate) fn size(entry: &Entry) -> usize {
    64 + match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: Range<u64>, term: u64) -> Vec<Entry> {
        range.map(|index| Entry { log_id: log_id_of(term, index), payload: EntryPayload::Blank }).collect()
    }

    fn place(row: u64) -> EntryLocation {
        EntryLocation { row, offset: 0, len: 1 }
    }

    #[test]
    fn a_late_write_report_is_ignored_for_entries_that_were_replaced_meanwhile() {
        let mut group = Group::default();
        let old = group.append(&entries(1..4, 1)).unwrap();
        group.truncate(2);
        group.append(&entries(2..4, 2)).unwrap();
        group.written(1, old, (0..3).map(|_| place(7)));
        assert!(!group.is_unwritten(1));
        assert!(group.is_unwritten(2) && group.is_unwritten(3));
    }

    #[test]
    fn unwritten_entries_are_never_evicted() {
        let mut group = Group::default();
        let stamp = group.append(&entries(1..11, 1)).unwrap();
        group.evict(0);
        assert_eq!(group.find(1..11, usize::MAX).len(), 10);
        group.written(1, stamp, (0..4).map(place));
        group.evict(0);
        let found = group.find(0..100, usize::MAX);
        assert!(found[..4].iter().all(|found| matches!(found, FoundEntry::InFile(..))));
        assert!(found[4..].iter().all(|found| matches!(found, FoundEntry::Cached(..))));
        assert_eq!(group.find(3..11, 0).len(), 1, "at least one entry");
        assert_eq!(group.before_row(2), Some(1..3));
        group.purge(log_id_of(1, 6));
        assert_eq!(group.find(0..100, usize::MAX).len(), 4);
        assert_eq!(group.oldest_row(), None);
        group.purge(log_id_of(3, 20));
        assert_eq!(group.last_log_id(), Some(log_id_of(3, 20)));
        assert!(group.append(&entries(20..22, 3)).is_err(), "a hole");
        group.append(&entries(21..22, 3)).unwrap();
    }
}
