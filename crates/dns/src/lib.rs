//! The resolver: the cluster's zone as a pure function of what its nodes say of themselves, and DNS around it.
//!
//! * `directory`: which nodes there are and which of them are healthy: records, leases, the serial. Pure.
//! * `zone`: the names and records that follow from it, with everything an answer needs worked out beforehand. Pure.
//! * `answer`: a question to its answer. Pure; `handler` is the shell around it that hickory-server calls.
//! * `service`: `DNSService`, the registry over gRPC.
//!
//! It never votes, writes nothing and is never in the way of a node: losing every resolver costs nobody a message.

pub mod config;
pub mod directory;
pub mod forward;
pub mod metrics;
mod registry;
mod service;
mod watch;
mod web;
pub mod zone;

pub use config::Config;

/// Runs a resolver until `shutdown`.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    config.validate().map_err(RunError::Config)?;
    shutdown.await;
    Ok(())
}

/// Why a resolver did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error("the configuration is wrong: {}", .0.join("; "))]
    Config(Vec<String>),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen {
        /// What for.
        purpose: &'static str,
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}
