//! What a node answers: to clients, to operators and resolvers, to its peers, and to whoever looks at its pages. It keeps no
//! durable state: whatever a client needs to continue, any other node has too.
//!
//! * [`gateway`]: the parts that the client API is made from.
//! * [`chat`]: the calls of `ChatService`.
//! * [`sends`]: the `SendMessages` stream.
//! * [`subscription`]: the `JoinChat` stream.
//! * [`auth`]: tokens, and who a call is from.
//! * [`status`]: the status of all nodes, and what follows from it.
//! * [`admin`]: the calls of `AdminService`.
//! * [`peer`]: the calls of `RaftService`.
//! * [`web`]: the pages for health and metrics.

pub(crate) mod admin;
pub(crate) mod auth;
mod chat;
pub(crate) mod gateway;
pub(crate) mod peer;
pub(crate) mod sends;
pub(crate) mod status;
pub(crate) mod subscription;
pub(crate) mod web;
