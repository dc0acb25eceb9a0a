//! The load generator: measures throughput, latency, the duration of failovers, and the cost of subscribers.
//!
//! What must stay true, so that the figures are valid:
//!
//! * At a fixed rate, a latency counts from the time when the send was due, not from when the generator sent it. So a
//!   stall of a server (or of the generator) shows in every send that was due meanwhile.
//! * Clients stay on their node unless told otherwise, so that requests pass through followers as often as with clients
//!   that are spread over the nodes.
//! * Only acknowledged sends and delivered events are counted.

mod failover;
mod fanout;
mod idle;
mod load;
mod pace;
mod process;
mod report;
mod send;

use crate::args::bench::{BenchArgs, BenchCommand};
use crate::exit::Exit;
use crate::settings::Settings;

/// Runs a measurement.
pub(crate) async fn run(args: BenchArgs, settings: &Settings) -> anyhow::Result<Exit> {
    match args.kind {
        BenchCommand::Send(args) => send::run(args, settings).await,
        BenchCommand::Fanout(args) => fanout::run(args, settings).await,
        BenchCommand::Failover(args) => failover::run(args, settings).await,
        BenchCommand::Idle(args) => idle::run(args, settings).await,
    }
}
