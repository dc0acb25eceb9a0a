//! Reads a shard's applied state, wherever it is: at this node's replica.
//!
//! Rooms, lists, history and subscriptions read through a [`ShardReader`] only, so that they need not know where the
//! replica is. No method blocks: what is not in memory is read on a thread for blocking work.

use std::sync::Arc;
use std::time::Duration;

use conclave_core::access::{Member, Powers, Role, Sight};
use conclave_core::planted::{Bug, planted};
use conclave_core::record::{
    Credential, DirectoryEntry, Invite, Registration, RoomHead, RoomInfo, SessionRecord, UserRecord,
};
use conclave_core::{Refusal, RoomId, Seq, SessionId, ShardId, UserId};
use conclave_proto::status::Failure;
use conclave_store::{EventPage, FoldedMessage, MembersPage, ReadError, ShardState};

/// A room's head and description, and what the room knows of a user; `None` if the replica does not have the room.
type KnownRoom = Option<(RoomHead, RoomInfo, Option<Member>)>;

/// A room as a caller may see it, at one position of the log.
#[derive(Debug)]
pub(crate) struct SeenRoom {
    pub(crate) head: RoomHead,
    pub(crate) info: RoomInfo,
    pub(crate) member: Option<Member>,
    pub(crate) sight: Sight,
    /// The replica's number when this was read; see [`ShardState::sight`].
    pub(crate) number: u64,
}

impl SeenRoom {
    /// The user's role, if the user is the one for whom the room was read.
    pub(crate) fn role(&self, user: UserId) -> Option<Role> {
        self.member.as_ref().and_then(|member| member.role_in_force(user, self.info.creator))
    }

    pub(crate) fn is_banned(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.banned)
    }
}

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

    /// A room as a caller may see it; `None` if the replica does not have the room.
    pub(crate) async fn seen_room(
        &self,
        room: RoomId,
        user: UserId,
        powers: Powers,
    ) -> Result<Option<SeenRoom>, Failure> {
        let (mut found, number) = self.rooms_at(&[room], user).await?;
        let mut found = found.pop().flatten();
        if planted(Bug::JoinSeesPast)
            && let Some((_, _, Some(member))) = &mut found
        {
            member.sees_from = member.sees_from.map(|_| Seq(1));
        }
        Ok(found.map(|(head, info, member)| {
            let sight = Sight::of(powers, head.policy, member.clone());
            SeenRoom { head, info, member, sight, number }
        }))
    }

    /// The rooms with what they know of the user, and the number of [`ShardState::sight`] at that moment.
    async fn rooms_at(&self, rooms: &[RoomId], user: UserId) -> Result<(Vec<KnownRoom>, u64), Failure> {
        loop {
            let number = self.state.sight();
            let found = self.state.rooms(rooms, user).await.map_err(storage)?;
            // A membership that ended between the reads of two rows would show the caller what came after it.
            if self.state.sight() == number {
                return Ok((found, number));
            }
        }
    }

    /// See [`ShardState::sight`].
    pub(crate) fn sight_number(&self) -> u64 {
        self.state.sight()
    }

    /// See [`ShardState::members`].
    pub(crate) async fn members(
        &self,
        room: RoomId,
        after: UserId,
        limit: usize,
    ) -> Result<MembersPage, Failure> {
        self.state.members(room, after, limit).await.map_err(storage)
    }

    /// See [`ShardState::folded_messages`].
    pub(crate) async fn folded_messages(
        &self,
        room: RoomId,
        first: Seq,
        last: Seq,
        bytes_max: usize,
    ) -> Result<(Vec<FoldedMessage>, Option<Seq>), Failure> {
        self.state.folded_messages(room, first, last, bytes_max).await.map_err(storage)
    }

    /// For each of these rooms its head and description, and what the room knows of the user.
    pub(crate) async fn rooms(&self, rooms: &[RoomId], user: UserId) -> Result<Vec<KnownRoom>, Failure> {
        Ok(self.rooms_at(rooms, user).await?.0)
    }

    /// Whether the user is a member of the room.
    pub(crate) async fn is_member(&self, room: RoomId, user: UserId) -> Result<bool, Failure> {
        let member = self.state.member(room, user).await.map_err(storage)?;
        Ok(member.is_some_and(|member| member.is_present()))
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

    /// The names of these users, in their order.
    pub(crate) async fn user_names(&self, users: &[UserId]) -> Result<Vec<Option<String>>, Failure> {
        self.state.user_names(users).await.map_err(storage)
    }

    /// The user of this name.
    pub(crate) async fn user_named(&self, name: &str) -> Result<Option<UserRecord>, Failure> {
        self.state.user_named(name).await.map_err(storage)
    }

    /// The user with this id.
    pub(crate) async fn user(&self, user: UserId) -> Result<Option<UserRecord>, Failure> {
        self.state.user(user).await.map_err(storage)
    }

    /// A user's password.
    pub(crate) async fn credential(&self, user: UserId) -> Result<Option<Credential>, Failure> {
        self.state.credential(user).await.map_err(storage)
    }

    /// The listed open sessions of a user, by id.
    pub(crate) async fn sessions_of(&self, user: UserId) -> Result<Vec<SessionRecord>, Failure> {
        self.state.sessions_of(user).await.map_err(storage)
    }

    /// At most `limit` users whose names begin with `prefix` and come after `after`, by name.
    pub(crate) async fn users_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<UserRecord>, Failure> {
        self.state.users_page(prefix, after, limit).await.map_err(storage)
    }

    /// The invite with this digest.
    pub(crate) async fn invite(&self, digest: [u8; 16]) -> Result<Option<Invite>, Failure> {
        self.state.invite(digest).await.map_err(storage)
    }

    /// At most `limit` sessions of which shards must still hear that they have ended.
    pub(crate) async fn endings(&self, limit: usize) -> Result<Vec<SessionId>, Failure> {
        self.state.endings(limit).await.map_err(storage)
    }

    /// At most `limit` sessions with ids above `after`, by id. The changes of the last moments may be missing.
    pub(crate) async fn sessions_page(
        &self,
        after: SessionId,
        limit: usize,
    ) -> Result<Vec<SessionRecord>, Failure> {
        self.state.sessions_page(after, limit).await.map_err(storage)
    }

    /// At most `limit` invites behind this one. The changes of the last moments may be missing.
    pub(crate) async fn invites_page(
        &self,
        after: Option<[u8; 16]>,
        limit: usize,
    ) -> Result<Vec<Invite>, Failure> {
        self.state.invites_page(after, limit).await.map_err(storage)
    }

    /// Who may make accounts.
    pub(crate) fn registration(&self) -> Registration {
        self.state.meta().settings.registration
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
