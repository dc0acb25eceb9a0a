//! The store against openraft's expectations, crashes, full disks and damaged directories.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod commands;
mod crash;
mod openraft_suite;
mod sim;
mod support;
