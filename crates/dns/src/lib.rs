//! The resolver: the cluster's zone as a pure function of what its nodes say of themselves, and DNS around it.
//!
//! * `names`: labels, addresses and the name of the zone, below everything else. Pure.
//! * `node_table`: which nodes there are and which of them are healthy: records, leases, the serial. Pure.
//! * `zone`: the names and records that follow from it, with everything an answer needs worked out beforehand. Pure.
//! * `answer`: a question to its answer. Pure; `handler` is the shell around it, with the sockets.
//! * `service`: `DNSService`, where nodes register; `watch`: what nodes say of each other. `registry` is the one task that
//!   owns the table and shows the zone that follows from it.
//! * `forward`: names of others, `export`: the zone in a site's own DNS, both only where configured.
//! * `announce`: how a server tells the local network that it is there.
//!
//! It never votes, writes nothing and is never in the way of a node: losing every resolver costs nobody a message.

pub mod announce;
mod answer;
pub mod config;
mod export;
pub mod faults;
pub mod forward;
pub mod handler;
pub mod limits;
pub mod metrics;
pub mod names;
pub mod node_table;
mod registry;
mod retry;
mod server;
mod service;
mod watch;
mod web;
pub mod zone;

pub use config::Config;
pub use faults::Faults;
pub use server::{Addresses, DnsServer, Listeners, RunError, run};
