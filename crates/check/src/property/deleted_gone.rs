//! `deleted_gone`: a replica that has the deletion of a message has neither its text nor that of an edit, and a page that goes
//! up to the deletion shows it as erased; and so does a stream that began at a node after that node had delivered the deletion, or
//! what came behind it. What is erased was deleted.
//!
//! Counted as checked: every event at a replica at the end, and every message of a page, that a deletion concerns; and every
//! erased event that anybody saw.

use crate::property::{Finding, timeline};
use crate::reader::{Map, Records};
use crate::record::{ReaderId, Record, Stream, What};

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let rooms = timeline::rooms(records);
    let mut reads: Map<(ReaderId, u64), u64> = Map::default();
    // What a node has delivered of a room, it has applied; and what it had when a stream began there.
    let mut applied: Map<(ReaderId, u64), u64> = Map::default();
    let mut streams: Map<Stream, (ReaderId, u64)> = Map::default();
    for (line, record) in &records.lines {
        match *record {
            Record::FinalRead { reader, room, last, .. } => drop(reads.insert((reader, room), last)),
            Record::Resumed { stream, node: Some(node), .. } => {
                let had = applied.get(&(node, stream.room)).copied().unwrap_or(0);
                streams.insert(stream, (node, had));
            }
            Record::Observed { stream, seen, .. } => {
                if let Some((node, _)) = streams.get(&stream) {
                    let known = applied.entry((*node, stream.room)).or_default();
                    *known = seen.seq.max(*known);
                }
            }
            _ => {}
        }
        let (reader, id, seq, what, upto) = match *record {
            Record::Final { reader, seen } => {
                let id = seen.send.room;
                let upto = reads.get(&(reader, id)).copied().unwrap_or(0);
                (reader, id, seen.seq, seen.content.what, upto)
            }
            Record::Shown { reader, room, seq, last, content, .. } => (reader, room, seq, content.what, last),
            Record::Observed { stream, seen, .. } => {
                let had = streams.get(&stream).map_or(0, |(_, had)| *had);
                (stream.reader, seen.send.room, seen.seq, seen.content.what, had)
            }
            _ => continue,
        };
        let Some(room) = rooms.get(&id) else { continue };
        let who = || records.name(reader);
        match (what, room.erased_by(seq)) {
            (What::Erased, Some(_)) => finding.checked += 1,
            (What::Erased, None) => {
                finding.checked += 1;
                finding.violated(&[*line], || {
                    format!("{} has {id}:{seq} as erased, which nobody has deleted", who())
                });
            }
            (_, Some(deleted)) if deleted <= upto => {
                finding.checked += 1;
                let deletion = room.events.get(&deleted).map_or(*line, |entry| entry.line);
                finding.violated(&[deletion, *line], || {
                    format!("{} has {id}:{seq}, and its deletion with {id}:{deleted}", who())
                });
            }
            _ => {}
        }
    }
}
