//! Whole clusters in one process: three nodes, each with its own runtime, sockets and data dir. The checker judges the
//! history of each test with faults.

#![expect(clippy::unwrap_used, reason = "a test that panics fails, which is the point")]

mod api;
mod bad_input;
mod budget;
mod crowd;
mod discovery;
mod disk;
mod failover;
mod fixture;
mod harness;
mod identity;
mod load;
mod lost_ack;
mod messages;
mod operators;
mod partition;
mod peers;
mod people;
mod placement;
mod reads;
mod restart;
mod rights;
mod snapshot;
mod tls;
mod upgrade;
mod web;
