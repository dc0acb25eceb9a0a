//! `acked_kept`: at the end, every acked event is at every replica that is read, at the seq that the
//! ack named; and no reader ever sees another event at that seq.
//!
//! Only acks in rooms that are read at the end count as checked.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::{ReaderId, Record, RequestKey};

/// A replica's final read of a room.
struct Read {
    reader: ReaderId,
    after: u64,
    last: u64,
    line: u64,
}

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut acks: Map<(u64, u64), (RequestKey, u64)> = Map::default();
    let mut reads: Map<u64, Vec<Read>> = Map::default();
    let mut kept: Map<(ReaderId, u64), Vec<u64>> = Map::default();
    for (line, record) in &records.lines {
        match *record {
            Record::Acked { send, seq, .. } if seq > 0 => {
                let (first, at) = *acks.entry((send.room, seq)).or_insert((send, *line));
                if first != send {
                    finding.violated(&[at, *line], || format!("two sends were acked as {}:{seq}", send.room));
                }
            }
            Record::FinalRead { reader, room, after, last } => {
                reads.entry(room).or_default().push(Read { reader, after, last, line: *line });
            }
            Record::Final { reader, seen } => {
                kept.entry((reader, seen.send.room)).or_default().push(seen.seq);
            }
            _ => {}
        }
    }
    for (line, record) in &records.lines {
        let Some((reader, seen)) = record.seen() else { continue };
        if let Some((send, acked)) = acks.get(&(seen.send.room, seen.seq))
            && *send != seen.send
        {
            finding.violated(&[*acked, *line], || {
                let RequestKey { session, room, no } = send;
                let who = records.name(reader);
                format!(
                    "session {session}'s request {no} was acked as {room}:{}, where {who} saw another event",
                    seen.seq
                )
            });
        }
    }
    // They are usually sorted already.
    kept.values_mut().for_each(|seqs| seqs.sort_unstable());
    let mut in_order: Vec<_> = acks.iter().collect();
    in_order.sort_unstable_by_key(|(_, (_, line))| *line);
    for ((room, seq), (_, acked)) in in_order {
        for read in reads.get(room).into_iter().flatten().filter(|read| *seq > read.after) {
            finding.checked += 1;
            let has = kept.get(&(read.reader, *room)).is_some_and(|seqs| seqs.binary_search(seq).is_ok());
            if !has {
                finding.violated(&[*acked, read.line], || {
                    let who = records.name(read.reader);
                    format!("{room}:{seq} was acked, and {who}, read up to {}, does not have it", read.last)
                });
            }
        }
    }
}
