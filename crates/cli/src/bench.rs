//! The load generator: how much, how fast, how long a failover takes, what a subscriber costs.
//!
//! What must stay true, so that the figures mean what they say:
//!
//! * A latency at a fixed rate counts from when the send was due, not from when the generator got to it. A server
//!   (or a generator) that stalls is seen in every send that should have happened meanwhile.
//! * Clients stay on the node that they were given unless told otherwise, so that requests pass through followers as
//!   often as they would with clients anywhere.
//! * Nothing is counted that was not acknowledged, or not delivered.

mod failover;
mod fanout;
mod idle;
mod load;
mod pace;
mod process;
mod report;
mod send;

use crate::args::bench::{BenchArgs, Kind};
use crate::exit::Exit;
use crate::settings::Settings;

/// Measures the cluster.
pub(crate) async fn run(args: BenchArgs, settings: &Settings) -> anyhow::Result<Exit> {
    match args.kind {
        Kind::Send(args) => send::run(args, settings).await,
        Kind::Fanout(args) => fanout::run(args, settings).await,
        Kind::Failover(args) => failover::run(args, settings).await,
        Kind::Idle(args) => idle::run(args, settings).await,
    }
}
