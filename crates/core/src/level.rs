//! Feature levels: which commands a cluster may put into its logs.
//!
//! A replica that meets a command of which it does not know the meaning must stop: to skip it would make the replica differ
//! from the others for ever. So every command has the level from which on it may be used ([`crate::Command::level`]). Each node
//! registers the highest level that its program understands; the meta shard raises the cluster's level when all nodes
//! understand the next one, and never lowers it. Gateways reject requests above the cluster's level, and a leader
//! appends only commands that its own program understands.
//!
//! | Level | Since | What it adds |
//! |---|---|---|
//! | 1 | 0.1.0 | messages, topics, joining and leaving |
//! | 2 | not released yet | pins; edits, deletions, reactions, threads; rights in rooms; accounts and sessions that end ([`crate::people`]); the time of a room may fall after a clock was far ahead ([`crate::Stamp`]) |
//!
//! A level belongs to a release. The content of a level never changes once it is released; until then it may grow.

/// The level of every cluster when it begins: what release 0.1.0 understands.
pub const FIRST: u32 = 1;
/// The first level at which rooms have rights: only members write, and a room can be private.
pub const RIGHTS: u32 = 2;
/// The first level at which messages are edited, deleted, answered and reacted to.
pub const MESSAGES: u32 = 2;
/// The first level at which users have passwords, and sessions end.
pub const ACCOUNTS: u32 = 2;
/// The highest level that this version understands.
pub const FEATURE_LEVEL: u32 = 2;
