//! What people made of the messages of a page of history.

use conclave_core::limits::PAGE_BYTES_MAX;
use conclave_core::message::Reaction;
use conclave_core::{RoomId, Seq, UserId};
use conclave_proto::chat::{Event, MessageFold, ReactionCount};
use conclave_proto::status::Failure;
use conclave_store::FoldedMessage;
use prost::Message as _;

use crate::api::auth::Caller;
use crate::api::gateway::Gateway;

/// How many of those who reacted are named.
const NAMED_MAX: usize = 8;

impl Gateway {
    /// The folds of the page's messages. A page whose folds are larger than a page of events gets shorter, so that none of
    /// its messages lacks its fold.
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
        let reader = self.router.room_reader(room)?;
        let folded = loop {
            let seen = self.seen_room(caller, room).await?;
            let Some(from) = seen.sight.from_here_on() else { return Ok(Vec::new()) };
            let folded = reader.folded_messages(room, first.max(from), last).await?;
            // The caller may have been removed between the two reads.
            if reader.sight_number() == seen.number {
                break folded;
            }
        };
        let mut folds = Vec::with_capacity(folded.len());
        let mut bytes = 0;
        for message in folded {
            let fold = fold(message, caller.user);
            bytes += fold.encoded_len();
            if bytes > PAGE_BYTES_MAX && !folds.is_empty() {
                events.retain(|event| event.seq < fold.seq);
                break;
            }
            folds.push(fold);
        }
        Ok(folds)
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
