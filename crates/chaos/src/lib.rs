//! Injects faults into a cluster under load, and judges whether the cluster kept its promises.
//!
//! * [`experiment`]: the steps, and what must hold. [`schedule`]: the times and targets of the faults; pure.
//! * [`engine`]: runs an experiment with a [`workload`]. [`events`]: what it reports. [`verdict`] and [`report`]: the result.
//! * [`serve`]: a long-running controller with an API and [`metrics`]. [`single`]: one fault, outside of any experiment.
//! * [`limits`]: the bounds of the controller's API.
//! * [`fault`]: the kinds of faults. [`backend`]: applies and heals them. [`journal`]: the active faults, on disk.

pub mod backend;
pub mod connect;
pub mod engine;
pub mod events;
pub mod experiment;
pub mod fault;
pub mod journal;
pub mod limits;
pub mod metrics;
pub mod report;
pub mod schedule;
pub mod scrape;
mod secret;
pub mod serve;
pub mod server_states;
pub mod sides;
pub mod single;
pub mod time;
pub mod verdict;
pub mod workload;
