//! `no_duplicate`: a request has at most one effect, however often it was repeated: no two seqs of a
//! room carry the same session's same request number, and no two acks of it name different ones.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::RequestKey;

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let mut places: Map<RequestKey, (u64, u64)> = Map::default();
    for (line, record) in &records.lines {
        let Some((send, seq)) = record.place().filter(|(send, _)| send.no > 0) else { continue };
        finding.checked += 1;
        let (first, at) = *places.entry(send).or_insert((seq, *line));
        if first != seq {
            finding.violated(&[at, *line], || {
                let RequestKey { session, room, no } = send;
                format!("session {session}'s request {no} is both {room}:{first} and {room}:{seq}")
            });
        }
    }
}
