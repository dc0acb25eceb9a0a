//! The events of each room as they were before anything was erased: where an event that was seen is erased, its request says
//! what it was.

use std::collections::BTreeMap;

use crate::reader::{Map, Records};
use crate::record::{Content, Record, RequestKey, What};

/// An event, with the line of the history at which somebody saw it first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) content: Content,
    /// The seq of the event that this one is about, if it edits or deletes.
    pub(super) about: u64,
    pub(super) author: u64,
    pub(super) line: u64,
}

/// A room: its events by seq, and the edits and the deletion of each message.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) events: BTreeMap<u64, Entry>,
    edits: Map<u64, Vec<u64>>,
    deletions: Map<u64, u64>,
}

impl Room {
    /// The edits of a message, ascending.
    pub(super) fn edits(&self, message: u64) -> &[u64] {
        self.edits.get(&message).map_or(&[], Vec::as_slice)
    }

    /// The event that deleted a message.
    pub(super) fn deletion(&self, message: u64) -> Option<u64> {
        self.deletions.get(&message).copied()
    }

    /// The deletion that erases the event: of the message, or of the message that the event edits.
    pub(super) fn erased_by(&self, seq: u64) -> Option<u64> {
        let entry = self.events.get(&seq)?;
        match entry.content.what {
            What::Message => self.deletion(seq),
            What::Edited => self.deletion(entry.about),
            _ => None,
        }
    }
}

/// What each request asked for; the last attempt under a number counts.
pub(super) fn requests(records: &Records) -> Map<RequestKey, (Content, u64)> {
    let asked = records.lines.iter().filter_map(|(_, record)| match *record {
        Record::Invoke { send, content, about, .. } => Some((send, (content, about))),
        _ => None,
    });
    asked.collect()
}

/// All rooms in which somebody edits or deletes.
pub(super) fn rooms(records: &Records) -> Map<u64, Room> {
    let changed = |record: &Record| {
        record
            .seen()
            .is_some_and(|(_, seen)| matches!(seen.content.what, What::Edited | What::Deleted | What::Erased))
    };
    let mut rooms: Map<u64, Room> = Map::default();
    for (_, record) in records.lines.iter().filter(|(_, record)| changed(record)) {
        if let Some((_, seen)) = record.seen() {
            rooms.entry(seen.send.room).or_default();
        }
    }
    if rooms.is_empty() {
        return rooms;
    }
    let requests = requests(records);
    for (line, record) in &records.lines {
        let Some((_, seen)) = record.seen() else { continue };
        let Some(room) = rooms.get_mut(&seen.send.room) else { continue };
        let (content, about) = match (seen.content.what, requests.get(&seen.send)) {
            (What::Erased, Some(asked)) => *asked,
            (What::Edited | What::Deleted | What::Reacted, _) => (seen.content, seen.about),
            _ => (seen.content, 0),
        };
        let entry = Entry { content, about, author: seen.author, line: *line };
        room.events.entry(seen.seq).or_insert(entry);
    }
    for room in rooms.values_mut() {
        for (seq, entry) in &room.events {
            match entry.content.what {
                What::Edited => room.edits.entry(entry.about).or_default().push(*seq),
                What::Deleted => drop(room.deletions.insert(entry.about, *seq)),
                _ => {}
            }
        }
    }
    rooms
}
