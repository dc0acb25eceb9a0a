//! `conclave`: servers, a whole local cluster, chat, and the tools of operators.
//!
//! This file parses the command line, runs the command and returns its exit code. [`args`] is the raw command line,
//! [`settings`] the resolved configuration of a client command. Each command is one file in [`command`]. [`view`]
//! renders output, without I/O.

mod admin_token;
mod args;
mod bench;
mod certificates;
mod command;
mod config_file;
mod diagnosis;
mod errors;
mod exit;
mod files;
mod http;
mod identify;
mod input;
mod known;
mod limits;
mod link;
mod login;
mod output;
mod parse;
mod password;
mod private;
mod search;
mod secret;
mod session;
mod settings;
mod suggest;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::args::Args;

// The server makes many small allocations, and the system's allocator keeps their memory fragmented.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The longest wait for the runtime's threads after a command has ended.
const RUNTIME_STOP: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    // With transparent huge pages an idle server holds twice the memory that it uses. A kernel without this option
    // needs nothing.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    conclave_telemetry::process::raise_file_limit();
    let words = match config_file::complete(std::env::args_os().collect()) {
        Ok(completed) => completed,
        Err(failed) => {
            output::failure(wants_json(), &failed.into());
            conclave_telemetry::log::finish();
            return exit::Exit::Usage.into();
        }
    };
    let args = match Args::try_parse_from(&words.words) {
        Ok(args) => args,
        Err(error) => return unusable(&error, &words),
    };
    let json = args.global.json;
    #[cfg(debug_assertions)]
    if let Err(why) = plant() {
        output::error(&format!("conclave: {why}"));
        return exit::Exit::Usage.into();
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().worker_threads(workers());
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&format!("conclave: cannot start the runtime: {error}"));
            return exit::Exit::Refused.into();
        }
    };
    let result = runtime.block_on(command::run(args));
    runtime.shutdown_timeout(RUNTIME_STOP);
    let code = match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            if !exit::is_broken_pipe(&error) {
                output::failure(json, &error);
            }
            exit::of_error(&error).into()
        }
    };
    conclave_telemetry::log::finish();
    code
}

/// Says what is wrong with the command line, or prints the help that was asked for.
fn unusable(error: &clap::Error, words: &config_file::Completed) -> ExitCode {
    let failed = suggest::usage(error).map(|failed| match &words.file {
        Some(file) => failed.advising(format!("the values of {} count as flags, too", file.display())),
        None => failed,
    });
    match failed {
        Some(failed) if wants_json() => {
            output::failure(true, &failed.into());
        }
        Some(failed) if suggest::is_planned(error) || words.file.is_some() => {
            output::failure(false, &failed.into())
        }
        // Nobody reads the help any more.
        _ => drop(error.print()),
    }
    conclave_telemetry::log::finish();
    if error.use_stderr() { exit::Exit::Usage.into() } else { exit::Exit::Ok.into() }
}

fn wants_json() -> bool {
    std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json")
}

/// Chooses the planted bug of this process and reports it, so that nobody takes the process for a sound one.
#[cfg(debug_assertions)]
fn plant() -> Result<(), conclave_core::planted::UnknownBug> {
    use conclave_core::planted::{VARIABLE, plant};
    if let Some(bug) = plant(std::env::var(VARIABLE).ok().as_deref())? {
        let name = bug.name();
        output::error(&format!(
            "!!! conclave breaks its promises with a planted bug, chosen by {VARIABLE}: {name} !!!"
        ));
    }
    Ok(())
}

/// Worker threads: at least two, so that a computation does not delay heartbeats.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}
