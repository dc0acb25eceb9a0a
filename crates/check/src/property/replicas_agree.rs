//! `replicas_agree`: two replicas have the same events of a room, from the first to the last that both
//! have.
//!
//! The events of a replica form a hash chain: each hash covers the previous hash and the event. Equal
//! hashes at a seq mean that all events up to it are equal, so one comparison per event is enough.

use crate::property::{Finding, timeline};
use crate::reader::{Map, Records};
use crate::record::{Content, ReaderId, Record, Seen, What};

/// A replica's copy of a room, from where its final read begins.
#[derive(Default)]
struct ReplicaCopy {
    from: u64,
    seq: u64,
    chain: u64,
    /// Whether a difference was reported already; only the first one is.
    apart: bool,
}

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut copies: Map<(ReaderId, u64), ReplicaCopy> = Map::default();
    // By room, beginning of the read, and seq: the chain of the first replica that has the seq.
    let mut chains: Map<(u64, u64, u64), (u64, ReaderId, u64)> = Map::default();
    // One replica may have a message that another has erased already: its request says what it was.
    let has_erased = records
        .lines
        .iter()
        .any(|(_, record)| matches!(record, Record::Final { seen, .. } if seen.content.what == What::Erased));
    let requests = if has_erased { timeline::requests(records) } else { Map::default() };
    let content = |seen: &Seen| match requests.get(&seen.send) {
        Some((content, _)) if seen.content.what == What::Erased => *content,
        _ => seen.content,
    };
    for (line, record) in &records.lines {
        match *record {
            Record::FinalRead { reader, room, after, .. } => {
                copies.insert(
                    (reader, room),
                    ReplicaCopy { from: after, seq: after, ..ReplicaCopy::default() },
                );
            }
            Record::Final { reader, seen } => {
                let room = seen.send.room;
                let Some(copy) = copies.get_mut(&(reader, room)) else { continue };
                copy.chain = link(copy.chain, &seen, content(&seen));
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

fn link(chain: u64, seen: &Seen, content: Content) -> u64 {
    let parts = [seen.seq, seen.send.session, seen.send.no, content.what as u64, content.body];
    parts.into_iter().fold(chain, |hash, part| {
        let mixed = (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).rotate_left(31)
    })
}
