//! The services of a node: for clients, for operators and name servers, for its peers, and the pages for health and
//! metrics. They keep no durable state: everything that a client needs to continue is on every other node too.
//!
//! * [`gateway`]: the parts that the client API uses.
//! * [`chat`]: the calls of `ChatService`.
//! * [`front`]: the checks of a call that come before its body is read.
//! * [`answers`]: answers with a page of events or rooms, until their clients have taken them.
//! * [`sends`]: the `SendMessages` stream.
//! * [`subscription`]: the `JoinChat` stream.
//! * [`auth`]: session tokens, and the identity of a caller.
//! * [`readers`]: sessions for reading only, each of one node.
//! * [`status`]: the status of all nodes, and what follows from it.
//! * [`admin`]: the calls of `AdminService`.
//! * [`people`]: the calls of `PeopleService`.
//! * [`peer`]: the calls of `RaftService`.
//! * [`http`]: the HTTP API, and the web client.
//! * [`web`]: the pages for health and metrics.

pub(crate) mod admin;
pub(crate) mod answers;
pub(crate) mod auth;
mod chat;
mod folds;
pub(crate) mod front;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod peer;
pub(crate) mod people;
pub(crate) mod readers;
pub(crate) mod sends;
pub(crate) mod status;
pub(crate) mod subscription;
mod unread;
pub(crate) mod web;
