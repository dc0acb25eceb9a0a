//! Chooses the session of a command.
//!
//! A session and its outbox are in `STATE_DIR/<cluster id>/<user>/<slot>`: a command continues the session of the last
//! one, and a message for one cluster is never sent to another. One process uses a slot at a time; a second command at
//! the same time uses the next slot. The next command that sends also sends the unsent messages of all slots.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use conclave_client::find::{Candidate, PRIORITY_LAST};
use conclave_client::{Client, ConnectError, Outbox, OutboxError};
use futures::stream::{FuturesUnordered, StreamExt as _};

use crate::errors::{last_attempt, no_server, of_connect};
use crate::exit::{Exit, Failed};
use crate::limits::{CLI_SLOTS_MAX, CLI_WHICH_CLUSTER};
use crate::settings::Settings;

/// The file that maps the searched servers to the id of their cluster, for the case that no server answers.
const LAST_CLUSTER: &str = "last-cluster";

/// A client without a session, which works without a majority.
pub(crate) async fn observer(settings: &Settings, patience: Duration) -> Result<Client, Failed> {
    Client::builder()
        .finder(settings.search.finder())
        .user(settings.user.clone())
        .client_name(client_name())
        .patience(patience)
        .observe()
        .await
        .map_err(|error| of_connect(&error))
}

/// A client with the user's session.
///
/// # Errors
/// If no server answers, the session is not accepted, or the state directory cannot be used.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Client> {
    let dir = user_dir(settings, &which_cluster(settings).await?);
    fs::create_dir_all(&dir).map_err(|error| cannot_use(&dir, &error))?;
    for slot in 0..CLI_SLOTS_MAX {
        match open_slot(settings, dir.join(slot.to_string())).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => {}
            Err(error) => return Err(of_connect(&error).into()),
        }
    }
    let what = format!("{CLI_SLOTS_MAX} commands of {} are running at the same time", settings.user);
    Err(Failed::new(Exit::Refused, what, "wait for some of them, or give another --state-dir").into())
}

/// Clients for the slots in which earlier commands left unsent messages. They send by themselves; flush and close them.
pub(crate) async fn leftovers(settings: &Settings, main: &Client) -> Vec<Client> {
    let dir = user_dir(settings, &main.session().cluster_id);
    let mut found = Vec::new();
    for slot in 0..CLI_SLOTS_MAX {
        let slot = dir.join(slot.to_string());
        if !slot.is_dir() {
            break;
        }
        // The slot is locked by this or another running command, which sends its messages.
        let Ok(client) = open_slot(settings, slot).await else { continue };
        if client.pending_count() > 0 {
            found.push(client);
        } else {
            client.close().await;
        }
    }
    found
}

async fn open_slot(settings: &Settings, dir: PathBuf) -> Result<Client, ConnectError> {
    Client::builder()
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

/// The id of the cluster, as the first server to answer reports it. If no server answers, the id that was recorded for
/// these servers, so that messages can still be queued.
async fn which_cluster(settings: &Settings) -> anyhow::Result<String> {
    let patience = settings.timeout.min(CLI_WHICH_CLUSTER);
    let memory = settings.state_dir.join(LAST_CLUSTER);
    let mut last = String::new();
    for addresses in candidates(settings).await {
        let observer = Client::builder().servers(addresses.clone()).patience(patience).observe().await;
        let observer = observer.map_err(|error| of_connect(&error))?;
        let mut answers: FuturesUnordered<_> =
            addresses.iter().map(|address| observer.status_of(address)).collect();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(status) if is_cluster_id(&status.cluster_id) => {
                    remember(&memory, &settings.asked(), &status.cluster_id)?;
                    return Ok(status.cluster_id);
                }
                Ok(_) => last = "the server does not know its cluster yet".to_owned(),
                Err(error) => last = last_attempt(&error),
            }
        }
    }
    recall(&memory, &settings.asked()).ok_or_else(|| no_server(&last).into())
}

/// The addresses to ask: the found servers, then, if none of them answers, the fallbacks.
async fn candidates(settings: &Settings) -> Vec<Vec<String>> {
    let Ok(found) = settings.search.found().await else { return Vec::new() };
    let (first, last): (Vec<_>, Vec<_>) =
        found.candidates.into_iter().partition(|candidate| candidate.priority < PRIORITY_LAST);
    let addresses = |candidates: Vec<Candidate>| candidates.into_iter().map(|one| one.address).collect();
    [first, last].into_iter().filter(|some| !some.is_empty()).map(addresses).collect()
}

/// Checks an id that becomes the name of a directory.
pub(crate) fn is_cluster_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Records a cluster id: one line with the id and the searched servers.
fn remember(file: &Path, asked: &str, id: &str) -> anyhow::Result<()> {
    let line = format!("{id} {asked}");
    let old = fs::read_to_string(file).unwrap_or_default();
    if old.lines().any(|known| known == line) {
        return Ok(());
    }
    let others = old.lines().filter(|known| known.split_once(' ').is_none_or(|(_, other)| other != asked));
    let mut text: String = others.take(CLI_SLOTS_MAX).map(|known| format!("{known}\n")).collect();
    text.push_str(&line);
    text.push('\n');
    let dir = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|error| cannot_use(dir, &error))?;
    let temporary = file.with_extension(std::process::id().to_string());
    fs::write(&temporary, text).map_err(|error| cannot_use(dir, &error))?;
    fs::rename(&temporary, file).with_context(|| format!("write {}", file.display()))
}

fn recall(file: &Path, asked: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (id, _) = text.lines().filter_map(|line| line.split_once(' ')).find(|(_, other)| *other == asked)?;
    is_cluster_id(id).then(|| id.to_owned())
}

fn cannot_use(dir: &Path, error: &std::io::Error) -> Failed {
    let what = format!("the state directory {} cannot be used: {error}", dir.display());
    Failed::new(Exit::Refused, what, "give --state-dir a directory that you may write to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cluster_is_recorded_for_each_list_of_servers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state").join(LAST_CLUSTER);
        let (here, there) = ("a:1,b:2", "conclave+srv://z");
        let id = |digit: &str| digit.repeat(32);
        assert_eq!(recall(&file, here), None);
        remember(&file, here, &id("1")).unwrap();
        remember(&file, there, &id("2")).unwrap();
        remember(&file, here, &id("3")).unwrap();
        assert_eq!(recall(&file, here), Some(id("3")));
        assert_eq!(recall(&file, there), Some(id("2")));
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 2);
    }

    #[test]
    fn only_a_cluster_id_becomes_a_directory() {
        assert!(is_cluster_id("0123456789abcdef0123456789abcdef"));
        for bad in ["", "../../etc", &"x".repeat(32), &"1".repeat(31)] {
            assert!(!is_cluster_id(bad), "{bad}");
        }
    }
}
