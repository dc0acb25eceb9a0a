//! Messages as people have left them: edits, deletions and reactions folded into the messages that they are about.

use std::collections::BTreeSet;

use conclave_proto::chat::{Event, MessageFold, ReactionCount, event::Kind};
use serde::Serialize;

use super::text::safe;

/// What was folded into messages that were shown already, so that the events themselves are not shown again.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    messages: BTreeSet<u64>,
}

impl Shown {
    /// Takes the next page: gives each message the text of its last edit, and returns what is to be shown behind the text
    /// of an event, or `None` for an event that a shown message includes.
    pub(crate) fn page(&mut self, events: &mut [Event], folds: &[MessageFold]) -> Vec<Option<String>> {
        let fold_of = |seq: u64| folds.binary_search_by_key(&seq, |fold| fold.seq).ok().map(|at| &folds[at]);
        let mut tails = Vec::with_capacity(events.len());
        for event in events {
            let fold = fold_of(event.seq);
            if fold.is_some() {
                self.messages.insert(event.seq);
            }
            if let (Some(Kind::Message(message)), Some(fold)) = (&mut event.kind, fold)
                && fold.edits > 0
            {
                message.text.clone_from(&fold.text);
            }
            let is_included = match &event.kind {
                Some(Kind::Edited(edited)) => self.messages.contains(&edited.target_seq),
                Some(Kind::Reacted(reacted)) => self.messages.contains(&reacted.target_seq),
                Some(Kind::Erased(erased)) => {
                    erased.edit_of_seq != 0 && self.messages.contains(&erased.edit_of_seq)
                }
                _ => false,
            };
            tails.push((!is_included).then(|| fold.map(tail).unwrap_or_default()));
        }
        tails
    }
}

/// What is shown behind a message: ` (edited) [👍 2, 🎉 1] (3 in thread)`.
fn tail(fold: &MessageFold) -> String {
    let mut tail = String::new();
    if fold.deleted_seq != 0 {
        return tail;
    }
    if fold.edits > 0 {
        tail.push_str(" (edited)");
    }
    if !fold.reactions.is_empty() {
        let given = |reaction: &ReactionCount| format!("{} {}", safe(&reaction.emoji, ""), reaction.count);
        let given: Vec<_> = fold.reactions.iter().map(given).collect();
        tail.push_str(&format!(" [{}]", given.join(", ")));
    }
    if fold.answers > 0 {
        tail.push_str(&format!(" ({} in thread)", fold.answers));
    }
    tail
}

/// A fold as a JSON object. Its keys never change their meaning.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Json<'a> {
    edits: u32,
    /// The last edit.
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_seq: Option<u64>,
    /// The text of the last edit.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    deleted: bool,
    reactions: Vec<JsonReaction<'a>>,
    answers: u64,
    /// The last message of the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_answer_seq: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct JsonReaction<'a> {
    emoji: &'a str,
    count: u32,
    mine: bool,
}

/// The fold as a JSON object.
pub(crate) fn json(fold: &MessageFold) -> Json<'_> {
    let reactions = fold.reactions.iter();
    let reactions = reactions.map(|one| JsonReaction { emoji: &one.emoji, count: one.count, mine: one.mine });
    let deleted = fold.deleted_seq != 0;
    Json {
        edits: fold.edits,
        edited_seq: (fold.edits > 0).then_some(fold.edited_seq),
        body: (fold.edits > 0 && !deleted).then_some(fold.text.as_str()),
        deleted,
        reactions: reactions.collect(),
        answers: fold.answers,
        last_answer_seq: (fold.answers > 0).then_some(fold.last_answer_seq),
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{Edited, Erased, Message, Reacted};

    use super::*;

    fn event(seq: u64, kind: Kind) -> Event {
        Event { seq, kind: Some(kind), ..Event::default() }
    }

    #[test]
    fn edits_and_reactions_are_shown_with_their_message_and_nowhere_else() {
        let mut events = [
            event(1, Kind::Message(Message { text: "helo".into(), ..Message::default() })),
            event(2, Kind::Edited(Edited { target_seq: 1, text: "hello".into() })),
            event(3, Kind::Reacted(Reacted { target_seq: 1, emoji: "👍".into(), off: false })),
            event(4, Kind::Message(Message { text: "plain".into(), ..Message::default() })),
            event(5, Kind::Edited(Edited { target_seq: 0, text: "of a message before this page".into() })),
        ];
        let reaction = ReactionCount { emoji: "👍".into(), count: 1, ..ReactionCount::default() };
        let fold = MessageFold {
            seq: 1,
            edits: 1,
            text: "hello".into(),
            reactions: vec![reaction],
            answers: 2,
            ..MessageFold::default()
        };
        let tails = Shown::default().page(&mut events, &[fold]);
        let expected = [Some(" (edited) [👍 1] (2 in thread)"), None, None, Some(""), Some("")];
        assert_eq!(tails.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
        assert!(matches!(&events[0].kind, Some(Kind::Message(message)) if message.text == "hello"));
    }

    #[test]
    fn an_erased_edit_is_not_shown_beside_its_erased_message() {
        let erased = |edit_of_seq| Kind::Erased(Erased { deleted_seq: 3, edit_of_seq, ..Erased::default() });
        let mut events = [event(1, erased(0)), event(2, erased(1))];
        let fold = MessageFold { seq: 1, edits: 1, deleted_seq: 3, ..MessageFold::default() };
        let tails = Shown::default().page(&mut events, &[fold]);
        assert_eq!(tails, [Some(String::new()), None]);
    }
}
