//! `reads_fresh`: a linearizable read sees every event that was acked before the read began, and every
//! event that an earlier linearizable read saw.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::Record;

/// Moments. Those of the same instant count in this order: a read and an ack at the same
/// instant overlap, and nothing is promised then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    ReadBegins { read: usize },
    Known { seq: u64 },
}

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut moments: Vec<(u64, Moment, u64, u64)> = Vec::new();
    let mut reads: Vec<(u64, u64, u64)> = Vec::new();
    for (line, record) in &records.lines {
        match *record {
            Record::Acked { at, send, seq } => moments.push((at, Moment::Known { seq }, send.room, *line)),
            Record::Read { begun, ended, room, last, .. } => {
                moments.push((begun, Moment::ReadBegins { read: reads.len() }, room, *line));
                moments.push((ended, Moment::Known { seq: last }, room, *line));
                reads.push((room, last, *line));
            }
            _ => {}
        }
    }
    if reads.is_empty() {
        return;
    }
    moments.sort_unstable();
    let mut known: Map<u64, (u64, u64)> = Map::default();
    for (_, moment, room, line) in moments {
        let known = known.entry(room).or_default();
        match moment {
            Moment::Known { seq } if seq > known.0 => *known = (seq, line),
            Moment::Known { .. } => {}
            Moment::ReadBegins { read } => {
                let Some((_, last, line)) = reads.get(read) else { continue };
                finding.checked += 1;
                if *last < known.0 {
                    finding.violated(&[known.1, *line], || {
                        format!(
                            "a linearizable read of room {room} ended at {last} although {} was acked or read before",
                            known.0
                        )
                    });
                }
            }
        }
    }
}
