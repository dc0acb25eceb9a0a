//! Whole clusters in one process: three nodes, each with a runtime, sockets and a data directory of its
//! own. What happens under faults is recorded and judged by the checker.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

mod api;
mod bad_input;
mod discovery;
mod failover;
mod harness;
mod identity;
mod load;
mod lost_ack;
mod partition;
mod placement;
mod reads;
mod restart;
mod snapshot;
mod upgrade;
