//! `author_only`: an edit is by the author of the message, and of a message that nobody had deleted.
//!
//! Counted as checked: every edit of a message whose author is known.

use crate::property::{Finding, timeline};
use crate::reader::Records;
use crate::record::What;

pub(crate) fn check(records: &Records, finding: &mut Finding) {
    for (id, room) in timeline::rooms(records) {
        let edits = room.events.iter().filter(|(_, entry)| entry.content.what == What::Edited);
        for (seq, edit) in edits {
            let Some(message) = room.events.get(&edit.about) else { continue };
            if edit.author == 0 || message.author == 0 {
                continue;
            }
            finding.checked += 1;
            let target = edit.about;
            if edit.author != message.author {
                finding.violated(&[message.line, edit.line], || {
                    format!(
                        "user {} edited {id}:{target} with {id}:{seq}, a message of user {}",
                        edit.author, message.author
                    )
                });
            }
            if let Some(deleted) = room.deletion(target).filter(|deleted| deleted < seq) {
                finding.violated(&[message.line, edit.line], || {
                    format!(
                        "{id}:{target} was edited with {id}:{seq}, after its deletion with {id}:{deleted}"
                    )
                });
            }
        }
    }
}
