//! The part of a node that speaks to clients. It keeps no durable state: whatever a client needs to
//! continue, any other node has too.
//!
//! * [`service`]: the calls of `ChatService`.
//! * [`sends`]: the `SendMessages` stream.
//! * [`subscription`]: the `JoinChat` stream.
//! * [`session`]: tokens, and who a call is from.
//! * [`status`]: the status of all nodes, and what follows from it.

pub(crate) mod sends;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod status;
pub(crate) mod subscription;
