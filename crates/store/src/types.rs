//! conclave's type configuration for openraft.
//!
//! A log entry carries an encoded batch of commands, and its answer is one reply for each of them.
//! Leader ids are those of the Raft paper (one leader for each term), so that a log id is just a term
//! and an index.

use std::fmt;

use bytes::Bytes;
use conclave_core::Reply;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_std};
use openraft::type_config::alias;
use openraft::{EmptyNode, EntryPayload, RaftTypeConfig, TokioRuntime};

/// The types of conclave's Raft groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Replies;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, EmptyNode>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// One Raft group of this node.
pub type Raft = openraft::Raft<TypeConfig, crate::StateMachine>;
/// Term and index of an entry.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// The vote of a node: its term, and the node that it votes for or follows.
pub type Vote = alias::VoteOf<TypeConfig>;
/// An entry of a group's log.
pub type Entry = alias::EntryOf<TypeConfig>;
/// Voters and learners of a group.
pub type Membership = openraft::Membership<u64, EmptyNode>;
/// A membership and the entry that set it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// The position and the membership that a snapshot covers.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot and its metadata.
pub type Snapshot = alias::SnapshotOf<TypeConfig, crate::SnapshotData>;

/// An encoded `CommandBatch`; see [`conclave_proto::command`].
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One reply for each command of the entry, in its order. Empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies(pub Vec<Reply>);
