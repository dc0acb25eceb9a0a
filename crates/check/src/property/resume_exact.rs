//! `resume_exact`: a subscriber that resumes, on any node, resumes exactly where it was: it asks for
//! the events after the last one that it got, and the first event that it gets is the next one.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::{ReaderId, Record, Stream};

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut positions: Map<(ReaderId, u64), (u64, u64)> = Map::default();
    let mut expected: Map<Stream, (u64, u64)> = Map::default();
    for (line, record) in &records.lines {
        match *record {
            Record::Resumed { stream, after, .. } => {
                let who = (stream.reader, stream.room);
                if let Some((last, at)) = positions.get(&who).copied()
                    && last != after
                {
                    finding.violated(&[at, *line], || {
                        let (name, room) = (records.name(stream.reader), stream.room);
                        format!("{name} had got {room}:{last} and resumed after {room}:{after}")
                    });
                }
                expected.insert(stream, (after, *line));
            }
            Record::Truncated { stream, seq } => {
                positions.insert((stream.reader, stream.room), (seq.saturating_sub(1), *line));
                expected.remove(&stream);
            }
            Record::Observed { stream, seen, .. } => {
                positions.insert((stream.reader, stream.room), (seen.seq, *line));
                let Some((after, at)) = expected.remove(&stream) else { continue };
                finding.checked += 1;
                if Some(seen.seq) != after.checked_add(1) {
                    finding.violated(&[at, *line], || {
                        let (name, room) = (records.name(stream.reader), stream.room);
                        format!("{name} resumed after {room}:{after} and got {room}:{}", seen.seq)
                    });
                }
            }
            _ => {}
        }
    }
}
