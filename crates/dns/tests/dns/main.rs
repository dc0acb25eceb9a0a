//! The resolver over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod conformance;
mod export;
mod faults;
mod forward;
mod fuzz;
mod nodes;
mod protocol;
mod registry;
mod sample;
mod support;
mod transfer;
