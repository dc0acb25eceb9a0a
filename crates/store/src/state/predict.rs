//! The leader's predicted outcome of an entry that is not committed yet, for the planted bugs that do not wait for a
//! majority.
//!
//! [`conclave_core::apply`] decides as always, over a view of the applied state with the earlier predictions. The
//! predictions are right as long as this leader's entries are committed in their order.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use conclave_core::mem::MemView;
use conclave_core::planted::{Bug, planted};
use conclave_core::{Command, RoomId, Seq};
use conclave_proto::{command, event};

use super::ShardState;
use super::key::Key;
use super::read::EventPage;
use super::row::Row;
use super::view::ApplyView;
use crate::lock;
use crate::observer::Observer;
use crate::types::{Payload, Replies};

/// The predictions since the last time that no entry was in flight.
#[derive(Debug, Default)]
pub(crate) struct Predictions {
    view: MemView,
    /// Events that are published to subscribers before they are committed.
    published: BTreeMap<(RoomId, Seq), Bytes>,
}

impl ShardState {
    /// The predicted replies to an entry of this shard's leader; `None` if the entry holds other commands than room
    /// actions. The events are also published to the rooms' subscribers if that is the planted bug.
    pub(crate) fn predict(&self, payload: &Payload, observer: &dyn Observer) -> Option<Replies> {
        let (stamp, commands) = command::decode_batch(&payload.0, self.shared.feature_level).ok()?;
        let mut predictions = lock(&self.predictions);
        let Predictions { view, published } = &mut *predictions;
        let mut heads = BTreeMap::new();
        let mut replies = Vec::with_capacity(commands.len());
        for command in &commands {
            self.bring(view, command)?;
            let Ok(outcome) = conclave_core::apply(view, self.shard, stamp, command);
            view.commit(&outcome);
            view.events.clear();
            if let Some(event) = outcome.event.filter(|_| planted(Bug::PublishBeforeCommit)) {
                let mut record = BytesMut::new();
                event::encode_record(&event, &mut record);
                published.insert((event.room, event.seq), record.freeze());
                heads.insert(event.room, event.seq);
            }
            replies.push(outcome.reply);
        }
        drop(predictions);
        if !heads.is_empty() {
            let heads: Vec<_> = heads.into_iter().collect();
            observer.published(self.shard, &heads);
        }
        Some(Replies(replies))
    }

    /// Drops all predictions: the entries are committed, or another leader decides about them.
    pub fn drop_predictions(&self) {
        *lock(&self.predictions) = Predictions::default();
    }

    /// The uncommitted event after the room's last one.
    pub(super) fn predicted_page(&self, room: RoomId, after: Seq) -> Option<EventPage> {
        let records = lock(&self.predictions).published.get(&(room, after.next()))?.clone();
        Some(EventPage { records, first: after.next(), last: after.next(), head: after.next() })
    }

    /// Copies the applied rows that the command reads into the view, unless they are in it.
    fn bring(&self, view: &mut MemView, command: &Command) -> Option<()> {
        let Command::Act { room, origin, action } = command else { return None };
        let inner = lock(&self.inner);
        let row = |key: Key| {
            let working = ApplyView { inner: &inner, db: &self.shared.db, shard: self.shard };
            working.read_row(&key, |row| Some(row.clone())).ok().flatten()
        };
        if !view.rooms.contains_key(room)
            && let Some(Row::Room(head, info)) = row(Key::Room(*room))
        {
            view.rooms.insert(*room, (head, info));
        }
        if !view.sessions.contains_key(&(origin.session, *room))
            && let Some(Row::Replies(known)) = row(Key::Replies(origin.session, *room))
        {
            view.sessions.insert((origin.session, *room), known);
        }
        if let Some(Row::SessionRooms(count)) = row(Key::SessionRooms(origin.session)) {
            view.session_rooms.entry(origin.session).or_insert(count);
        }
        for user in [Some(origin.author), action.target().map(|target| target.user)].into_iter().flatten() {
            if !view.members.contains_key(&(*room, user))
                && let Some(Row::Member(Some(member))) = row(Key::Member(*room, user))
            {
                view.members.insert((*room, user), member);
            }
        }
        for seq in action.messages().into_iter().filter(|seq| *seq != Seq(0)) {
            if let Some(Row::Message(state)) = row(Key::Message(*room, seq)) {
                view.messages.entry((*room, seq)).or_insert(state);
            }
        }
        Some(())
    }
}
