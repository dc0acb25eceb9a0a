//! `conclave server`: one node.

use super::daemon;
use crate::args::server::ServerArgs;
use crate::exit::Exit;
use crate::secret;

/// Runs the node until it is told to stop.
///
/// # Errors
/// With one sentence that says what to do.
pub(super) async fn run(args: ServerArgs) -> anyhow::Result<Exit> {
    let mut config = args.config();
    if let Some(file) = &args.secret.secret_file {
        config.secret = Some(secret::read(file, "cluster's secret")?);
    }
    config.validate().map_err(|wrong| daemon::misconfigured(&wrong))?;
    let name = format!("server {}", args.name);
    daemon::run(&name, &args.run, |stopped| conclave_server::run(config, stopped)).await
}
