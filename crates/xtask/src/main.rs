//! The repository's own tasks: `cargo xtask ci` runs everything that must pass, `cargo xtask sim` runs the
//! simulation over many seeds, `cargo xtask tidy` checks rules about the sources, `cargo xtask dns` asks a name server,
//! `cargo xtask load` uses a cluster on a machine that is busy with other things.

mod ci;
mod sim;
mod tidy;

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
    /// Runs all checks that must pass before a change is merged.
    Ci(ci::Args),
    /// Asks a running name server, of `conclave up` for instance, with dig, drill and kdig: the questions of the step dns.
    Dns(ci::DnsArgs),
    /// Sends to a cluster beside busy processes, and fails if a message is lost or leaders change all the time. By hand.
    Load(ci::LoadArgs),
    /// Runs the simulation over many seeds, one process each, and sums up.
    Sim(sim::Args),
    /// Checks the rules about sources and documents that no compiler checks.
    Tidy,
}

fn main() -> ExitCode {
    let passed = match Args::parse().command {
        Command::Ci(args) => ci::run(&args),
        Command::Dns(args) => ci::dns(&args),
        Command::Load(args) => ci::load(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Tidy => tidy::run(),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // An error of stderr itself cannot be reported anywhere.
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::from(3)
        }
    }
}

/// Prints a line to stdout.
fn print(text: &str) {
    // A closed pipe is not an error: the reader needs no more lines.
    let _ = writeln!(std::io::stdout(), "{text}");
}
