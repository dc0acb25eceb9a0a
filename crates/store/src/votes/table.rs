//! The format of the hard state's file, and the choice of the valid table in it.
//!
//! The hard state of all groups is one small numbered table. The file has two *slots* for it, and each
//! slot has two equal *copies* in separate blocks. The next table replaces both copies in the slot of the
//! older table, then one sync follows. So:
//!
//! * a crash while a table is written leaves the other slot unchanged, with both copies;
//! * damage in any one place leaves a copy of the newest table.
//!
//! The newest readable copy is valid if one slot is whole. If no slot is whole, a crash cannot be the
//! cause, and an older vote could be mistaken for the newest one: opening the file is refused.
//!
//! Copy: CRC-32 of the rest, number of the table, count of groups, then for each group `0` (no vote),
//! `1` or `2` (committed), term, node; zeros up to a whole number of blocks.

use bytes::{Buf as _, BufMut as _};
use openraft::vote::RaftLeaderId as _;

use super::GroupVotes;
use crate::types::Vote;

/// Copies begin at multiples of this, the unit in which disks write, bytes.
const BLOCK: usize = 4096;
const HEADER: usize = 4 + 8 + 4;
const ROW: usize = 1 + 8 + 8;

const SLOTS: usize = 2;
/// The number of copies in each slot.
pub(super) const COPIES: usize = 2;

/// The votes of all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) number: u64,
    pub(super) votes: GroupVotes,
}

/// The places of the copies in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableLayout {
    /// Bytes of one copy.
    pub(super) copy: usize,
}

impl TableLayout {
    pub(super) fn new(groups: usize) -> Self {
        Self { copy: (HEADER + groups * ROW).next_multiple_of(BLOCK) }
    }

    /// The file's length.
    pub(super) fn len(self) -> u64 {
        (self.copy * SLOTS * COPIES) as u64
    }

    /// The offset of a copy. The copies of one slot are not adjacent: contiguous damage of both would
    /// damage the other slot, too.
    pub(super) fn offset(self, slot: usize, copy: usize) -> u64 {
        (self.copy * (copy * SLOTS + slot)) as u64
    }
}

impl Table {
    /// The slot of a table with this number.
    pub(super) fn slot(&self) -> usize {
        usize::from(self.number % 2 == 1)
    }

    pub(super) fn encode(&self, layout: TableLayout) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(layout.copy);
        bytes.put_u32_le(0);
        bytes.put_u64_le(self.number);
        // One for each shard.
        bytes.put_u32_le(u32::try_from(self.votes.len()).unwrap_or(u32::MAX));
        for vote in &self.votes {
            let (kind, term, node) = match vote {
                None => (0, 0, 0),
                Some(vote) => (1 + u8::from(vote.committed), vote.leader_id.term, *vote.leader_id.node_id()),
            };
            bytes.put_u8(kind);
            bytes.put_u64_le(term);
            bytes.put_u64_le(node);
        }
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(layout.copy, 0);
        bytes
    }

    /// A copy, if it can be read.
    pub(super) fn decode(copy: &[u8], groups: usize) -> Option<Self> {
        let mut bytes = copy.get(..HEADER + groups * ROW)?;
        let crc = bytes.get_u32_le();
        if crc != crc32fast::hash(bytes) {
            return None;
        }
        let number = bytes.get_u64_le();
        if bytes.get_u32_le() as usize != groups {
            return None;
        }
        let row = |_| {
            let (kind, term, node) = (bytes.get_u8(), bytes.get_u64_le(), bytes.get_u64_le());
            match kind {
                0 => Some(None),
                1 => Some(Some(Vote::new(term, node))),
                2 => Some(Some(Vote::new_committed(term, node))),
                _ => None,
            }
        };
        let votes = (0..groups).map(row).collect::<Option<_>>()?;
        Some(Self { number, votes })
    }
}

/// The copies that were read from the file.
#[derive(Clone, Debug)]
pub(super) struct TableCopies(pub(super) [[Option<Table>; COPIES]; SLOTS]);

impl TableCopies {
    /// The valid table, or a description of the damage.
    pub(super) fn newest(&self) -> Result<&Table, String> {
        let whole = |slot: &&[Option<Table>; COPIES]| slot[0].is_some() && slot[0] == slot[1];
        let readable = || self.0.iter().flatten().flatten();
        let unlike = "its copies do not belong together";
        if self.0.iter().zip(0..).any(|(slot, at)| slot.iter().flatten().any(|table| table.slot() != at)) {
            return Err(unlike.to_owned());
        }
        let Some(base) =
            self.0.iter().filter(whole).filter_map(|slot| slot[0].as_ref()).max_by_key(|t| t.number)
        else {
            let count = readable().count();
            return Err(format!("only {count} of its {} copies can be read", SLOTS * COPIES));
        };
        // The other slot has the table before this one, or part of the table after it.
        let other = &self.0[1 - base.slot()];
        let near = |table: &Table| table.number.abs_diff(base.number) == 1;
        let torn = |table: &Table| table.number > base.number;
        match other {
            [Some(one), Some(two)] if one.number == two.number && one != two => Err(unlike.to_owned()),
            other if other.iter().flatten().any(|table| !near(table)) => Err(unlike.to_owned()),
            other => Ok(other.iter().flatten().find(|table| torn(table)).unwrap_or(base)),
        }
    }

    /// Whether the slot that a table is not in is whole.
    pub(super) fn other_is_whole(&self, table: &Table) -> bool {
        let [one, two] = &self.0[1 - table.slot()];
        one.is_some() && one == two
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: usize = 3;

    fn table(number: u64) -> Table {
        Table { number, votes: vec![None, Some(Vote::new(number, 1)), Some(Vote::new_committed(9, number))] }
    }

    fn slots(even: [Option<Table>; 2], odd: [Option<Table>; 2]) -> TableCopies {
        TableCopies([even, odd])
    }

    #[test]
    fn a_copy_can_be_decoded_and_noise_cannot() {
        let layout = TableLayout::new(GROUPS);
        let bytes = table(7).encode(layout);
        assert_eq!(bytes.len(), layout.copy);
        assert_eq!(Table::decode(&bytes, GROUPS), Some(table(7)));
        assert_eq!(Table::decode(&bytes, GROUPS + 1), None);
        for at in 0..HEADER + GROUPS * ROW {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Table::decode(&bad, GROUPS), None, "byte {at}");
        }
        assert_eq!(Table::decode(&vec![0; layout.copy], GROUPS), None);
        assert_eq!(Table::decode(&[], GROUPS), None);
        assert_eq!(TableLayout::new(65).copy, BLOCK, "the most shards fit one block");
        assert_eq!(TableLayout::new(1_000).copy % BLOCK, 0);
    }

    #[test]
    fn a_crash_leaves_the_old_table_or_the_new_one() {
        let whole = [Some(table(4)), Some(table(4))];
        let parts = [Some(table(3)), Some(table(5)), None];
        for one in &parts {
            for two in &parts {
                let odd = [one.clone(), two.clone()];
                let reached = odd.contains(&Some(table(5)));
                let found = slots(whole.clone(), odd);
                assert_eq!(found.newest(), Ok(&table(if reached { 5 } else { 4 })), "{found:?}");
            }
        }
    }

    #[test]
    fn damage_in_one_place_never_brings_back_an_older_vote() {
        let good = slots([Some(table(4)), Some(table(4))], [Some(table(5)), Some(table(5))]);
        assert_eq!(good.newest(), Ok(&table(5)));
        for slot in 0..SLOTS {
            for copy in 0..COPIES {
                let mut bad = good.clone();
                bad.0[slot][copy] = None;
                assert_eq!(bad.newest(), Ok(&table(5)));
                assert_eq!(bad.other_is_whole(&table(5)), slot == 1);
            }
        }
    }

    #[test]
    fn damage_that_no_crash_can_cause_is_refused() {
        let none = [None, None];
        for bad in [
            slots(none.clone(), none.clone()),
            slots([Some(table(4)), None], [None, Some(table(5))]),
            slots([Some(table(4)), None], none.clone()),
            slots([Some(table(4)), Some(table(6))], [None, Some(table(5))]),
            // A slot that has missed writes, or is of an older copy of the file.
            slots([Some(table(4)), Some(table(4))], [Some(table(7)), Some(table(7))]),
            slots([Some(table(8)), Some(table(8))], [Some(table(5)), None]),
            slots(
                [Some(table(4)), Some(table(4))],
                [Some(Table { votes: vec![], ..table(5) }), Some(table(5))],
            ),
            slots([Some(table(5)), Some(table(5))], none.clone()),
        ] {
            assert!(bad.newest().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn copies_of_a_slot_are_apart() {
        let layout = TableLayout::new(GROUPS);
        let mut places: Vec<_> = (0..SLOTS)
            .flat_map(|slot| (0..COPIES).map(move |copy| (layout.offset(slot, copy), slot)))
            .collect();
        places.sort_unstable();
        let slots: Vec<_> = places.iter().map(|(_, slot)| *slot).collect();
        assert_eq!(slots, [0, 1, 0, 1]);
        assert_eq!(places.last().unwrap().0 + layout.copy as u64, layout.len());
    }
}
