//! `sender_order`: one session's requests keep their order in a room: ordered by seq, their numbers
//! rise. Refused requests leave gaps in the numbers, which are no violation.

use crate::property::Finding;
use crate::reader::{Records, Set};
use crate::record::RequestKey;

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut known: Set<(RequestKey, u64)> = Set::default();
    let mut places: Vec<(u64, u64, u64, u64, u64)> = Vec::new();
    for (line, record) in &records.lines {
        if let Some((send, seq)) = record.place()
            && send.no > 0
            && known.insert((send, seq))
        {
            places.push((send.room, send.session, seq, send.no, *line));
        }
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        let [(room, session, seq, no, line), (next_room, next_session, next_seq, next_no, next_line)] = *pair
        else {
            continue;
        };
        if (room, session) != (next_room, next_session) {
            continue;
        }
        finding.checked += 1;
        if next_seq > seq && next_no < no {
            finding.violated(&[line, next_line], || {
                format!("session {session}'s request {no} is {room}:{seq}, before its request {next_no} at {room}:{next_seq}")
            });
        }
    }
}
