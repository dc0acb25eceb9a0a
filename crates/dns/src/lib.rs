//! The authoritative name server of a cluster's zone. The zone is a pure function of the records that nodes register.
//!
//! * `names`: labels, addresses and the name of the zone, below everything else. Pure.
//! * `node_table`: the nodes, which of them are healthy, and the serial: merges records, expires leases. Pure.
//! * `zone`: the names and records that follow from the node table, encoded beforehand. Pure.
//! * `answer`: decides the answer to a question. Pure; `handler` is the shell around it, with the sockets.
//! * `service`: `DNSService`, where nodes register. `watch`: streams in which nodes report all nodes they know.
//! * `registry`: the only task that owns the node table; it publishes a zone after each change.
//! * `forward`: questions outside the zone; `export`: the zone's records in a site's own DNS. Both only if configured.
//! * `gates`: how many connections each port takes. `tls`: the certificate, and whom it is shown to.
//! * `announce`: how a server announces itself in the local network (mDNS).
//!
//! The name server never votes, writes nothing to disk, and no node waits for it: a cluster without any name server
//! loses no message.

pub mod announce;
mod answer;
pub mod config;
mod export;
pub mod faults;
pub mod forward;
mod gates;
pub mod handler;
pub mod limits;
pub mod metrics;
pub mod names;
pub mod node_table;
mod registry;
mod retry;
mod server;
mod service;
mod tls;
mod watch;
mod web;
pub mod zone;

pub use conclave_net::Plain;
pub use config::{Config, NameServerTls};
pub use faults::Faults;
pub use server::{Addresses, DnsServer, Listeners, RunError, run};
