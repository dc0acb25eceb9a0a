//! A digest of what a replica has applied, by which replicas of one shard are compared.
//!
//! Replicas apply the same entries, so at the same index each must have given the same answers and made the same events. The
//! digest is a sum over the entries, of a hash of the entry's index and term, of the answers and of the events. It shows
//! replicas that differ in these, whatever the cause: a mistake in applying, a damaged memory, a data dir that was changed
//! by hand. A replica that lacks an event gives later ones of that room other numbers, so that it differs again with each of
//! them. Rows that show in no answer and no event, such as most of the meta shard's, are not compared.
//!
//! The digest is no part of the replicated state, and no promise to anybody outside the cluster: a replica whose file has
//! none, because an older version wrote it, begins to sum where it is.

use std::collections::VecDeque;

use conclave_core::Reply;
use conclave_proto::log;
use xxhash_rust::xxh3::Xxh3;

use crate::types::LogId;

/// What is hashed, and how. A change of either is another version, or replicas of different versions would seem to differ.
const VERSION: u32 = 1;
/// Length of a window in entries: replicas that began at different indexes are comparable from the next window on.
const WINDOW: u64 = 4_096;
/// The number of digests that are kept of the past: another node's report is usually older than this node's state.
const RECENT_MAX: usize = 256;

/// The sum over all entries from an index on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestSum {
    /// The index of the first entry, or of the next one if there is none yet.
    pub since: u64,
    /// The sum of the entries' hashes, modulo 2^64.
    pub sum: u64,
}

/// What a replica has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedDigest {
    /// What was hashed, and how.
    pub version: u32,
    /// The number of applied entries: the index of the last one plus 1, since the first one has index 0.
    pub entries: u64,
    /// All entries that this replica has summed, or those of the snapshot that it got.
    pub total: DigestSum,
    /// The entries since the last multiple of 4,096.
    pub window: DigestSum,
}

impl AppliedDigest {
    /// A digest that begins after this many entries.
    pub(crate) fn starting(entries: u64) -> Self {
        let none = DigestSum { since: entries, sum: 0 };
        Self { version: VERSION, entries, total: none, window: none }
    }

    /// The digest after the entry with this index, as it is stored, or else one that begins there.
    pub(crate) fn stored(index: u64, stored: Option<log::AppliedDigest>) -> Self {
        let entries = index.saturating_add(1);
        let Some(stored) = stored.filter(|stored| stored.version == VERSION) else {
            return Self::starting(entries);
        };
        Self {
            version: VERSION,
            entries,
            total: DigestSum { since: stored.total_since, sum: stored.total },
            window: DigestSum { since: stored.window_since, sum: stored.window },
        }
    }

    /// The stored form, without the number of entries.
    #[must_use]
    pub fn to_proto(&self) -> log::AppliedDigest {
        log::AppliedDigest {
            total_since: self.total.since,
            total: self.total.sum,
            window_since: self.window.since,
            window: self.window.sum,
            version: self.version,
        }
    }

    fn add(&mut self, index: u64, hash: u64) {
        if index.is_multiple_of(WINDOW) {
            self.window = DigestSum { since: index, sum: 0 };
        }
        self.entries = index + 1;
        self.total.sum = self.total.sum.wrapping_add(hash);
        self.window.sum = self.window.sum.wrapping_add(hash);
    }

    /// Whether the totals of two replicas began at the same entry.
    #[must_use]
    pub fn has_same_total(&self, other: &Self) -> bool {
        self.version == other.version && self.total.since == other.total.since
    }

    /// Whether two replicas have applied the same. `None` if their digests cannot be compared.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> Option<bool> {
        if (self.version, self.entries) != (other.version, other.entries) {
            return None;
        }
        let compare = |a: DigestSum, b: DigestSum| (a.since == b.since).then_some(a.sum == b.sum);
        match (compare(self.total, other.total), compare(self.window, other.window)) {
            (None, None) => None,
            (total, window) => Some(total != Some(false) && window != Some(false)),
        }
    }
}

/// The last digests, and the hash of the entry that is being applied.
pub(crate) struct Digests {
    now: AppliedDigest,
    recent: VecDeque<AppliedDigest>,
    entry: Box<Xxh3>,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digests").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Digests {
    pub(crate) fn new(now: AppliedDigest) -> Self {
        Self { now, recent: VecDeque::from([now]), entry: Box::default() }
    }

    /// The digest at the last applied entry.
    pub(crate) fn now(&self) -> AppliedDigest {
        self.now
    }

    /// The digest after this many entries, if it is one of the last.
    pub(crate) fn at(&self, entries: u64) -> Option<AppliedDigest> {
        // Consecutive, but for a snapshot, which begins anew.
        let back = usize::try_from(self.now.entries.checked_sub(entries)?).ok()?;
        let at = self.recent.len().checked_sub(back + 1)?;
        self.recent.get(at).copied()
    }

    pub(crate) fn begin_entry(&mut self) {
        self.entry.reset();
    }

    pub(crate) fn event(&mut self, record: &[u8]) {
        self.entry.update(record);
    }

    pub(crate) fn reply(&mut self, reply: &Reply) {
        let words: [u64; 4] = match *reply {
            Reply::Acked { seq, time_ms, duplicate } => {
                [1, seq.0, time_ms.cast_unsigned(), u64::from(duplicate)]
            }
            Reply::Unchanged => [2, 0, 0, 0],
            Reply::Done => [3, 0, 0, 0],
            Reply::Forgotten => [4, 0, 0, 0],
            Reply::Refused(refusal) => [5, refusal.code().into(), 0, 0],
            Reply::RoomCreated { room, created } => [6, room.0, u64::from(created), 0],
            Reply::SessionOpened { session, user } => [7, session.0, user.0, 0],
            Reply::Account { user, credential_revision } => [8, user.0, credential_revision.into(), 0],
        };
        for word in words {
            self.entry.update(&word.to_le_bytes());
        }
    }

    pub(crate) fn end_entry(&mut self, id: &LogId) {
        self.entry.update(&id.index.to_le_bytes());
        self.entry.update(&id.committed_leader_id().term.to_le_bytes());
        self.now.add(id.index, self.entry.digest());
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(start: AppliedDigest, upto: u64, wrong: u64) -> AppliedDigest {
        let mut digest = start;
        for index in start.entries..upto {
            digest.add(index, index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(index == wrong));
        }
        digest
    }

    #[test]
    fn replicas_that_applied_the_same_agree_wherever_they_began() {
        let nothing = AppliedDigest::starting(0);
        assert_eq!(nothing.agrees(&applied(nothing, 1, u64::MAX)), None, "the first entry has index 0");
        let whole = applied(AppliedDigest::starting(0), 9_000, u64::MAX);
        assert_eq!(whole.agrees(&applied(AppliedDigest::starting(0), 9_000, u64::MAX)), Some(true));
        let later = applied(AppliedDigest::starting(5_000), 8_000, u64::MAX);
        let early = applied(AppliedDigest::starting(0), 8_000, u64::MAX);
        assert_eq!(later.agrees(&early), None, "it began in the middle of this window");
        assert_eq!(applied(later, 9_000, u64::MAX).agrees(&whole), Some(true));
        assert_eq!(whole.agrees(&early), None, "at different indexes");
    }

    #[test]
    fn one_wrong_entry_shows_in_its_window_and_in_the_total_for_ever() {
        let right = applied(AppliedDigest::starting(0), 4_096, u64::MAX);
        let wrong = applied(AppliedDigest::starting(0), 4_096, 7);
        assert_eq!(right.agrees(&wrong), Some(false));
        assert_eq!(applied(right, 20_000, u64::MAX).agrees(&applied(wrong, 20_000, u64::MAX)), Some(false));
        let joined = applied(AppliedDigest::starting(10), 4_100, u64::MAX);
        assert_eq!(joined.agrees(&applied(wrong, 4_100, u64::MAX)), Some(true), "it has not seen that entry");
        assert_eq!(joined.agrees(&applied(right, 4_100, 4_098)), Some(false));
    }

    /// Stored sums are compared with those of other nodes: whoever changes what is hashed must raise the version.
    #[test]
    fn the_sum_of_these_entries_never_changes_within_a_version() {
        let mut digests = Digests::new(AppliedDigest::starting(0));
        let refusal = conclave_core::Refusal::TextTooLong;
        let replies = [
            Reply::Acked { seq: 1.into(), time_ms: 2, duplicate: false },
            Reply::Unchanged,
            Reply::Forgotten,
            Reply::Refused(refusal),
            Reply::RoomCreated { room: 3.into(), created: true },
            Reply::SessionOpened { session: 4.into(), user: 5.into() },
            Reply::Done,
        ];
        for (index, reply) in (0..).zip(&replies) {
            digests.begin_entry();
            digests.event(b"an event");
            digests.reply(reply);
            digests.end_entry(&crate::convert::log_id_of(2, index));
        }
        assert_eq!((VERSION, digests.now().total.sum), (1, 6_581_940_139_959_755_893));
    }

    #[test]
    fn the_last_digests_are_kept() {
        let mut digests = Digests::new(AppliedDigest::starting(10));
        let id = |index| crate::convert::log_id_of(3, index);
        for index in 10..600 {
            digests.begin_entry();
            digests.reply(&Reply::Done);
            digests.end_entry(&id(index));
        }
        assert_eq!(digests.at(600), Some(digests.now()));
        assert_eq!(digests.at(345).map(|digest| digest.entries), Some(345));
        assert_eq!((digests.at(344), digests.at(601)), (None, None));
    }
}
