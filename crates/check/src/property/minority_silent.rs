//! `minority_silent`: a node that is cut off with a minority acks no request that a client pinned to it sent
//! during the cut, and answers no linearizable read that began during the cut.
//!
//! Counted as checked: every such send, and every such read.

use crate::property::Finding;
use crate::reader::{Map, Records};
use crate::record::{ReaderId, Record, RequestKey};

/// Moments. Those of the same instant count in this order: a request at the same instant as
/// the beginning or the end of a cut counts as outside of the cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Healed(ReaderId),
    Sent { node: ReaderId, send: RequestKey },
    ReadBegins { node: ReaderId, read: usize },
    Acked { send: RequestKey },
    ReadEnds { read: usize },
    Cut(ReaderId),
}

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    // When it happened, what happened, and the line of the history; sorted by time.
    let mut moments: Vec<(u64, Moment, u64)> = Vec::new();
    let mut reads = 0;
    for (line, record) in &records.lines {
        match *record {
            Record::Cut { at, node } => moments.push((at, Moment::Cut(node), *line)),
            Record::Healed { at, node } => moments.push((at, Moment::Healed(node), *line)),
            Record::Invoke { at, send, node: Some(node), .. } => {
                moments.push((at, Moment::Sent { node, send }, *line));
            }
            Record::Acked { at, send, .. } => moments.push((at, Moment::Acked { send }, *line)),
            Record::Read { begun, ended, node: Some(node), .. } => {
                moments.push((begun, Moment::ReadBegins { node, read: reads }, *line));
                moments.push((ended, Moment::ReadEnds { read: reads }, *line));
                reads += 1;
            }
            _ => {}
        }
    }
    moments.sort_unstable();
    // By node: the line of its current cut; and the requests and reads that began during that cut.
    let mut cut: Map<ReaderId, u64> = Map::default();
    let mut sent: Map<RequestKey, (ReaderId, u64)> = Map::default();
    let mut begun: Map<usize, (ReaderId, u64)> = Map::default();
    let still = |cut: &Map<ReaderId, u64>, began: Option<(ReaderId, u64)>| {
        began.filter(|(node, since)| cut.get(node) == Some(since))
    };
    for (_, moment, line) in moments {
        match moment {
            Moment::Cut(node) => _ = cut.entry(node).or_insert(line),
            Moment::Healed(node) => _ = cut.remove(&node),
            Moment::Sent { node, send } => {
                if let Some(since) = cut.get(&node) {
                    finding.checked += 1;
                    sent.insert(send, (node, *since));
                }
            }
            Moment::ReadBegins { node, read } => {
                if let Some(since) = cut.get(&node) {
                    finding.checked += 1;
                    begun.insert(read, (node, *since));
                }
            }
            Moment::Acked { send } => {
                if let Some((node, since)) = still(&cut, sent.remove(&send)) {
                    finding.violated(&[since, line], || {
                        let RequestKey { session, room, no } = send;
                        let node = records.name(node);
                        format!("{node} was cut off and acked session {session}'s request {no} in room {room}, which was sent to no other node")
                    });
                }
            }
            Moment::ReadEnds { read } => {
                if let Some((node, since)) = still(&cut, begun.remove(&read)) {
                    finding.violated(&[since, line], || {
                        format!("{} was cut off and answered a linearizable read", records.name(node))
                    });
                }
            }
        }
    }
}
