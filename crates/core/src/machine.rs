//! The replicated state machine: [`apply`] is a pure function of a view and a command.

use crate::command::{Command, NodeRecord};
use crate::event::RoomEvent;
use crate::id::{NodeId, RequestNo, RoomId, Seq, SessionId, ShardId, UserId};
use crate::meta::{self, DirectoryEntry, MetaHead, SessionRecord, UserRecord};
use crate::refusal::Refusal;
use crate::ring::Layout;
use crate::room::{self, RoomHead, RoomInfo};
use crate::session::{Standing, StoredReply};

/// Read access to one shard's state as of the previous command.
///
/// Two implementations exist, [`crate::mem::MemView`] and the store's, and a test holds them equal.
pub trait View {
    /// Trouble with the storage underneath, never a decision. A refusal is a normal [`Outcome`].
    type Error;

    /// A room's head, if the room is in this shard.
    fn room(&self, room: RoomId) -> Result<Option<RoomHead>, Self::Error>;
    /// Whether the user is a member of the room.
    fn member(&self, room: RoomId, user: UserId) -> Result<bool, Self::Error>;
    /// How a request stands to what the session has had decided in the room; `None` if it has had
    /// nothing decided there.
    fn standing(
        &self,
        session: SessionId,
        room: RoomId,
        request: RequestNo,
        digest: u64,
    ) -> Result<Option<Standing>, Self::Error>;
    /// In how many rooms of this shard the session has had requests decided.
    fn session_rooms(&self, session: SessionId) -> Result<u32, Self::Error>;

    /// The meta shard's counters.
    fn meta(&self) -> Result<MetaHead, Self::Error>;
    /// The directory's room of that name.
    fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, Self::Error>;
    /// The user of that name.
    fn user_named(&self, name: &str) -> Result<Option<UserRecord>, Self::Error>;
    /// The user with that id.
    fn user(&self, user: UserId) -> Result<Option<UserRecord>, Self::Error>;
    /// The node with that id.
    fn node(&self, node: NodeId) -> Result<Option<NodeRecord>, Self::Error>;
    /// All nodes, by id.
    fn nodes(&self) -> Result<Vec<NodeRecord>, Self::Error>;
    /// The layout in force.
    fn layout(&self) -> Result<Option<Layout>, Self::Error>;
}

/// What one command did. A value, so that it can be printed, compared and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For whoever proposed the command.
    pub reply: Reply,
    /// What to write, together with the applied index.
    pub changes: Vec<Change>,
    /// What to publish once the changes are applied.
    pub event: Option<RoomEvent>,
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It became this event.
    Acked {
        /// The event's place in the room.
        seq: Seq,
        /// The event's time.
        time_ms: i64,
        /// Decided before; this is that answer again.
        duplicate: bool,
    },
    /// There was nothing to change.
    Unchanged,
    /// Decided so long ago that the answer is forgotten. It had one effect, or was refused.
    Forgotten,
    /// No, for good.
    Refused(Refusal),
    /// The directory has the room.
    RoomCreated {
        /// Its id.
        room: RoomId,
        /// Whether this command made it.
        created: bool,
    },
    /// A session was given out.
    SessionOpened {
        /// Its id.
        session: SessionId,
        /// Its user's id.
        user: UserId,
    },
    /// Done, or done already.
    Done,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces a room's head.
    RoomHead(RoomId, RoomHead),
    /// Sets what a room is.
    RoomInfo(RoomId, RoomInfo),
    /// Replaces a room's topic.
    Topic(RoomId, String),
    /// Adds or removes a member.
    Member {
        /// Where.
        room: RoomId,
        /// Who.
        user: UserId,
        /// Whether the user is a member from now on.
        present: bool,
    },
    /// Passes `reply` and `settled` to [`crate::session::SessionRoom::record`].
    Replied {
        /// Whose.
        session: SessionId,
        /// Where.
        room: RoomId,
        /// What is stored for repeats.
        reply: StoredReply,
        /// What the client has settled.
        settled: RequestNo,
    },
    /// Replaces the count of [`View::session_rooms`].
    SessionRooms(SessionId, u32),
    /// Replaces the meta shard's counters.
    Meta(MetaHead),
    /// Adds a room to the directory.
    Directory(DirectoryEntry),
    /// Adds or replaces a user.
    User(UserRecord),
    /// Adds a session.
    Session(SessionRecord),
    /// Adds or replaces a node.
    Node(NodeRecord),
    /// Replaces the layout.
    Layout(Layout),
}

impl Outcome {
    pub(crate) fn reply(reply: Reply) -> Self {
        Self { reply, changes: Vec::new(), event: None }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::reply(Reply::Refused(refusal))
    }
}

/// Decides one command of a shard.
///
/// `time_ms` is the leader's clock at the proposal. It is made monotone for each room here, so that
/// a clock that jumps, or a new leader whose clock is behind, never takes a room back in time.
///
/// # Errors
/// Only what the view reports: trouble with the storage. The command has had no effect then.
pub fn apply<V: View>(
    view: &V,
    shard: ShardId,
    time_ms: i64,
    command: &Command,
) -> Result<Outcome, V::Error> {
    let belongs = match command {
        Command::OpenRoom { .. } | Command::Act { .. } => !shard.is_meta(),
        Command::CreateRoom { .. }
        | Command::OpenSession { .. }
        | Command::RegisterNode(_)
        | Command::SetLayout { .. }
        | Command::SetFeatureLevel(_) => shard.is_meta(),
    };
    if !belongs {
        return Ok(Outcome::refused(Refusal::WrongShard));
    }
    match command {
        Command::OpenRoom { room, name, creator, creator_name } => {
            room::open(view, time_ms, *room, name, (*creator, creator_name))
        }
        Command::Act { room, origin, action } => room::act(view, time_ms, *room, origin, action),
        Command::CreateRoom { name, creator } => meta::create_room(view, time_ms, name, *creator),
        Command::OpenSession { user, secret_digest, client } => {
            meta::open_session(view, time_ms, user, *secret_digest, client)
        }
        Command::RegisterNode(record) => meta::register_node(view, record),
        Command::SetLayout { layout, replaces } => meta::set_layout(view, layout, *replaces),
        Command::SetFeatureLevel(level) => meta::set_feature_level(view, *level),
    }
}
