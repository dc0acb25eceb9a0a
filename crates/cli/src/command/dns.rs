//! `conclave dns`: runs one name server.

use super::daemon;
use crate::args::dns::DnsArgs;
use crate::exit::{Exit, Failed};
use crate::secret;

/// Runs the name server until a shutdown is requested.
///
/// # Errors
/// With one sentence that says what to do.
pub(super) async fn run(args: DnsArgs, zone: &str) -> anyhow::Result<Exit> {
    let Some(file) = &args.secret.secret_file else {
        let next = "give --secret-file FILE (or CONCLAVE_SECRET_FILE), the same as at the servers";
        return Err(Failed::new(Exit::Usage, "a name server needs the cluster's secret", next).into());
    };
    let config = args.config(zone, secret::read(file, "cluster's secret")?)?;
    config.validate().map_err(|wrong| daemon::misconfigured(&wrong))?;
    daemon::run("name server", &args.run, |stopped| conclave_dns::run(config, stopped)).await
}
