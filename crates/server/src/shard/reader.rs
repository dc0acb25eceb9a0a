//! Reads a shard's applied state, wherever it is: at this node's replica.
//!
//! Rooms, lists, history and subscriptions read through a [`ShardReader`] only, so that they need not know where the
//! replica is. No method blocks: what is not in memory is read on a thread for blocking work.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::record::{DirectoryEntry, RoomHead, RoomInfo, SessionRecord};
use conclave_core::{Refusal, RoomId, Seq, SessionId, ShardId, UserId};
use conclave_proto::status::Failure;
use conclave_store::{EventPage, ReadError, ShardState};

/// Reads one shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardReader {
    shard: ShardId,
    state: Arc<ShardState>,
}

impl ShardReader {
    pub(crate) fn new(shard: ShardId, state: Arc<ShardState>) -> Self {
        Self { shard, state }
    }

    /// The shard that is read.
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// A room's head and description; `None` if the replica does not have the room.
    pub(crate) async fn room(&self, room: RoomId) -> Result<Option<(RoomHead, RoomInfo)>, Failure> {
        self.state.room(room).await.map_err(storage)
    }

    /// For each of these rooms its head and description, and whether the user is a member.
    pub(crate) async fn rooms(
        &self,
        rooms: &[RoomId],
        user: UserId,
    ) -> Result<Vec<Option<(RoomHead, RoomInfo, bool)>>, Failure> {
        self.state.rooms(rooms, user).await.map_err(storage)
    }

    /// Whether the user is a member of the room.
    pub(crate) async fn member(&self, room: RoomId, user: UserId) -> Result<bool, Failure> {
        self.state.member(room, user).await.map_err(storage)
    }

    /// The events of a room after `after`, if they are in memory. See [`ShardReader::page`].
    pub(crate) fn recent_page(
        &self,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Option<EventPage> {
        self.state.read_tail(room, after, events_max, bytes_max)
    }

    /// The events of a room after `after`: at least one if there is any, at most `events_max` and about `bytes_max`
    /// bytes.
    pub(crate) async fn page(
        &self,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<EventPage, Failure> {
        match self.state.read(room, after, events_max, bytes_max).await {
            Ok(page) => Ok(page),
            Err(ReadError::RoomUnknown) => Err(Failure::Refused(Refusal::RoomUnknown)),
            Err(error) => Err(storage(error)),
        }
    }

    /// A session. Only the meta shard has sessions, and the room directory of the following methods.
    pub(crate) async fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, Failure> {
        self.state.session(session).await.map_err(storage)
    }

    /// The user of this name.
    pub(crate) async fn user_named(&self, name: &str) -> Result<Option<UserId>, Failure> {
        self.state.user_named(name).await.map_err(storage)
    }

    /// The id of the last room that was added to the room directory. Ids are dense from 1, so every id up to this one
    /// exists.
    pub(crate) fn last_room(&self) -> RoomId {
        self.state.meta().last_room
    }

    /// The id of the last session that was opened. Ids are given in order.
    pub(crate) fn last_session(&self) -> SessionId {
        self.state.meta().last_session
    }

    /// The room of this name in the room directory.
    pub(crate) async fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, Failure> {
        self.state.room_named(name).await.map_err(storage)
    }

    /// The room with this id in the room directory.
    pub(crate) async fn directory_entry(&self, room: RoomId) -> Result<Option<DirectoryEntry>, Failure> {
        self.state.directory_entry(room).await.map_err(storage)
    }

    /// At most `limit` rooms of the room directory whose names come after this one, by name.
    pub(crate) async fn directory_page(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, Failure> {
        self.state.directory_page(after, limit).await.map_err(storage)
    }
}

/// The failure of a read because of a disk error. The store stops the node on its own; the client uses another node.
pub(crate) fn storage(error: impl std::fmt::Display) -> Failure {
    Failure::not_sent("storage", format!("this node cannot read its data: {error}"), Duration::from_secs(1))
}
