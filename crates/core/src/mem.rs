//! [`MemView`]: one shard's state in ordered maps. Tests compare the store with this model.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use crate::access::Member;
use crate::event::RoomEvent;
use crate::id::{NodeId, RequestNo, RoomId, Seq, SessionId, UserId};
use crate::message::MessageState;
use crate::outcome::{Change, Outcome};
use crate::record::{
    Credential, DirectoryEntry, Invite, MetaHead, NodeRecord, OpenSession, RoomHead, RoomInfo, SessionRecord,
    UserRecord,
};
use crate::ring::Layout;
use crate::session::{ENDED, SessionRoom, Standing};
use crate::view::View;

/// One shard's state in memory, and its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemView {
    /// Rooms by id: the head and the description of each.
    pub rooms: BTreeMap<RoomId, (RoomHead, RoomInfo)>,
    /// What rooms know of users.
    pub members: BTreeMap<(RoomId, UserId), Member>,
    /// What rooms know of their messages.
    pub messages: BTreeMap<(RoomId, Seq), MessageState>,
    /// Request numbers and stored replies of each session in each room.
    pub sessions: BTreeMap<(SessionId, RoomId), SessionRoom>,
    /// The number of rooms in which each session has request numbers.
    pub session_rooms: BTreeMap<SessionId, u32>,
    /// The meta shard's counters.
    pub meta: MetaHead,
    /// The room directory, by name.
    pub directory: BTreeMap<String, DirectoryEntry>,
    /// Users by name.
    pub users: BTreeMap<String, UserRecord>,
    /// Sessions by id.
    pub session_records: BTreeMap<SessionId, SessionRecord>,
    /// The listed open sessions of each user, by id.
    pub open_sessions: BTreeMap<UserId, Vec<OpenSession>>,
    /// Sessions of which shards must still hear that they have ended.
    pub endings: BTreeSet<SessionId>,
    /// Hashed passwords by user.
    pub credentials: BTreeMap<UserId, Credential>,
    /// The names of accounts by their folded form.
    pub folded: BTreeMap<String, String>,
    /// Invites by the digest of their secret.
    pub invites: BTreeMap<[u8; 16], Invite>,
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// The layout in force.
    pub layout: Option<Layout>,
    /// Every event, in the order of its application.
    pub events: Vec<RoomEvent>,
}

impl MemView {
    /// Writes the outcome of [`crate::apply`].
    pub fn commit(&mut self, outcome: &Outcome) {
        for change in &outcome.changes {
            self.write(change);
        }
        if let Some(event) = &outcome.event {
            if let Some(state) = MessageState::of(event) {
                self.messages.insert((event.room, event.seq), state);
            }
            self.events.push(event.clone());
        }
    }

    fn write(&mut self, change: &Change) {
        match change {
            Change::RoomHead(room, head) => self.rooms.entry(*room).or_default().0 = *head,
            Change::RoomInfo(room, info) => self.rooms.entry(*room).or_default().1 = info.clone(),
            Change::Topic(room, topic) => {
                self.rooms.entry(*room).or_default().1.topic.clone_from(topic);
            }
            Change::Member { room, user, member: Some(member) } => {
                self.members.insert((*room, *user), member.clone());
            }
            Change::Member { room, user, member: None } => {
                self.members.remove(&(*room, *user));
            }
            Change::Message { room, seq, state } => {
                self.messages.insert((*room, *seq), state.clone());
            }
            Change::Erase { room, seqs, by } => {
                let erased =
                    self.events.iter_mut().filter(|event| event.room == *room && seqs.contains(&event.seq));
                for event in erased {
                    if let Some(kind) = event.kind.erased(*by) {
                        event.kind = kind;
                    }
                }
            }
            Change::Replied { session, room, reply, settled } => {
                self.sessions.entry((*session, *room)).or_default().record(*reply, *settled);
            }
            Change::SessionRooms(session, count) => {
                self.session_rooms.insert(*session, *count);
            }
            Change::Meta(head) => self.meta = *head,
            Change::Directory(entry) => {
                self.directory.insert(entry.name.clone(), entry.clone());
            }
            Change::User(user) => {
                self.users.insert(user.name.clone(), user.clone());
            }
            Change::Session(session) => {
                self.session_records.insert(session.session, session.clone());
            }
            Change::SessionForgotten(session) => {
                self.session_records.remove(session);
                self.endings.remove(session);
            }
            Change::OpenSessions(user, list) if list.is_empty() => {
                self.open_sessions.remove(user);
            }
            Change::OpenSessions(user, list) => {
                self.open_sessions.insert(*user, list.clone());
            }
            Change::Ending(session) => {
                self.endings.insert(*session);
            }
            Change::Credential(credential) => {
                self.credentials.insert(credential.user, credential.clone());
            }
            Change::Folded { folded, name } => {
                self.folded.insert(folded.clone(), name.clone());
            }
            Change::Invite(invite) if invite.uses == 0 => {
                self.invites.remove(&invite.digest);
            }
            Change::Invite(invite) => {
                self.invites.insert(invite.digest, invite.clone());
            }
            Change::SessionEnded(session) => {
                self.sessions.retain(|(other, _), _| other != session);
                self.session_rooms.insert(*session, ENDED);
            }
            Change::Node(node) => {
                self.nodes.insert(node.node, node.clone());
            }
            Change::Layout(layout) => self.layout = Some(layout.clone()),
        }
    }
}

impl View for MemView {
    type Error = Infallible;

    fn room(&self, room: RoomId) -> Result<Option<RoomHead>, Infallible> {
        Ok(self.rooms.get(&room).map(|(head, _)| *head))
    }

    fn member(&self, room: RoomId, user: UserId) -> Result<Option<Member>, Infallible> {
        Ok(self.members.get(&(room, user)).cloned())
    }

    fn message(&self, room: RoomId, seq: Seq) -> Result<Option<MessageState>, Infallible> {
        Ok(self.messages.get(&(room, seq)).cloned())
    }

    fn creator(&self, room: RoomId) -> Result<UserId, Infallible> {
        Ok(self.rooms.get(&room).map_or(UserId(0), |(_, info)| info.creator))
    }

    fn standing(
        &self,
        session: SessionId,
        room: RoomId,
        request: RequestNo,
        digest: u64,
    ) -> Result<Option<Standing>, Infallible> {
        Ok(self.sessions.get(&(session, room)).map(|known| known.standing(request, digest)))
    }

    fn session_rooms(&self, session: SessionId) -> Result<u32, Infallible> {
        Ok(self.session_rooms.get(&session).copied().unwrap_or(0))
    }

    fn meta(&self) -> Result<MetaHead, Infallible> {
        Ok(self.meta)
    }

    fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, Infallible> {
        Ok(self.directory.get(name).cloned())
    }

    fn user_named(&self, name: &str) -> Result<Option<UserRecord>, Infallible> {
        Ok(self.users.get(name).cloned())
    }

    fn user(&self, user: UserId) -> Result<Option<UserRecord>, Infallible> {
        Ok(self.users.values().find(|record| record.user == user).cloned())
    }

    fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, Infallible> {
        Ok(self.session_records.get(&session).cloned())
    }

    fn open_sessions(&self, user: UserId) -> Result<Vec<OpenSession>, Infallible> {
        Ok(self.open_sessions.get(&user).cloned().unwrap_or_default())
    }

    fn credential(&self, user: UserId) -> Result<Option<Credential>, Infallible> {
        Ok(self.credentials.get(&user).cloned())
    }

    fn folded(&self, folded: &str) -> Result<Option<String>, Infallible> {
        Ok(self.folded.get(folded).cloned())
    }

    fn invite(&self, digest: [u8; 16]) -> Result<Option<Invite>, Infallible> {
        Ok(self.invites.get(&digest).cloned())
    }

    fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, Infallible> {
        Ok(self.nodes.get(&node).cloned())
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, Infallible> {
        Ok(self.nodes.values().cloned().collect())
    }

    fn layout(&self) -> Result<Option<Layout>, Infallible> {
        Ok(self.layout.clone())
    }
}
