//! Breaks a cluster on purpose, keeps using it, and judges what came of it.
//!
//! * [`experiment`]: what is done, and what must hold. [`schedule`]: when, and to whom; pure.
//! * [`engine`]: does it. [`events`]: what it tells.
//! * [`serve`]: a controller that stays, with an API and [`metrics`]. [`single`]: one fault, outside of any experiment.
//! * [`fault`]: the vocabulary. [`backend`]: who applies it. [`journal`]: what has to be healed, on disk.

pub mod backend;
pub mod connect;
pub mod engine;
pub mod events;
pub mod experiment;
pub mod fault;
pub mod journal;
pub mod metrics;
pub mod observer;
pub mod report;
pub mod schedule;
pub mod serve;
pub mod sides;
pub mod single;
pub mod time;
pub mod verdict;
pub mod workload;
