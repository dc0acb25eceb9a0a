//! `one_order`: every reader sees the same event at the same seq; and the order agrees with time: a
//! send that was acked before another one began has a smaller seq.
//!
//! Counted as checked: every event at a seq that was seen before, and every ack.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::{Record, RequestKey, Seen, What};

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    same_for_everybody(records, finding);
    agrees_with_time(records, finding);
}

fn same_for_everybody(records: &Records, finding: &mut Finding) {
    let mut events: Map<(u64, u64), (Seen, u64)> = Map::default();
    for (line, record) in &records.lines {
        let Some((reader, seen)) = record.seen() else { continue };
        let room = seen.send.room;
        let known = events.entry((room, seen.seq)).or_insert((seen, *line));
        let (first, at) = *known;
        if first.content.what == What::Erased {
            // Others may see the event as it was.
            *known = (seen, *line);
        }
        if at != *line {
            finding.checked += 1;
        }
        if !same(&first, &seen) {
            finding.violated(&[at, *line], || {
                format!(
                    "{} saw another event at {room}:{} than an earlier reader",
                    records.name(reader),
                    seen.seq
                )
            });
        }
    }
}

/// Whether both are the same event, or what is left of it after its deletion.
fn same(one: &Seen, other: &Seen) -> bool {
    let erased = |seen: &Seen| seen.content.what == What::Erased;
    match (erased(one), erased(other)) {
        (false, false) | (true, true) => one == other,
        _ => (one.send, one.author) == (other.send, other.author),
    }
}

/// For each request the interval from its first invocation to its first ack.
#[derive(Default)]
struct Interval {
    begun: u64,
    invoked: u64,
    /// The greatest seq that was acked in the room before the invocation, and the line of that ack.
    floor: Option<(u64, u64)>,
}

fn agrees_with_time(records: &Records, finding: &mut Finding) {
    let mut intervals: Map<RequestKey, Interval> = Map::default();
    // At the same instant, invocations sort before acks: the two sends then overlap and may have any order.
    let mut moments: Vec<(u64, bool, u64, RequestKey, u64)> = Vec::new();
    for (line, record) in &records.lines {
        match *record {
            Record::Invoke { at, send, .. } => {
                let interval = intervals.entry(send).or_default();
                if interval.invoked == 0 || at < interval.begun {
                    (interval.begun, interval.invoked) = (at, *line);
                }
            }
            Record::Acked { at, send, seq } if seq > 0 => moments.push((at, true, *line, send, seq)),
            _ => {}
        }
    }
    moments.extend(intervals.iter().map(|(send, found)| (found.begun, false, found.invoked, *send, 0)));
    moments.sort_unstable();
    let mut highest: Map<u64, (u64, u64)> = Map::default();
    for (_, is_ack, line, send, seq) in moments {
        let highest = highest.entry(send.room).or_default();
        let Some(interval) = intervals.get_mut(&send) else { continue };
        if !is_ack {
            interval.floor = (highest.0 > 0).then_some(*highest);
            continue;
        }
        finding.checked += 1;
        if let Some((floor, acked)) = interval.floor
            && seq <= floor
        {
            finding.violated(&[acked, interval.invoked, line], || {
                let room = send.room;
                format!("{room}:{seq} was sent after {room}:{floor} had been acked, but has a smaller seq")
            });
        }
        if seq > highest.0 {
            *highest = (seq, line);
        }
    }
}
