//! The name server over real sockets.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

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
mod tls;
mod transfer;
