//! `conclave status`: shows the state of the cluster.

use std::io::{IsTerminal as _, stdout};

use conclave_client::Client;
use serde::Serialize;

use crate::args::StatusArgs;
use crate::errors::{no_server, of_call};
use crate::exit::Exit;
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
            output::error(&format!("{error:#}"));
        }
    }
}

async fn show(settings: &Settings, client: &Client, redraw: bool) -> anyhow::Result<Exit> {
    let status = client.status().await.map_err(|error| match &error {
        conclave_client::CallError::NoServer { last, .. } => no_server(last),
        other => of_call(None, other),
    })?;
    let waiting = session::waiting(settings).await;
    let page = || {
        let mut page = page(settings.style, &status);
        if waiting > 0 {
            let (messages, user) = (count(waiting as u64, "message"), &settings.user);
            page.push_str(&format!("{messages} of {user} waiting on this machine: conclave outbox list\n"));
        }
        page
    };
    if settings.json {
        output::json(&WithOutbox { status: json(&status), waiting_here: waiting })?;
    } else if redraw {
        // Each line clears the rest of the old one.
        let text = page().replace('\n', "\x1b[K\n");
        output::block(&format!("{HOME}{text}{CLEAR_BELOW}"))?;
    } else {
        output::block(&page())?;
    }
    Ok(if status.healthy { Exit::Ok } else { Exit::Refused })
}
