//! conclave's decisions: the replicated state machine and the other pure rules.
//!
//! This crate consists of functions of values: no I/O, no clock, no randomness, no async and no
//! unordered maps. Every replica runs [`apply`] over the same commands in the same order and so
//! reaches the same state; conclave's consistency above Raft rests on this alone.
//!
//! * [`access`]: rights in rooms.
//! * [`action`]: the actions of a session in a room, and their rules.
//! * [`command`]: the commands that a shard's log can contain.
//! * [`level`]: which commands a cluster may use while its nodes are of different versions.
//! * [`machine`]: [`apply`], which turns a command into an [`Outcome`].
//! * [`event`]: the events of a room, each at a dense [`Seq`].
//! * [`message`]: what is known of a message beside its event.
//! * [`stamp`]: the time of a batch of commands.
//! * [`people`]: accounts and sessions: who is who, and until when.
//! * [`session`]: request numbers and stored replies, which make a repeated send harmless.
//! * [`placement`]: how many clients each node should have.
//! * [`ring`]: the assignment of rooms to shards and of shards to nodes.
//! * [`limits`]: every bound of the system.
//! * [`planted`]: deliberate mistakes in debug builds, which tests must find.
//! * [`version`]: the program's version.

pub mod access;
pub mod action;
pub mod command;
mod decide;
pub mod event;
pub mod id;
pub mod level;
pub mod limits;
pub mod machine;
pub mod mem;
pub mod message;
pub mod meta;
pub mod name;
pub mod outcome;
pub mod people;
pub mod placement;
pub mod planted;
pub mod record;
pub mod refusal;
pub mod ring;
pub mod room;
pub mod session;
pub mod stamp;
pub mod version;
pub mod view;

pub use action::Action;
pub use command::{Command, Origin};
pub use event::{EventKind, RoomEvent};
pub use id::{DataDirId, NodeId, RequestNo, RoomId, Seq, SessionId, ShardId, UserId};
pub use machine::apply;
pub use outcome::{Change, Outcome, Reply};
pub use refusal::Refusal;
pub use stamp::Stamp;
pub use view::View;
