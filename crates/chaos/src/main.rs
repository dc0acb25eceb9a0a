//! `conclave-chaos`: injects faults into a cluster under load, and judges whether it kept its promises.

mod args;
mod command;
mod controller;
mod output;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use conclave_telemetry::log;

/// The exit code of a run without a verdict: the run failed, which says nothing about the cluster's promises.
const NO_VERDICT: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    conclave_telemetry::process::raise_file_limit();
    let args = args::Args::parse();
    #[cfg(debug_assertions)]
    if let Err(why) = plant() {
        output::print_error(&format!("conclave-chaos: {why}"));
        return ExitCode::from(NO_VERDICT);
    }
    let code = match run(args).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::print_error(&format!("conclave-chaos: {error:#}"));
            ExitCode::from(NO_VERDICT)
        }
    };
    log::finish();
    code
}

/// Runs the command. Faults are healed in time also while nobody takes the output.
async fn run(args: args::Args) -> anyhow::Result<u8> {
    log::start().context("failed to start the log")?;
    command::run(args).await
}

/// Chooses the planted bug of this process (only those of the client library have an effect here) and reports it.
#[cfg(debug_assertions)]
fn plant() -> Result<(), conclave_client::planted::UnknownBug> {
    use conclave_client::planted::{VARIABLE, plant};
    if let Some(bug) = plant(std::env::var(VARIABLE).ok().as_deref())? {
        output::print_error(&format!(
            "!!! conclave-chaos makes a planted bug, chosen by {VARIABLE}: {} !!!",
            bug.name()
        ));
    }
    Ok(())
}
