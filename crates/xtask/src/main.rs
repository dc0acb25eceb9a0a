//! What is done to this repository by itself: `cargo xtask sim` runs the simulation over many seeds.

mod sim;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the simulation over many seeds, one process each, and sums up.
    Sim(sim::Args),
}

fn main() -> ExitCode {
    let Command::Sim(args) = Args::parse().command;
    match sim::run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell if that fails.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::from(3)
        }
    }
}
