//! Chooses the session of a command.
//!
//! A session and its outbox are in `STATE_DIR/<cluster id>/<user>/<slot>`: a command continues the session of the last
//! one, and a message for one cluster is never sent to another. One process uses a slot at a time; a second command at
//! the same time uses the next slot. The next command that sends also sends the unsent messages of all slots.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use conclave_client::{CaId, Client, ConnectError, Outbox, OutboxError};
use tokio::time::Instant;

use crate::errors::{no_server, of_connect};
use crate::exit::{Exit, Failed};
use crate::identify::{cannot_use, identify};
use crate::limits::{CLI_SLOTS_MAX, LOCKED_AGAIN_AFTER};
use crate::output;
use crate::settings::Settings;
use crate::view::text::safe;

/// A client without a session, which works without a majority.
///
/// # Errors
/// If no server was found, only servers of other clusters answer, or one answers that must not be believed.
pub(crate) async fn observer(settings: &Settings, patience: Duration) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    let mut builder = Client::builder()
        .finder(settings.search.finder())
        .user(settings.user.clone())
        .client_name(client_name())
        .patience(patience);
    if let Some(authority) = cluster.authority {
        builder = builder.authority(authority);
    }
    if let Some(id) = &cluster.id {
        builder = builder.cluster(id);
    }
    Ok(builder.observe().await.map_err(|error| of_connect(&error))?)
}

/// A client with the user's session.
///
/// # Errors
/// If no server answers, the session is not accepted, or the state directory cannot be used.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    let id = cluster.id.as_deref().ok_or_else(|| no_server(&cluster.last))?;
    let dir = user_dir(settings, id);
    // Without a session nothing can be kept until the cluster answers.
    if !dir.is_dir() {
        cluster.must_answer()?;
    }
    if settings.for_people {
        output::note(settings.quiet, &format!("cluster {}, as {}", safe(&cluster.name, ""), settings.user));
    }
    fs::create_dir_all(&dir).map_err(|error| cannot_use(&dir, &error))?;
    for slot in 0..CLI_SLOTS_MAX {
        match open_slot(settings, cluster.authority, dir.join(slot.to_string())).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => {}
            Err(error) => return Err(of_connect(&error).into()),
        }
    }
    let what = format!("{CLI_SLOTS_MAX} commands of {} are running at the same time", settings.user);
    Err(Failed::new(Exit::Refused, what, "wait for some of them, or give another --state-dir").into())
}

/// A client with the session of a bot, which has an outbox of its own.
///
/// # Errors
/// As [`open`], or if another bot of this name runs.
pub(crate) async fn open_bot(settings: &Settings, name: &str) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    let id = cluster.id.as_deref().ok_or_else(|| no_server(&cluster.last))?;
    let dir = user_dir(settings, id).join(format!("bot.{name}"));
    if !dir.is_dir() {
        cluster.must_answer()?;
    }
    let deadline = Instant::now() + settings.timeout;
    loop {
        match open_slot(settings, cluster.authority, dir.clone()).await {
            Ok(client) => return Ok(client),
            // Another command may be sending its replies just now.
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(LOCKED_AGAIN_AFTER).await;
            }
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => {
                let what = format!("a bot of {} with the name {name:?} runs already", settings.user);
                return Err(Failed::new(Exit::Refused, what, "give each bot its own --name").into());
            }
            Err(error) => return Err(of_connect(&error).into()),
        }
    }
}

/// Clients for the slots in which earlier commands left unsent messages. They send by themselves; flush and close them.
pub(crate) async fn leftovers(settings: &Settings, main: &Client) -> Vec<Client> {
    let dir = user_dir(settings, &main.session().cluster_id);
    let authority = settings.identified.get().and_then(|cluster| cluster.authority);
    let mut found = Vec::new();
    for slot in 0..CLI_SLOTS_MAX {
        let slot = dir.join(slot.to_string());
        if !slot.is_dir() {
            break;
        }
        // The slot is locked by this or another running command, which sends its messages.
        let Ok(client) = open_slot(settings, authority, slot).await else { continue };
        if client.pending_count() > 0 {
            found.push(client);
        } else {
            client.close().await;
        }
    }
    found
}

async fn open_slot(
    settings: &Settings,
    authority: Option<CaId>,
    dir: PathBuf,
) -> Result<Client, ConnectError> {
    let builder = match authority {
        Some(authority) => Client::builder().authority(authority),
        None => Client::builder(),
    };
    builder
        .finder(settings.search.finder())
        .user(settings.user.clone())
        .client_name(client_name())
        .patience(settings.timeout)
        .outbox(Outbox::Durable(dir))
        .connect()
        .await
}

fn client_name() -> String {
    format!("conclave-cli/{}", conclave_core::version::VERSION)
}

fn user_dir(settings: &Settings, cluster_id: &str) -> PathBuf {
    settings.state_dir.join(cluster_id).join(&settings.user)
}
