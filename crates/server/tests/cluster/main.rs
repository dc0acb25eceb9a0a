//! Whole clusters in one process: three nodes, each with a runtime, sockets and a data directory of its
//! own. What happens under faults is recorded and judged by the checker.

mod bad_input;
mod failover;
mod harness;
mod identity;
mod load;
mod lost_ack;
mod reads;
mod restart;
mod snapshot;
