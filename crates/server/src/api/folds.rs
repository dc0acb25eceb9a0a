//! What people made of the messages of a page of history.

use std::collections::BTreeMap;

use conclave_core::limits::PAGE_BYTES_MAX;
use conclave_core::message::Reaction;
use conclave_core::{RoomId, Seq, UserId};
use conclave_proto::chat::{Erased, Event, MessageFold, ReactionCount, event::Kind};
use conclave_proto::status::Failure;
use conclave_store::FoldedMessage;
use prost::Message as _;

use crate::api::auth::Caller;
use crate::api::gateway::Gateway;

/// How many of those who reacted are named.
const NAMED_MAX: usize = 8;

impl Gateway {
    /// The folds of the page's messages. A page whose folds are larger than a page of events gets shorter, so that none of
    /// its messages lacks its fold. What was deleted since the page was read is erased in it.
    ///
    /// A fold tells of everything up to now. So only somebody gets it who may see everything from the message on: who is not
    /// a member any more gets events, and folds them.
    pub(super) async fn folds(
        &self,
        caller: &Caller,
        room: RoomId,
        events: &mut Vec<Event>,
    ) -> Result<Vec<MessageFold>, Failure> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(Vec::new()) };
        let (first, last) = (Seq(first.seq), Seq(last.seq));
        let sees_from = async || Ok::<_, Failure>(self.seen_room(caller, room).await?.sight.from_here_on());
        let Some(before) = sees_from().await? else { return Ok(Vec::new()) };
        let reader = self.router.room_reader(room)?;
        let (folded, mut cut) = reader.folded_messages(room, first.max(before), last, PAGE_BYTES_MAX).await?;
        // The caller may have been removed between the two reads, and perhaps added again.
        let Some(from) = sees_from().await? else { return Ok(Vec::new()) };
        let mut folds = Vec::with_capacity(folded.len());
        let mut bytes = 0;
        for message in folded.into_iter().filter(|message| message.seq >= from) {
            let fold = fold(message, caller.user);
            bytes += fold.encoded_len();
            if bytes > PAGE_BYTES_MAX && !folds.is_empty() {
                cut = Some(Seq(fold.seq));
                break;
            }
            folds.push(fold);
        }
        if let Some(cut) = cut {
            events.retain(|event| event.seq < cut.0);
        }
        erase(events, &folds);
        Ok(folds)
    }
}

/// Erases the messages that the folds say are deleted, and their edits.
fn erase(events: &mut [Event], folds: &[MessageFold]) {
    let deleted: BTreeMap<u64, u64> =
        folds.iter().filter(|fold| fold.deleted_seq != 0).map(|fold| (fold.seq, fold.deleted_seq)).collect();
    if deleted.is_empty() {
        return;
    }
    for event in events {
        let seq = event.seq;
        let (message, thread_seq, edit_of_seq) = match &event.kind {
            Some(Kind::Message(message)) => (seq, message.thread_seq, 0),
            Some(Kind::Edited(edited)) => (edited.target_seq, 0, edited.target_seq),
            _ => continue,
        };
        if let Some(deleted_seq) = deleted.get(&message).copied() {
            event.kind = Some(Kind::Erased(Erased { deleted_seq, thread_seq, edit_of_seq }));
        }
    }
}

fn fold(message: FoldedMessage, caller: UserId) -> MessageFold {
    let FoldedMessage { seq, state, text } = message;
    let count = |reaction: Reaction| ReactionCount {
        emoji: reaction.emoji,
        count: u32::try_from(reaction.users.len()).unwrap_or(u32::MAX),
        mine: reaction.users.contains(&caller),
        user_ids: reaction.users.iter().take(NAMED_MAX).map(|user| user.0).collect(),
    };
    MessageFold {
        seq: seq.0,
        edits: u32::try_from(state.edits.len()).unwrap_or(u32::MAX),
        edited_seq: state.edits.last().map_or(0, |seq| seq.0),
        text,
        deleted_seq: state.deleted.0,
        reactions: state.reactions.into_iter().map(count).collect(),
        answers: state.answers,
        last_answer_seq: state.last_answer.0,
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{Edited, Message};

    use super::*;

    #[test]
    fn what_was_deleted_since_the_page_was_read_is_erased_in_it() {
        let event = |seq, kind| Event { seq, kind: Some(kind), ..Event::default() };
        let message = |text: &str| Kind::Message(Message { text: text.into(), ..Message::default() });
        let edited = |target_seq| Kind::Edited(Edited { target_seq, text: "edit".into() });
        let mut events =
            [event(2, message("gone")), event(3, message("there")), event(4, edited(2)), event(5, edited(3))];
        let folds = [
            MessageFold { seq: 2, deleted_seq: 9, ..MessageFold::default() },
            MessageFold { seq: 3, edits: 1, ..MessageFold::default() },
        ];
        erase(&mut events, &folds);
        let erased = |edit_of_seq| Kind::Erased(Erased { deleted_seq: 9, thread_seq: 0, edit_of_seq });
        let expected = [erased(0), message("there"), erased(2), edited(3)];
        assert_eq!(events.map(|event| event.kind.unwrap()), expected);
    }
}
