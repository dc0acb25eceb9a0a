//! `conclave-chaos`: breaks a cluster on purpose and judges what came of it.

mod args;
mod command;
mod controller;

use std::process::ExitCode;

use clap::Parser as _;

/// No verdict: something that is not the cluster's promise went wrong.
const NO_VERDICT: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let args = args::Args::parse();
    match command::run(args).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            command::complain(&format!("conclave-chaos: {error:#}"));
            ExitCode::from(NO_VERDICT)
        }
    }
}
