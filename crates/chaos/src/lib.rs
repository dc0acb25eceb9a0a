//! Breaks a cluster on purpose, keeps using it, and judges what came of it.
//!
//! * [`experiment`]: what is done, and what must hold. [`schedule`]: when, and to whom; pure.
//! * [`engine`]: does it. [`events`]: what it tells.
//! * [`fault`]: the vocabulary. [`backend`]: who applies it. [`journal`]: what has to be healed, on disk.

pub mod backend;
pub mod engine;
pub mod events;
pub mod experiment;
pub mod fault;
pub mod journal;
pub mod observer;
pub mod report;
pub mod schedule;
pub mod sides;
pub mod time;
pub mod verdict;
pub mod workload;
