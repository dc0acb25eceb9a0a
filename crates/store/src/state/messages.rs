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
    /// The messages from `first` to `last` to which something refers, ascending. Each is as it is at the time of the call or
    /// later, all at the same time.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn folded_messages(
        self: &Arc<Self>,
        room: RoomId,
        first: Seq,
        last: Seq,
    ) -> Result<Vec<FoldedMessage>, ReadError> {
        if first > last {
            return Ok(Vec::new());
        }
        // As for a page of events: the texts of edits may be anywhere in the file.
        let permit = Arc::clone(&self.shared.history_reads).acquire_owned().await;
        self.block(move |state| {
            let folded = state.folded_blocking(room, first, last);
            drop(permit);
            folded
        })
        .await
    }

    fn folded_blocking(&self, room: RoomId, first: Seq, last: Seq) -> Result<Vec<FoldedMessage>, ReadError> {
        let states = self.stable(|| {
            // Unwritten rows are read first: what is written meanwhile is then found in the file as well.
            let fresh: Vec<_> = {
                let inner = lock(&self.inner);
                let all = inner.fresh_messages.range((room, first)..=(room, last));
                all.map(|((_, seq), (state, _))| (*seq, state.clone())).collect()
            };
            let start = Key::Message(room, first).encode(self.shard);
            let end = key::end_of(&Key::Message(room, last).encode(self.shard));
            let mut states = BTreeMap::new();
            for stored in self.shared.db.read()?.range(&start..&end)? {
                let (key, value) = stored?;
                let Some((room, seq)) = key::parse_message(&key[key::SHARD..]) else { continue };
                let state = row::decode_message(&value);
                states.insert(seq, state.map_err(|error| row::damaged(&Key::Message(room, seq), &error))?);
            }
            states.extend(fresh);
            Ok(states)
        })?;
        let mut folded = Vec::with_capacity(states.len());
        for (seq, state) in states {
            let skipped = usize::from(planted(Bug::FoldOffByOne) && state.edits.len() > 1);
            let text = match state.edits.iter().rev().nth(skipped) {
                Some(edit) if state.deleted == Seq(0) => self.edited_text(room, *edit)?,
                _ => String::new(),
            };
            folded.push(FoldedMessage { seq, state, text });
        }
        Ok(folded)
    }

    /// The text of an edit; empty if it was erased meanwhile.
    fn edited_text(&self, room: RoomId, edit: Seq) -> Result<String, ReadError> {
        let page = self.read_blocking(room, Seq(edit.0.saturating_sub(1)), 1, 0)?;
        let damaged = |_| ReadError::Store(block::damaged(room, edit));
        match event::event_at(&page.records, 0).map_err(damaged)?.kind {
            EventKind::Edited { text, .. } => Ok(text),
            _ => Ok(String::new()),
        }
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
