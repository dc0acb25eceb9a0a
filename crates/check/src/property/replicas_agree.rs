//! `replicas_agree`: what two replicas have of a room is the same from its first event to the last that
//! both have.
//!
//! Each replica's events are a chain: a hash of the chain before and of the event. Equal hashes at a
//! seq mean that everything up to there is equal, so one comparison for each event is enough.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::{ReaderId, Record, Seen};

/// A replica's copy of a room, from where its final read begins.
#[derive(Default)]
struct Copy {
    from: u64,
    seq: u64,
    chain: u64,
    /// Differs already: only the first difference is told.
    apart: bool,
}

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut copies: Map<(ReaderId, u64), Copy> = Map::default();
    // The chain at each seq of the first replica that has it, by room and where the read begins.
    let mut chains: Map<(u64, u64, u64), (u64, ReaderId, u64)> = Map::default();
    for (line, record) in &records.lines {
        match *record {
            Record::FinalRead { reader, room, after, .. } => {
                copies.insert((reader, room), Copy { from: after, seq: after, ..Copy::default() });
            }
            Record::Final { reader, seen } => {
                let room = seen.send.room;
                let Some(copy) = copies.get_mut(&(reader, room)) else { continue };
                copy.chain = link(copy.chain, &seen);
                copy.seq = seen.seq;
                let (chain, other, at) =
                    *chains.entry((room, copy.from, copy.seq)).or_insert((copy.chain, reader, *line));
                if at == *line || copy.apart {
                    continue;
                }
                finding.checked += 1;
                if chain != copy.chain {
                    copy.apart = true;
                    finding.violated(&[at, *line], || {
                        let (one, two) = (records.name(other), records.name(reader));
                        format!("{one} and {two} differ in room {room} at or before event {}", seen.seq)
                    });
                }
            }
            _ => {}
        }
    }
}

fn link(chain: u64, seen: &Seen) -> u64 {
    let parts = [seen.seq, seen.send.session, seen.send.no, seen.content.what as u64, seen.content.body];
    parts.into_iter().fold(chain, |hash, part| {
        let mixed = (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).rotate_left(31)
    })
}
