//! `conclave server`: one node.

use conclave_dns::announce::{Announced, Announcement, announce};
use conclave_server::Config;

use super::daemon::{self, Shutdown};
use crate::args::server::ServerArgs;
use crate::exit::Exit;
use crate::{admin_token, secret};

/// Runs the node until it is told to stop.
///
/// # Errors
/// With one sentence that says what to do.
pub(super) async fn run(args: ServerArgs) -> anyhow::Result<Exit> {
    let mut config = args.config();
    if let Some(file) = &args.secret.secret_file {
        config.secret = Some(secret::read(file, "cluster's secret")?);
    }
    if let Some(file) = &args.admin_token.admin_token_file {
        config.admin_token = Some(admin_token::read(file)?);
    }
    config.validate().map_err(|wrong| daemon::misconfigured(&wrong))?;
    let name = format!("server {}", args.name);
    daemon::run(&name, &args.run, |stopped| {
        let announcement = if args.announces() { announcement(&config) } else { None };
        conclave_server::run(config, withdraw_on_stop(announcement, stopped))
    })
    .await
}

/// Announces the server on the local network. A failure is logged and does not stop the server.
fn announcement(config: &Config) -> Option<Announcement> {
    let announced = Announced {
        name: config.name.clone(),
        cluster: config.cluster_name.clone(),
        node_id: config.node_id(),
        listen: config.client_listen,
    };
    announce(&announced)
        .inspect_err(|error| tracing::warn!(%error, "mDNS announcement failed, continuing without it"))
        .ok()
}

/// Waits for the shutdown and withdraws the announcement before the server disconnects its clients.
async fn withdraw_on_stop(announcement: Option<Announcement>, stopped: Shutdown) {
    stopped.await;
    drop(announcement);
}
