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
    #[cfg(feature = "planted-bugs")]
    if let Err(why) = plant() {
        command::complain(&format!("conclave-chaos: {why}"));
        return ExitCode::from(NO_VERDICT);
    }
    match command::run(args).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            command::complain(&format!("conclave-chaos: {error:#}"));
            ExitCode::from(NO_VERDICT)
        }
    }
}

/// The bug that this process makes, for those that are the client library's; said loudly.
#[cfg(feature = "planted-bugs")]
fn plant() -> Result<(), conclave_client::planted::UnknownBug> {
    use conclave_client::planted::{Bug, VARIABLE, VERSION, plant};
    let chosen = plant(std::env::var(VARIABLE).ok().as_deref())?.map_or("none of them", Bug::name);
    command::complain(&format!(
        "!!! conclave-chaos {VERSION} MAY BREAK PROMISES ON PURPOSE ITSELF; {VARIABLE} chooses: {chosen} !!!"
    ));
    Ok(())
}
