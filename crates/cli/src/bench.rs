//! The load generator.

use crate::exit::Exit;
use crate::settings::Settings;

/// `conclave bench`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Measures the cluster.
pub(crate) async fn run(_args: Args, _settings: &Settings) -> anyhow::Result<Exit> {
    std::future::ready(Ok(Exit::Usage)).await
}
