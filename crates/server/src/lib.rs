//! A node of conclave: Raft replicas, the client API, health and metrics.
//!
//! The path of a message through this crate:
//!
//! 1. [`api`] takes a request from a client, authenticates the caller and validates the request,
//! 2. [`router`] finds the room's shard and the shard's leader, here or on another node,
//! 3. [`shard::proposer`] collects waiting commands into one Raft entry and stamps its time,
//! 4. openraft replicates it through [`peer::network`]; the store syncs it and applies it,
//! 5. the reply goes back the same way, and [`feed`] notifies [`api::subscription`]s on every replica.
//!
//! Beside this path, [`discovery`] reports this node's addresses and health to others, and [`cluster::placement`]
//! keeps the clients spread over the nodes.
//!
//! The crate is built in floors: a module uses only modules on floors below its own. `ARCHITECTURE.md` lists them.
//!
//! Invariants: only the proposer writes to Raft. Every task belongs to the node's tracker and ends with it. Only the
//! store writes to disk, never this crate.

mod api;
mod bootstrap;
mod budget;
pub mod clock;
mod cluster;
mod coalesced;
pub mod config;
mod discovery;
mod disk_space;
pub mod faults;
mod feed;
mod housekeeping;
mod limits;
mod local;
mod local_sessions;
pub mod metrics;
mod node;
mod peer;
mod people;
mod plan;
mod router;
mod shard;
mod status;
mod topology;

pub use clock::Clock;
pub use conclave_net::{CERTIFICATE_FILE, Credentials, Plain};
pub use conclave_store::{IDENTITY_FILE, Options as StoreOptions};
pub use config::{Config, Member, NodeTls, Timing};
pub use faults::Faults;
pub use limits::CONNECTIONS_PER_ADDRESS_MAX_DEFAULT;
pub use node::{Listeners, Node, RunError, run};
pub use peer::tls::NodeTlsError;
