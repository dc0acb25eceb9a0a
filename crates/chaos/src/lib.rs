//! Breaks a cluster on purpose, keeps using it, and judges what came of it.
//!
//! * [`experiment`]: what is done, and what must hold. [`schedule`]: when, and to whom; pure.
//! * [`fault`]: the vocabulary.

pub mod experiment;
pub mod fault;
pub mod schedule;
pub mod time;
