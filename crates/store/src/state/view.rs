//! The state of a shard as commands read it while a batch is applied.

use conclave_core::access::Member;
use conclave_core::message::MessageState;
use conclave_core::record::{
    Credential, DirectoryEntry, Invite, MetaHead, NodeRecord, OpenSession, RoomHead, SessionRecord,
    UserRecord,
};
use conclave_core::ring::Layout;
use conclave_core::session::Standing;
use conclave_core::{NodeId, RequestNo, RoomId, Seq, SessionId, ShardId, UserId, View};

use super::Inner;
use super::db::StateDb;
use super::key::Key;
use super::row::Row;
use crate::error::StoreError;

/// The shard as of the previous command.
pub(super) struct ApplyView<'a> {
    pub(super) inner: &'a Inner,
    pub(super) db: &'a StateDb,
    pub(super) shard: ShardId,
}

impl ApplyView<'_> {
    /// Reads a row from memory, or else from the file.
    pub(super) fn read_row<T>(
        &self,
        key: &Key,
        pick: impl FnOnce(&Row) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        if let Some(row) = self.inner.rows.get(key) {
            return Ok(pick(row));
        }
        let absent = self.inner.absent.contains(key);
        let mut row = if absent { None } else { self.db.row(self.shard, key)? };
        // The file may not have the event yet. It comes second: its row says more than the event.
        if let (None, Key::Message(room, seq)) = (&row, key) {
            row = match self.inner.recent_event(*room, *seq)? {
                Some(event) => MessageState::of(&event).map(Row::Message),
                // Memory may have dropped the event since the file was found not to have it.
                None if absent => self.db.row(self.shard, key)?,
                None => None,
            };
        }
        Ok(row.as_ref().and_then(pick))
    }
}

impl View for ApplyView<'_> {
    type Error = StoreError;

    fn room(&self, room: RoomId) -> Result<Option<RoomHead>, StoreError> {
        self.read_row(&Key::Room(room), |row| match row {
            Row::Room(head, _) => Some(*head),
            _ => None,
        })
    }

    fn member(&self, room: RoomId, user: UserId) -> Result<Option<Member>, StoreError> {
        self.read_row(&Key::Member(room, user), |row| match row {
            Row::Member(member) => member.clone(),
            _ => None,
        })
    }

    fn message(&self, room: RoomId, seq: Seq) -> Result<Option<MessageState>, StoreError> {
        self.read_row(&Key::Message(room, seq), |row| match row {
            Row::Message(state) => Some(state.clone()),
            _ => None,
        })
    }

    fn creator(&self, room: RoomId) -> Result<UserId, StoreError> {
        let creator = self.read_row(&Key::Room(room), |row| match row {
            Row::Room(_, info) => Some(info.creator),
            _ => None,
        })?;
        Ok(creator.unwrap_or(UserId(0)))
    }

    fn standing(
        &self,
        session: SessionId,
        room: RoomId,
        request: RequestNo,
        digest: u64,
    ) -> Result<Option<Standing>, StoreError> {
        self.read_row(&Key::Replies(session, room), |row| match row {
            Row::Replies(known) => Some(known.standing(request, digest)),
            _ => None,
        })
    }

    fn session_rooms(&self, session: SessionId) -> Result<u32, StoreError> {
        let count = self.read_row(&Key::SessionRooms(session), |row| match row {
            Row::SessionRooms(count) => Some(*count),
            _ => None,
        })?;
        Ok(count.unwrap_or(0))
    }

    fn meta(&self) -> Result<MetaHead, StoreError> {
        Ok(self.inner.meta)
    }

    fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, StoreError> {
        self.read_row(&Key::Directory(name.to_owned()), |row| match row {
            Row::Directory(entry) => Some(entry.clone()),
            _ => None,
        })
    }

    fn user_named(&self, name: &str) -> Result<Option<UserRecord>, StoreError> {
        self.read_row(&Key::User(name.to_owned()), |row| match row {
            Row::User(user) => Some(user.clone()),
            _ => None,
        })
    }

    fn user(&self, user: UserId) -> Result<Option<UserRecord>, StoreError> {
        let name = self.read_row(&Key::UserName(user), |row| match row {
            Row::Name(name) => Some(name.clone()),
            _ => None,
        })?;
        name.map_or(Ok(None), |name| self.user_named(&name))
    }

    fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.read_row(&Key::Session(session), |row| match row {
            Row::Session(session) => Some(session.clone()),
            _ => None,
        })
    }

    fn open_sessions(&self, user: UserId) -> Result<Vec<OpenSession>, StoreError> {
        let list = self.read_row(&Key::OpenSessions(user), |row| match row {
            Row::OpenSessions(list) => Some(list.clone()),
            _ => None,
        })?;
        Ok(list.unwrap_or_default())
    }

    fn credential(&self, user: UserId) -> Result<Option<Credential>, StoreError> {
        self.read_row(&Key::Credential(user), |row| match row {
            Row::Credential(credential) => Some(credential.clone()),
            _ => None,
        })
    }

    fn folded(&self, folded: &str) -> Result<Option<String>, StoreError> {
        self.read_row(&Key::Folded(folded.to_owned()), |row| match row {
            Row::Name(name) => Some(name.clone()),
            _ => None,
        })
    }

    fn invite(&self, digest: [u8; 16]) -> Result<Option<Invite>, StoreError> {
        self.read_row(&Key::Invite(digest), |row| match row {
            Row::Invite(invite) if invite.uses > 0 => Some(invite.clone()),
            _ => None,
        })
    }

    fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, StoreError> {
        Ok(self.inner.nodes.get(&node).cloned())
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        Ok(self.inner.nodes.values().cloned().collect())
    }

    fn layout(&self) -> Result<Option<Layout>, StoreError> {
        Ok(self.inner.layout.clone())
    }
}
