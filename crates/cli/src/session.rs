//! Chooses the session of a command.
//!
//! A session and its outbox are in `STATE_DIR/<cluster id>/<user>/<slot>`: a command continues the session of the last
//! one, and a message for one cluster is never sent to another. One process uses a slot at a time; a second command at
//! the same time uses the next slot. Every command that reaches the cluster also sends what others have left.
//!
//! A name with a password has a log-in beside its slots ([`crate::login`]), and each slot's session is opened with it. A
//! session that was ended is replaced, unless messages wait in its slot: it may have decided them, so they stay there for
//! `conclave outbox`, and the next slot is used.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use conclave_client::{Builder, Client, ConnectError, Content, Kept, Outbox, OutboxError, RefusedRequest};
use conclave_proto::chat::{Message, RoomAction, room_action::Kind};
use tokio::time::Instant;

use crate::errors::{no_server, of_call, of_connect};
use crate::exit::{Exit, Failed};
use crate::identify::{Identified, cannot_use, identify};
use crate::known::is_cluster_id;
use crate::limits::{CLI_SLOTS_MAX, LEFTOVERS_INTERVAL, LOCKED_AGAIN_AFTER, OUTBOXES_MAX};
use crate::login::LogIns;
use crate::secret::Token;
use crate::settings::{Settings, TOKEN_VARIABLE};
use crate::view::text::{count, safe};
use crate::{output, private};

/// As whom a command acts in its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Acting {
    pub(crate) user: String,
    /// The user's log-in on this machine, or that of a program; `None` for a name without a log-in.
    pub(crate) login: Option<Token>,
}

/// As whom the command acts in its cluster.
///
/// # Errors
/// If the log-in cannot be read, or nothing proves that the cluster may see it.
pub(crate) async fn acting(settings: &Settings, cluster: &Identified) -> anyhow::Result<Acting> {
    let id = cluster.id.as_deref().unwrap_or_default();
    let Some(token) = &settings.token else {
        let user = settings.user_in(id);
        let login = LogIns::new(&settings.state_dir).token(id, &user)?;
        return Ok(Acting { user, login });
    };
    cluster.must_be_known(settings, TOKEN_VARIABLE)?;
    if settings.given_user.is_none() && settings.token_user.get().is_none() {
        // Only the cluster knows whose token it is.
        let client = with_token(settings, cluster, token).await?;
        let me = client.people().who_am_i().await.map_err(|error| of_call(None, &error));
        client.close().await;
        // Another part of the command has learned the same.
        let _ = settings.token_user.set(me?.user.unwrap_or_default().name);
    }
    Ok(Acting { user: settings.user_in(id), login: Some(token.clone()) })
}

/// A client that does nothing but calls about accounts, with this token.
///
/// # Errors
/// If no server was found.
pub(crate) async fn with_token(
    settings: &Settings,
    cluster: &Identified,
    token: &Token,
) -> anyhow::Result<Client> {
    let builder = builder(settings, cluster, settings.timeout).login(token.reveal());
    Ok(builder.read().await.map_err(|error| of_connect(&error))?)
}

/// A client for calls about accounts: with the user's log-in, or else with the session of an outbox.
///
/// # Errors
/// As [`open`].
pub(crate) async fn member(settings: &Settings) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    match acting(settings, cluster).await? {
        Acting { login: Some(_), .. } => reader(settings).await,
        Acting { login: None, .. } => open(settings).await,
    }
}

/// What became of messages whose session was ended.
pub(crate) const STUCK: &str = "of a session that was ended may have arrived or not, and are not sent again: see `conclave \
                                outbox list`, send again what is missing, and `conclave outbox drop` them";

/// A client without a session, which works without a majority.
///
/// # Errors
/// If no server was found, only servers of other clusters answer, or one answers that must not be believed.
pub(crate) async fn observer(settings: &Settings, patience: Duration) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    Ok(builder(settings, cluster, patience).observe().await.map_err(|error| of_connect(&error))?)
}

/// A client that only reads, as this user: it works without a majority, and keeps nothing on this machine.
///
/// # Errors
/// As [`observer`].
pub(crate) async fn reader(settings: &Settings) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    let acting = acting(settings, cluster).await?;
    introduce(settings, cluster, &acting);
    Ok(acting.builder(settings, cluster).read().await.map_err(|error| of_connect(&error))?)
}

/// Says in the first line for people which cluster this is, and as whom it is used.
fn introduce(settings: &Settings, cluster: &Identified, acting: &Acting) {
    if settings.for_people {
        output::note(settings.quiet, &format!("cluster {}, as {}", safe(&cluster.name, ""), acting.user));
    }
}

/// A client with the user's session.
///
/// # Errors
/// If no server answers, the session is not accepted, or the state directory cannot be used.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    let id = cluster.id.as_deref().ok_or_else(|| no_server(&cluster.last))?;
    let acting = acting(settings, cluster).await?;
    let dir = acting.dir(settings, id);
    if !dir.is_dir() {
        must_have_answered(cluster)?;
    }
    introduce(settings, cluster, &acting);
    private::create_dir(&dir).map_err(|error| cannot_use(&dir, &error))?;
    for slot in 0..CLI_SLOTS_MAX {
        match open_slot(settings, cluster, &acting, dir.join(slot.to_string())).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => {}
            // What waits there stays there: nobody knows whether it was decided.
            Err(ConnectError::SessionEnded { waiting, .. }) => {
                let text = format!("{} {STUCK}", count(waiting as u64, "message"));
                output::note(settings.quiet, &text);
            }
            Err(error) => return Err(of_connect(&error).into()),
        }
    }
    let what = format!("{CLI_SLOTS_MAX} commands of {} are running at the same time", acting.user);
    Err(Failed::new(Exit::Refused, what, "wait for some of them, or give another --state-dir").into())
}

/// Checks that the cluster has answered, for a command that begins the first session with it: without a session nothing
/// can be kept until it does, and the user's directory, which a log-in makes too, says that the cluster was met.
fn must_have_answered(cluster: &Identified) -> anyhow::Result<()> {
    cluster.must_answer()?;
    if cluster.answered.is_none() {
        return Err(no_server(&cluster.last).into());
    }
    Ok(())
}

/// A client with the session of a consumer, which has an outbox of its own. `kind` is what kind of consumer it is.
///
/// # Errors
/// As [`open`], or if another consumer of this kind and name runs.
pub(crate) async fn open_consumer(settings: &Settings, kind: &str, name: &str) -> anyhow::Result<Client> {
    let cluster = identify(settings).await?;
    let id = cluster.id.as_deref().ok_or_else(|| no_server(&cluster.last))?;
    let acting = acting(settings, cluster).await?;
    let dir = acting.dir(settings, id).join(format!("{kind}.{name}"));
    if !dir.is_dir() {
        must_have_answered(cluster)?;
    }
    let deadline = Instant::now() + settings.timeout;
    loop {
        match open_slot(settings, cluster, &acting, dir.clone()).await {
            Ok(client) => return Ok(client),
            // Another command may be sending its replies just now.
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(LOCKED_AGAIN_AFTER).await;
            }
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => {
                let what =
                    format!("`conclave {kind}` of {} with the name {name:?} runs already", acting.user);
                return Err(Failed::new(Exit::Refused, what, "give each its own --name").into());
            }
            Err(error) => return Err(of_connect(&error).into()),
        }
    }
}

/// The names and directories of the user's outboxes in a cluster.
pub(crate) fn outboxes(settings: &Settings, cluster_id: &str) -> Vec<(String, PathBuf)> {
    if !is_cluster_id(cluster_id) {
        return Vec::new();
    }
    let dir = settings.state_dir.join(cluster_id).join(settings.user_in(cluster_id));
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let named = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        entry
            .path()
            .join("outbox")
            .is_file()
            .then(|| Some((entry.file_name().into_string().ok()?, entry.path())))?
    });
    let mut found: Vec<_> = named.take(OUTBOXES_MAX).collect();
    found.sort();
    found
}

/// The outboxes of the command's cluster in which messages wait, and how many.
async fn waiting_in(settings: &Settings) -> Vec<(PathBuf, usize)> {
    let Some(id) = settings.identified.get().and_then(|cluster| cluster.id.clone()) else {
        return Vec::new();
    };
    if settings.token.is_some() && settings.given_user.is_none() && settings.token_user.get().is_none() {
        // Whose messages are meant is not known yet.
        return Vec::new();
    }
    let mut found = Vec::new();
    for (_, dir) in outboxes(settings, &id) {
        // `conclave outbox list` reports an outbox that cannot be read.
        match Kept::read(&dir).await {
            Ok(kept) if !kept.pending.is_empty() => found.push((dir, kept.pending.len())),
            _ => {}
        }
    }
    found
}

/// The number of the user's messages that wait for the command's cluster on this machine.
pub(crate) async fn waiting(settings: &Settings) -> usize {
    waiting_in(settings).await.iter().map(|(_, count)| count).sum()
}

/// What became of the messages that waited.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    pub(crate) sent: usize,
    pub(crate) waiting: usize,
    /// Those in the outboxes of commands that run, which send them themselves.
    pub(crate) held: usize,
    /// Those whose session was ended: nobody knows whether they were decided before.
    pub(crate) stuck: usize,
    pub(crate) refused: Vec<RefusedRequest>,
}

/// Sends what earlier commands have left, if the cluster has a majority. What is refused is said on stderr.
pub(crate) async fn send_leftovers(settings: &Settings, patience: Duration) -> Leftovers {
    let deadline = Instant::now() + patience;
    let waiting = waiting_in(settings).await;
    let mut done = Leftovers::default();
    let Some(cluster) = settings.identified.get().filter(|_| !waiting.is_empty()) else { return done };
    if !has_majority(settings, cluster, patience).await {
        done.waiting = waiting.iter().map(|(_, count)| count).sum();
        return done;
    }
    let Ok(acting) = acting(settings, cluster).await else {
        done.waiting = waiting.iter().map(|(_, count)| count).sum();
        return done;
    };
    for (dir, count) in waiting {
        match open_slot(settings, cluster, &acting, dir).await {
            Ok(client) => {
                let left = client.flush(deadline.saturating_duration_since(Instant::now())).await;
                let refused = note_refused(&client);
                client.close().await;
                done.sent += count.saturating_sub(left + refused.len());
                done.waiting += left;
                done.refused.extend(refused);
            }
            Err(ConnectError::Outbox(OutboxError::Locked { .. })) => done.held += count,
            Err(ConnectError::SessionEnded { .. }) => done.stuck += count,
            Err(_) => done.waiting += count,
        }
    }
    done
}

/// Closes the client of a command, and says what the cluster has refused of earlier commands' requests in its outbox.
pub(crate) async fn close(client: Client) {
    note_refused(&client);
    client.close().await;
}

/// Says which requests of earlier commands the cluster has refused: nobody else says it, and their text is nowhere else.
fn note_refused(client: &Client) -> Vec<RefusedRequest> {
    let refused = client.take_refused();
    for request in &refused {
        let (kind, text) = kind_and_text(&request.content);
        let (room, why) = (safe(&request.room, ""), safe(&request.message, ""));
        let text = if text.is_empty() { String::new() } else { format!("; its text: {}", safe(text, "  ")) };
        output::error(&format!("a {kind} of an earlier command for #{room} was refused: {why}{text}"));
    }
    refused
}

/// The kind of a request, and its text.
pub(crate) fn kind_and_text(content: &Content) -> (&'static str, &str) {
    match content {
        Content::Text(text) => ("message", text),
        Content::Topic(topic) => ("topic", topic),
        Content::Join => ("join", ""),
        Content::Leave => ("leave", ""),
        Content::Action(RoomAction { kind }) => match kind {
            Some(Kind::Text(text) | Kind::Post(Message { text, .. })) => ("message", text),
            Some(Kind::Edit(edit)) => ("edit", &edit.text),
            Some(Kind::Delete(delete)) => ("delete", &delete.reason),
            Some(Kind::React(react)) => ("react", &react.emoji),
            _ => ("action", ""),
        },
    }
}

/// Sends what earlier commands have left, again and again while a command runs.
pub(crate) async fn send_leftovers_forever(settings: &Settings) {
    loop {
        tokio::time::sleep(LEFTOVERS_INTERVAL).await;
        send_leftovers(settings, LEFTOVERS_INTERVAL).await;
    }
}

/// Sends what earlier commands have left, at the end of a command that the cluster has answered.
pub(crate) async fn send_leftovers_once(settings: &Settings) {
    if settings.identified.get().is_none_or(|cluster| cluster.answered.is_none()) {
        return;
    }
    note_leftover(settings, send_leftovers(settings, settings.timeout).await.sent);
}

/// Says how many messages of earlier commands were sent.
pub(crate) fn note_leftover(settings: &Settings, sent: usize) {
    if sent > 0 {
        output::note(
            settings.quiet,
            &format!("{} from an earlier command sent too", count(sent as u64, "message")),
        );
    }
}

/// Whether every room can be written to. An outbox is not taken from the next command before that: its order counts.
async fn has_majority(settings: &Settings, cluster: &Identified, patience: Duration) -> bool {
    let Ok(observer) = builder(settings, cluster, patience).observe().await else { return false };
    let status = observer.status().await;
    observer.close().await;
    status.is_ok_and(|status| status.can_lose >= 0)
}

async fn open_slot(
    settings: &Settings,
    cluster: &Identified,
    acting: &Acting,
    dir: PathBuf,
) -> Result<Client, ConnectError> {
    acting.builder(settings, cluster).outbox(Outbox::Durable(dir)).connect().await
}

impl Acting {
    /// A client of this user.
    fn builder(&self, settings: &Settings, cluster: &Identified) -> Builder {
        let builder = builder(settings, cluster, settings.timeout).user(&self.user);
        match &self.login {
            Some(login) => builder.login(login.reveal()),
            None => builder,
        }
    }

    /// The directory of the user's outboxes.
    fn dir(&self, settings: &Settings, cluster_id: &str) -> PathBuf {
        settings.state_dir.join(cluster_id).join(&self.user)
    }
}

/// The program, as operators and users see it.
pub(crate) fn client_name() -> String {
    format!("conclave-cli/{}", conclave_core::version::VERSION)
}

/// A client of no other cluster.
fn builder(settings: &Settings, cluster: &Identified, patience: Duration) -> Builder {
    let mut builder =
        Client::builder().finder(settings.search.finder()).client_name(client_name()).patience(patience);
    if let Some(authority) = cluster.authority {
        builder = builder.authority(authority);
    }
    if let Some(id) = &cluster.id {
        builder = builder.cluster(id);
    }
    builder
}
