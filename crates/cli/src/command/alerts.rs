//! `conclave alerts`: posts the alerts of an Alertmanager into a room, each change of an alert once.
//!
//! * [`notification`]: the webhook's body, the changes in it, and the line about them; pure.
//! * [`web`]: the port. It reads and authorises webhooks, and hands them to the one poster.
//! * [`poster`]: queues the line of each webhook, together with the new states of its alerts, as one record of the outbox.

mod notification;
mod poster;
mod web;

use std::convert::Infallible;

use anyhow::Context as _;
use conclave_net::{GateLimits, Identity};
use conclave_telemetry::door::{Door, Listening, Purpose};
use tokio_util::sync::CancellationToken;

use super::daemon;
use crate::args::alerts::AlertsArgs;
use crate::exit::{Exit, Failed};
use crate::limits::{ALERTS_CONNECTIONS_MAX, ALERTS_FIRST_REQUEST_MAX, ALERTS_IDLE_MAX};
use crate::settings::Settings;
use crate::{output, session};
use poster::Poster;
use web::Guard;

/// The port of webhooks.
const PORT: Purpose = Purpose {
    owner: Identity::Alerts,
    tls_flag: "--tls-dir",
    issue_flag: "--alerts",
    address_flags: "--listen",
    limits: GateLimits {
        connections: ALERTS_CONNECTIONS_MAX,
        per_address: ALERTS_CONNECTIONS_MAX,
        loopback: ALERTS_CONNECTIONS_MAX,
        first_request: ALERTS_FIRST_REQUEST_MAX,
        idle: ALERTS_IDLE_MAX,
    },
};

/// Takes webhooks until a signal.
///
/// # Errors
/// If it may not or cannot listen there, the room does not exist, or the state directory cannot be used.
pub(super) async fn run(args: AlertsArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let guard = Guard::open(args.token_file.as_deref(), args.listen)?;
    let listening = Listening {
        purpose: PORT,
        address: args.listen,
        tls_dir: args.tls_dir.clone(),
        insecure: args.listen_insecure,
    };
    let door =
        Door::open(&listening).await.map_err(|error| Failed::new(Exit::Usage, error.to_string(), ""))?;
    let client = session::open_consumer(settings, "alerts", &args.name).await?;
    let (poster, desk) = Poster::new(&client, &args.room, args.create);
    let ready = format!("{}/alerts", door.url());
    if settings.json {
        output::json(&serde_json::json!({ "url": ready, "room": args.room }))?;
    } else {
        output::note(settings.quiet, &format!("takes webhooks at {ready} for #{}", args.room));
    }
    let stop = CancellationToken::new();
    let routes = web::routes(desk, guard, stop.clone());
    let mut ended = None;
    let served = daemon::run("alerts", &args.run, |shutdown| {
        let (stop, ended) = (stop.clone(), &mut ended);
        let serving = door.serve(routes, stop.clone());
        async move {
            let work = async {
                tokio::select! {
                    failed = poster.run() => *ended = Some(failed),
                    () = shutdown => {}
                }
                stop.cancel();
            };
            tokio::join!(serving, work);
            Ok::<(), Infallible>(())
        }
    })
    .await;
    session::close(client).await;
    served.context("take webhooks")?;
    match ended {
        Some(failed) => Err(failed.into()),
        None => Ok(Exit::Ok),
    }
}
