//! `fold_agrees`: a page that goes up to a seq shows each message with the text of its last edit up to there, or of a later
//! one: a page may know more than its own events.
//!
//! Counted as checked: every message of a page that is not erased. What is erased is judged by `deleted_gone`.

use crate::property::{Finding, timeline};
use crate::reader::Records;
use crate::record::{Record, What};

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    let rooms = timeline::rooms(records);
    for (line, record) in &records.lines {
        let Record::Shown { reader, room: id, seq, last, content, edited } = *record else { continue };
        let Some(room) = rooms.get(&id).filter(|_| content.what == What::Message) else { continue };
        let Some(message) = room.events.get(&seq) else { continue };
        finding.checked += 1;
        let who = || records.name(reader);
        let known = room.edits(seq).iter().rev().find(|edit| **edit <= last);
        if let Some(missed) = known.filter(|known| **known > edited) {
            let at = room.events.get(missed).map_or(*line, |entry| entry.line);
            finding.violated(&[at, *line], || {
                format!("{} showed {id}:{seq} up to {id}:{last} without its edit {id}:{missed}", who())
            });
            continue;
        }
        let source = if edited == 0 {
            Some(message)
        } else {
            room.events.get(&edited).filter(|_| room.edits(seq).contains(&edited))
        };
        match source {
            None => finding.violated(&[message.line, *line], || {
                format!("{} showed {id}:{seq} with the text of {id}:{edited}, which is no edit of it", who())
            }),
            Some(source) if source.content.body != content.body => {
                finding.violated(&[source.line, *line], || {
                    format!("{} showed {id}:{seq} with another text than its own or its last edit's", who())
                });
            }
            Some(_) => {}
        }
    }
}
