//! `no_gap`: seqs are dense. A stream delivers every event of a room from the stream's first event on,
//! in order and once; it has delivered all events that it claims to have delivered; and a replica's
//! room, read at the end, is dense from its beginning.
//!
//! A gap that the stream announces (`truncated`) is not a violation.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::{ReaderId, Record, Stream};

/// The last seq and its line.
type Last = (u64, u64);

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut streams: Map<Stream, Last> = Map::default();
    let mut finals: Map<(ReaderId, u64), (Last, u64)> = Map::default();
    for (line, record) in &records.lines {
        match *record {
            Record::Observed { stream, seen, .. } => {
                if let Some((last, at)) = streams.insert(stream, (seen.seq, *line)) {
                    follows(records, finding, stream.reader, stream.room, (last, at), (seen.seq, *line));
                }
            }
            Record::Resumed { stream, after, .. } => {
                streams.insert(stream, (after, *line));
            }
            Record::Truncated { stream, seq } => {
                streams.insert(stream, (seq.saturating_sub(1), *line));
            }
            Record::CaughtUp { stream, seq } => {
                finding.checked += 1;
                let (last, at) = streams.get(&stream).copied().unwrap_or((seq, *line));
                if last < seq {
                    finding.violated(&[at, *line], || {
                        let who = records.name(stream.reader);
                        format!(
                            "{who} was told that it has all up to {}:{seq}, and got events only up to {last}",
                            stream.room
                        )
                    });
                }
            }
            Record::FinalRead { reader, room, after, last } => {
                finals.insert((reader, room), ((after, *line), last));
            }
            Record::Final { reader, seen } => {
                let room = seen.send.room;
                let (last, _) = finals.entry((reader, room)).or_insert(((0, *line), seen.seq));
                let before = std::mem::replace(last, (seen.seq, *line));
                follows(records, finding, reader, room, before, (seen.seq, *line));
            }
            _ => {}
        }
    }
    let mut ends: Vec<_> = finals.iter().filter(|(_, ((seq, _), last))| seq != last).collect();
    ends.sort_unstable_by_key(|(_, ((_, line), _))| *line);
    for ((reader, room), ((seq, line), last)) in ends {
        finding.violated(&[*line], || {
            format!(
                "{} claims that room {room} ends at {last}, and its events end at {seq}",
                records.name(*reader)
            )
        });
    }
}

fn follows(records: &Records, finding: &mut Finding, reader: ReaderId, room: u64, last: Last, next: Last) {
    finding.checked += 1;
    if Some(next.0) != last.0.checked_add(1) {
        finding.violated(&[last.1, next.1], || {
            format!("{} got {room}:{} after {room}:{}", records.name(reader), next.0, last.0)
        });
    }
}
