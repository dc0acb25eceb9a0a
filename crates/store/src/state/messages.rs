//! Reading what rooms know of their messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_core::message::MessageState;
use conclave_core::planted::{Bug, planted};
use conclave_core::{EventKind, RoomEvent, RoomId, Seq};
use conclave_proto::event;

use super::key::{self, Key};
use super::{Inner, ShardState, block, row};
use crate::error::{ReadError, StoreError};
use crate::lock;

/// A message to which something refers, and the text of its last edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldedMessage {
    /// The message.
    pub seq: Seq,
    /// What the room knows of it.
    pub state: MessageState,
    /// The text of the last edit; empty without one, and for a deleted message.
    pub text: String,
}

impl ShardState {
    /// The messages from `first` to `last` to which something refers, ascending, with the texts of their last edits as far as
    /// those fit into `bytes_max` bytes, one at least. The second result is the first message that does not fit. The states are of one
    /// moment; a message that is deleted a moment later is shown as deleted.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn folded_messages(
        self: &Arc<Self>,
        room: RoomId,
        first: Seq,
        last: Seq,
        bytes_max: usize,
    ) -> Result<(Vec<FoldedMessage>, Option<Seq>), ReadError> {
        if first > last {
            return Ok((Vec::new(), None));
        }
        // As for a page of events: the texts of edits may be anywhere in the file.
        let permit = Arc::clone(&self.shared.history_reads).acquire_owned().await;
        self.block(move |state| {
            let folded = state.folded_blocking(room, first, last, bytes_max);
            drop(permit);
            folded
        })
        .await
    }

    fn folded_blocking(
        &self,
        room: RoomId,
        first: Seq,
        last: Seq,
        bytes_max: usize,
    ) -> Result<(Vec<FoldedMessage>, Option<Seq>), ReadError> {
        let mut folded = Vec::new();
        let mut left = bytes_max;
        for (seq, state) in self.message_states(room, first, last)? {
            let mut message = FoldedMessage { seq, state, text: String::new() };
            let skipped = usize::from(planted(Bug::FoldOffByOne) && message.state.edits.len() > 1);
            let edit = message.state.edits.iter().rev().nth(skipped).copied();
            if let Some(edit) = edit.filter(|_| message.state.deleted == Seq(0)) {
                match self.edit(room, edit)? {
                    EventKind::Edited { text, .. } => message.text = text,
                    // The message was deleted since its state was read.
                    EventKind::Erased { by, .. } => {
                        message.state.deleted = by;
                        message.state.reactions.clear();
                    }
                    _ => return Err(ReadError::Store(block::damaged(room, edit))),
                }
            }
            if message.text.len() > left && !folded.is_empty() {
                return Ok((folded, Some(seq)));
            }
            left = left.saturating_sub(message.text.len());
            folded.push(message);
        }
        Ok((folded, None))
    }

    /// The rows of messages, all as they are at one moment.
    fn message_states(
        &self,
        room: RoomId,
        first: Seq,
        last: Seq,
    ) -> Result<BTreeMap<Seq, MessageState>, ReadError> {
        let start = Key::Message(room, first).encode(self.shard);
        let end = key::end_of(&Key::Message(room, last).encode(self.shard));
        self.stable(|| {
            loop {
                let written = lock(&self.inner).written;
                let mut states = BTreeMap::new();
                for stored in self.shared.db.read()?.range(&start..&end)? {
                    let (key, value) = stored?;
                    let Some((room, seq)) = key::parse_message(&key[key::SHARD..]) else { continue };
                    let state = row::decode_message(&value);
                    let damaged = |error| row::damaged(&Key::Message(room, seq), &error);
                    states.insert(seq, state.map_err(damaged)?);
                }
                let inner = lock(&self.inner);
                // What memory says of rows that are not written yet is newer than the file, unless they were written meanwhile.
                if inner.written == written {
                    let fresh = inner.fresh_messages.range((room, first)..=(room, last));
                    states.extend(fresh.map(|((_, seq), (state, _))| (*seq, state.clone())));
                    return Ok(states);
                }
            }
        })
    }

    /// What an event is that edited a message.
    fn edit(&self, room: RoomId, edit: Seq) -> Result<EventKind, ReadError> {
        let page = self.read_blocking(room, Seq(edit.0.saturating_sub(1)), 1, 0)?;
        let damaged = |_| ReadError::Store(block::damaged(room, edit));
        Ok(event::event_at(&page.records, 0).map_err(damaged)?.kind)
    }
}

impl Inner {
    /// An event that is in memory, also one of the batch that is being applied.
    pub(super) fn recent_event(&self, room: RoomId, seq: Seq) -> Result<Option<RoomEvent>, StoreError> {
        match self.batch.event(room, seq)? {
            Some(event) => Ok(Some(event)),
            None => self.tails.event(room, seq),
        }
    }
}
