//! The store against openraft's expectations, crashes, full disks and damaged data dirs.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod bounds;
mod commands;
mod crash;
mod directory;
mod large;
mod openraft_suite;
mod snapshots;
mod support;
mod threads;
mod upgrades;
mod votes;
