//! The input of a command's decision: read access to one shard's state.

use crate::access::Member;
use crate::id::{NodeId, RequestNo, RoomId, Seq, SessionId, UserId};
use crate::message::MessageState;
use crate::record::{
    Credential, DirectoryEntry, Invite, MetaHead, NodeRecord, OpenSession, RoomHead, SessionRecord,
    UserRecord,
};
use crate::ring::Layout;
use crate::session::Standing;

/// Read access to one shard's state as of the previous command.
///
/// Two implementations exist, [`crate::mem::MemView`] and the store's. A test checks that they are equal.
pub trait View {
    /// An error of the storage, never a decision. A refusal is a normal [`crate::Outcome`].
    type Error;

    /// A room's head, if the room is in this shard.
    fn room(&self, room: RoomId) -> Result<Option<RoomHead>, Self::Error>;
    /// What the room knows of the user.
    fn member(&self, room: RoomId, user: UserId) -> Result<Option<Member>, Self::Error>;
    /// What the room knows of a message; `None` if the room has no message at this seq. A deleted message is one.
    fn message(&self, room: RoomId, seq: Seq) -> Result<Option<MessageState>, Self::Error>;
    /// The user who created the room.
    fn creator(&self, room: RoomId) -> Result<UserId, Self::Error>;
    /// The standing of a request among the session's decided requests in the room; `None` if the
    /// session has none there.
    fn standing(
        &self,
        session: SessionId,
        room: RoomId,
        request: RequestNo,
        digest: u64,
    ) -> Result<Option<Standing>, Self::Error>;
    /// The number of rooms of this shard in which the session has decided requests; [`crate::session::ENDED`] once the
    /// session has ended.
    fn session_rooms(&self, session: SessionId) -> Result<u32, Self::Error>;

    /// The meta shard's counters.
    fn meta(&self) -> Result<MetaHead, Self::Error>;
    /// The room of this name in the room directory.
    fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, Self::Error>;
    /// The user of that name.
    fn user_named(&self, name: &str) -> Result<Option<UserRecord>, Self::Error>;
    /// The user with that id.
    fn user(&self, user: UserId) -> Result<Option<UserRecord>, Self::Error>;
    /// The session with that id.
    fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, Self::Error>;
    /// The user's open sessions that are listed, in the order of their ids.
    fn open_sessions(&self, user: UserId) -> Result<Vec<OpenSession>, Self::Error>;
    /// The user's password.
    fn credential(&self, user: UserId) -> Result<Option<Credential>, Self::Error>;
    /// The name of the account that reserved this folded name.
    fn folded(&self, folded: &str) -> Result<Option<String>, Self::Error>;
    /// The invite with that digest.
    fn invite(&self, digest: [u8; 16]) -> Result<Option<Invite>, Self::Error>;
    /// The node with that id.
    fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, Self::Error>;
    /// All nodes, by id.
    fn nodes(&self) -> Result<Vec<NodeRecord>, Self::Error>;
    /// The layout in force.
    fn layout(&self) -> Result<Option<Layout>, Self::Error>;
}
