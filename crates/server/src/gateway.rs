//! The part of a node that speaks to clients. It keeps no durable state: whatever a client needs to
//! continue, any other node has too.
//!
//! * [`service`]: the calls of `ChatService`.
//! * [`sends`]: the `SendMessages` stream.
//! * [`subscription`]: the `JoinChat` stream.
//! * [`route`]: room to shard to leader.
//! * [`session`]: tokens, and who a call is from.
//! * [`status`]: what a node tells of itself and the cluster.
//! * [`view`]: where else clients can go.

pub(crate) mod route;
pub(crate) mod sends;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod status;
pub(crate) mod subscription;
pub(crate) mod view;
