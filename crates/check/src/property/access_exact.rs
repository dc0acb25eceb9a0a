//! `access_exact`: of a private room everybody gets exactly what is theirs to see. An event that a stream or a page
//! delivered to a user lies within one of the user's memberships; a stream leaves out no event that lies within one; and a
//! stream that says that it has delivered everything has delivered the memberships up to their ends.
//!
//! A membership begins with the event that adds the user and ends with the event that removes the user, both included. It
//! shows the events before it, too, unless the room hides its past when it begins. All of this follows from the room's
//! events, of which the longest dense beginning that readers saw is folded. A later membership may show what an earlier end
//! hides; it excuses a delivery only if somebody had asked for it by then.
//!
//! A replica that is behind may close a stream before a membership of which it has not heard. So a closed stream is judged
//! only by a membership that had begun at the stream's position.

use std::collections::BTreeMap;

use crate::property::Finding;
use crate::reader::{Map, Records, digest};
use crate::record::{Record, RequestKey, SINCE_JOIN, Seen, Stream, What};

/// Earlier memberships of a user that stay visible, as docs/rights.md promises.
const KEPT: usize = 16;

/// A membership of one user.
struct Membership {
    /// The first event that it shows.
    from: u64,
    /// The event that began it.
    began: u64,
    /// The event that ended it, and the line of that event.
    end: Option<(u64, u64)>,
    /// When somebody first asked for it; 0 for the room's creation.
    asked_at: u64,
    /// The line of the event that began it.
    line: u64,
}

impl Membership {
    /// Whether it shows an event of these, both ends included.
    fn shows(&self, first: u64, last: u64) -> bool {
        self.from.max(first) <= self.end.map_or(last, |(end, _)| end.min(last))
    }
}

/// The memberships of a room by user, ascending.
#[derive(Default)]
struct Room {
    memberships: Map<u64, Vec<Membership>>,
    /// The last event up to which all events are known.
    known: u64,
}

impl Room {
    fn of(&self, user: u64) -> &[Membership] {
        self.memberships.get(&user).map_or(&[], Vec::as_slice)
    }

    /// The memberships that stay visible whatever comes.
    fn lasting(&self, user: u64) -> &[Membership] {
        let all = self.of(user);
        all.get(all.len().saturating_sub(KEPT)..).unwrap_or_default()
    }
}

/// Where a stream is: the last seq, and its line.
struct Position {
    seq: u64,
    line: u64,
}

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let rooms = rooms(records);
    let mut positions: Map<Stream, Position> = Map::default();
    let users = users(records);
    for (line, record) in &records.lines {
        match *record {
            Record::Resumed { stream, after, .. } => {
                positions.insert(stream, Position { seq: after, line: *line });
            }
            Record::Truncated { stream, seq } => {
                let before = positions.insert(stream, Position { seq: seq.saturating_sub(1), line: *line });
                if let (Some(room), Some(before), Some(user)) =
                    (rooms.get(&stream.room), before, users.get(&stream))
                {
                    judge_skip(records, finding, room, (stream, *user), &before, (seq, *line));
                }
            }
            Record::Observed { at, stream, seen, user } => {
                positions.insert(stream, Position { seq: seen.seq, line: *line });
                if let Some(room) = rooms.get(&stream.room).filter(|room| user > 0 && seen.seq <= room.known)
                {
                    judge_delivery(records, finding, room, (stream, user), (at, *line), seen.seq);
                }
            }
            Record::Closed { stream, user } => {
                if let (Some(room), Some(position)) = (rooms.get(&stream.room), positions.get(&stream)) {
                    judge_end(records, finding, room, (stream, user), position, *line);
                }
            }
            _ => {}
        }
    }
}

/// The user of each stream that tells it.
fn users(records: &Records) -> Map<Stream, u64> {
    let told = records.lines.iter().filter_map(|(_, record)| match *record {
        Record::Observed { stream, user: user @ 1.., .. } | Record::Closed { stream, user } => {
            Some((stream, user))
        }
        _ => None,
    });
    told.collect()
}

/// The events of a room by seq, each with the line of the history at which somebody saw it first.
type Log = BTreeMap<u64, (Seen, u64)>;

/// The private rooms with the memberships that follow from their events.
fn rooms(records: &Records) -> Map<u64, Room> {
    let mut logs: Map<u64, (u64, u64, Log)> = Map::default();
    let mut asked: Map<RequestKey, u64> = Map::default();
    for (line, record) in &records.lines {
        match *record {
            Record::Private { room, owner } => {
                logs.entry(room).or_insert((owner, *line, BTreeMap::new()));
            }
            Record::Invoke { at, send, .. } => {
                asked.entry(send).or_insert(at);
            }
            _ => {
                let Some((_, seen)) = record.seen() else { continue };
                if let Some((_, _, log)) = logs.get_mut(&seen.send.room) {
                    log.entry(seen.seq).or_insert((seen, *line));
                }
            }
        }
    }
    logs.into_iter().map(|(id, (owner, line, log))| (id, fold(owner, line, &log, &asked))).collect()
}

fn fold(owner: u64, line: u64, log: &BTreeMap<u64, (Seen, u64)>, asked: &Map<RequestKey, u64>) -> Room {
    let mut room = Room::default();
    let first = Membership { from: 1, began: 1, end: None, asked_at: 0, line };
    room.memberships.insert(owner, vec![first]);
    let mut since_join = false;
    for ((seq, (seen, line)), expected) in log.iter().zip(1..) {
        if *seq != expected {
            break;
        }
        room.known = *seq;
        let memberships = room.memberships.entry(seen.about).or_default();
        let open = memberships.last_mut().filter(|last| last.end.is_none());
        match (seen.content.what, open) {
            (What::Policy, _) => since_join = seen.content.body == digest(SINCE_JOIN),
            (What::Joined | What::MemberAdded, None) => {
                let (from, asked_at) =
                    (if since_join { *seq } else { 1 }, asked.get(&seen.send).copied().unwrap_or(0));
                memberships.push(Membership { from, began: *seq, end: None, asked_at, line: *line });
            }
            (What::Left | What::MemberRemoved, Some(open)) => open.end = Some((*seq, *line)),
            _ => {}
        }
    }
    room
}

/// An event was delivered to a user: the user must have been allowed to see it by then.
fn judge_delivery(
    records: &Records,
    finding: &mut Finding,
    room: &Room,
    (stream, user): (Stream, u64),
    (at, line): (u64, u64),
    seq: u64,
) {
    finding.checked += 1;
    let memberships = room.of(user);
    if memberships.iter().any(|one| one.asked_at <= at && one.shows(seq, seq)) {
        return;
    }
    let ended = memberships.iter().rev().find_map(|one| one.end.filter(|(end, _)| *end < seq));
    let begun = memberships.iter().find(|one| one.began > seq);
    let lines: Vec<u64> =
        ended.map(|(_, line)| line).into_iter().chain([line]).chain(begun.map(|one| one.line)).collect();
    finding.violated(&lines, || {
        let (who, id) = (records.name(stream.reader), stream.room);
        let why = match (ended, begun) {
            (Some((end, _)), Some(next)) => {
                format!("was no member between {id}:{end} and {id}:{}", next.began)
            }
            (Some((end, _)), None) => format!("was a member up to {id}:{end} only"),
            (None, Some(next)) => format!("became a member with {id}:{}", next.began),
            (None, None) => "was never a member".to_owned(),
        };
        format!("{who} got {id}:{seq} for user {user}, who {why}")
    });
}

/// A stream left events out: the user must not have been allowed to see any of them when the stream went on.
fn judge_skip(
    records: &Records,
    finding: &mut Finding,
    room: &Room,
    (stream, user): (Stream, u64),
    before: &Position,
    (next, line): (u64, u64),
) {
    if next > room.known {
        return;
    }
    finding.checked += 1;
    let (first, last) = (before.seq.saturating_add(1), next.saturating_sub(1));
    let shown = room.lasting(user).iter().find(|one| one.began <= next && one.shows(first, last));
    if let Some(shown) = shown {
        finding.violated(&[shown.line, before.line, line], || {
            let (who, id) = (records.name(stream.reader), stream.room);
            format!(
                "{who} went from {id}:{} to {id}:{next}, though user {user}, a member from {id}:{} on, may see events between",
                before.seq, shown.began
            )
        });
    }
}

/// A stream told a user that nothing more is to be seen: no membership that had begun may go on behind its position.
fn judge_end(
    records: &Records,
    finding: &mut Finding,
    room: &Room,
    (stream, user): (Stream, u64),
    at: &Position,
    line: u64,
) {
    if at.seq > room.known {
        return;
    }
    finding.checked += 1;
    let goes_on = |one: &&Membership| one.began <= at.seq && one.end.is_none_or(|(end, _)| end > at.seq);
    if let Some(missed) = room.lasting(user).iter().find(goes_on) {
        finding.violated(&[missed.line, at.line, line], || {
            let (who, id) = (records.name(stream.reader), stream.room);
            let upto = missed.end.map_or_else(|| "the end".to_owned(), |(end, _)| format!("{id}:{end}"));
            format!(
                "{who} was told after {id}:{} that user {user} may see nothing more, who was a member up to {upto}",
                at.seq
            )
        });
    }
}
