//! `conclave status`: shows the state of the cluster.

use std::io::{IsTerminal as _, stdout};
use std::sync::Arc;

use conclave_client::Client;
use conclave_proto::chat::GetServerStatusResponse;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::StatusArgs;
use crate::errors::{LastAttempt, last_attempt, no_server, of_call};
use crate::exit::{Exit, Failed};
use crate::limits::{STATUS_WAIT_INTERVAL, STATUS_WAIT_PATIENCE};
use crate::search::Search;
use crate::settings::Settings;
use crate::view::status::{json, page};
use crate::view::text::count;
use crate::{output, session};

/// Moves to the top of the screen. The page then overwrites the last one, without a flicker.
const HOME: &str = "\x1b[H";
const CLEAR_BELOW: &str = "\x1b[J";
const CLEAR_SCREEN: &str = "\x1b[2J";

/// The state, and what waits for the cluster on this machine.
#[derive(Debug, Serialize)]
struct WithOutbox<T> {
    #[serde(flatten)]
    status: T,
    /// The number of the user's messages.
    waiting_here: usize,
}

/// Shows the state once, or repeatedly.
///
/// # Errors
/// If no server answers.
pub(super) async fn run(args: &StatusArgs, settings: &Settings) -> anyhow::Result<Exit> {
    if args.wait {
        return wait(settings).await;
    }
    let client = session::observer(settings, settings.timeout).await?;
    if !args.watch {
        return show(settings, &client, false).await;
    }
    let redraw = stdout().is_terminal() && settings.style.color && !settings.json;
    if redraw {
        output::block(CLEAR_SCREEN)?;
    }
    let mut every = tokio::time::interval(args.every);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = show(settings, &client, redraw).await {
            if crate::exit::is_broken_pipe(&error) {
                return Err(error);
            }
            // A watch continues, to show when the cluster is back.
            output::failure(settings.json, &error);
        }
    }
}

/// Asks until the cluster is healthy or the timeout is over, and shows the last state.
async fn wait(settings: &Settings) -> anyhow::Result<Exit> {
    let deadline = Instant::now() + settings.timeout;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut last: Option<(Instant, GetServerStatusResponse)> = None;
    loop {
        // A cluster that is not there yet may come: who it is, is asked again.
        let patient = Settings {
            identified: Arc::default(),
            search: Search::new(settings.find.clone()),
            ..settings.clone()
        };
        let asked = match session::observer(&patient, left().min(STATUS_WAIT_PATIENCE)).await {
            Ok(client) => {
                let asked = ask(&client).await;
                client.close().await;
                asked
            }
            Err(error) => Err(error),
        };
        let is_over = left() < STATUS_WAIT_INTERVAL;
        let failed = match asked {
            Ok(status) => {
                last = Some((Instant::now(), status));
                None
            }
            Err(error) if is_no_server(&error) => Some(error),
            Err(error) => return Err(error),
        };
        let is_healthy = failed.is_none() && last.as_ref().is_some_and(|(_, status)| status.healthy);
        if is_over || is_healthy {
            if let Some(cluster) = patient.identified.get() {
                // Nobody else sets it meanwhile.
                let _ = settings.identified.set(cluster.clone());
            }
            // The last question may have had too little time for an answer.
            let recent = last.filter(|(at, _)| at.elapsed() < 2 * STATUS_WAIT_PATIENCE);
            return match (recent, failed) {
                (Some((_, status)), _) => print(settings, &status, false).await,
                (None, Some(error)) => Err(error),
                (None, None) => Err(no_server(&LastAttempt::default()).into()),
            };
        }
        tokio::time::sleep(STATUS_WAIT_INTERVAL).await;
    }
}

fn is_no_server(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failed>().is_some_and(|failed| failed.exit == Exit::NoServer)
}

async fn show(settings: &Settings, client: &Client, redraw: bool) -> anyhow::Result<Exit> {
    print(settings, &ask(client).await?, redraw).await
}

async fn ask(client: &Client) -> anyhow::Result<GetServerStatusResponse> {
    let asked = client.status().await.map_err(|error| match &error {
        silent @ conclave_client::CallError::NoServer { .. } => no_server(&last_attempt(silent)),
        other => of_call(None, other),
    });
    Ok(asked?)
}

async fn print(settings: &Settings, status: &GetServerStatusResponse, redraw: bool) -> anyhow::Result<Exit> {
    let waiting = session::waiting(settings).await;
    let page = || {
        let mut page = page(settings.style, status, output::columns());
        if waiting > 0 {
            let (messages, user) = (count(waiting as u64, "message"), settings.user());
            page.push_str(&format!("{messages} of {user} waiting on this machine: conclave outbox list\n"));
        }
        page
    };
    if settings.json {
        output::json(&WithOutbox { status: json(status), waiting_here: waiting })?;
    } else if redraw {
        // Each line clears the rest of the old one.
        let text = page().replace('\n', "\x1b[K\n");
        output::block(&format!("{HOME}{text}{CLEAR_BELOW}"))?;
    } else {
        output::block(&page())?;
    }
    Ok(if status.healthy { Exit::Ok } else { Exit::Refused })
}
