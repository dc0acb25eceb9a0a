//! Commands that begin a log-in: `login`, `register`, and `join` with the link of an invite.

use std::time::Duration;

use conclave_client::find::Seed;
use conclave_client::people::{OpenedSession, api};
use conclave_client::{CaId, Client};

use crate::args::people::{JoinArgs, LoginArgs, RegisterArgs};
use crate::errors::{no_server, of_call};
use crate::exit::{Exit, Failed};
use crate::identify::{Identified, cannot_use, identify, speaks_tls};
use crate::known::Known;
use crate::limits::CLI_WHICH_CLUSTER;
use crate::link::Link;
use crate::login::LogIns;
use crate::password::Passwords;
use crate::settings::Settings;
use crate::view::text::safe;
use crate::{output, private, session};

/// What a password is called where it may not be sent.
const PASSWORD: &str = "the password";

/// Logs in with a name and its password.
///
/// # Errors
/// If the password is not accepted, no server answers, or the log-in cannot be kept.
pub(in crate::command) async fn log_in(args: &LoginArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let (client, cluster) = stranger(settings).await?;
    let mut passwords = Passwords::of(args.password.password_stdin);
    let password = passwords.old(&format!("Password of {}", args.name)).await?;
    let request = api::LogInRequest {
        name: args.name.clone(),
        password: password.reveal().to_owned(),
        client: session::client_name(),
        label: args.label.clone(),
        expires_in_ms: args.expires.map_or(0, milliseconds),
    };
    let opened = client.people().log_in(request).await;
    client.close().await;
    let opened = opened.map_err(|error| named(of_call(None, &error), &args.name))?;
    begun(settings, cluster, &opened).await
}

/// Makes an account with a password, and logs in.
///
/// # Errors
/// If not everybody may make accounts, the name cannot be had, or as [`log_in`].
pub(in crate::command) async fn register(args: &RegisterArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let (client, cluster) = stranger(settings).await?;
    let mode = client.people().registration().await.map_err(|error| of_call(None, &error))?.registration();
    if mode != api::Registration::Open {
        let what = "accounts are made by invite, or by admins";
        let next = "ask an admin for an invite, and join with its link: conclave join LINK";
        return Err(Failed::new(Exit::NotFound, what, next).with_word("registration_closed").into());
    }
    let mut passwords = Passwords::of(args.password.password_stdin);
    let password = passwords.new_one(&format!("New password of {}", args.name)).await?;
    let request = api::RegisterRequest {
        name: args.name.clone(),
        password: password.reveal().to_owned(),
        client: session::client_name(),
        label: args.label.clone(),
    };
    let opened = client.people().register(request).await;
    client.close().await;
    let opened = opened.map_err(|error| named(of_call(None, &error), &args.name))?;
    begun(settings, cluster, &opened).await
}

/// Makes or claims an account by the link of an invite, and logs in.
///
/// # Errors
/// If the server is not of the cluster that the link names, the invite is not accepted, or as [`log_in`].
pub(in crate::command) async fn join(
    link: &Link,
    args: &JoinArgs,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let settings = &meet(link, settings).await?;
    let cluster = identify(settings).await?;
    let client = session::observer(settings, settings.timeout).await?;
    let answer = client.people().registration().await.map_err(|error| of_call(None, &error))?;
    // The client asks only servers of the identified cluster. What answers here gets the secret.
    if cluster.id.as_ref() != Some(&answer.cluster_id) {
        return Err(of_another(link).into());
    }
    let whose = args.name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let mut passwords = Passwords::of(args.password.password_stdin);
    let password = passwords.new_one(&format!("New password{whose}")).await?;
    let request = api::AcceptInviteRequest {
        invite: link.invite.clone(),
        name: args.name.clone().unwrap_or_default(),
        password: password.reveal().to_owned(),
        client: session::client_name(),
        label: String::new(),
    };
    let opened = client.people().accept_invite(request).await;
    client.close().await;
    let opened = opened.map_err(|error| {
        let failed = of_call(None, &error);
        match &args.name {
            Some(name) => named(failed, name),
            // The cluster does not know the invite, or the invite does not say a name.
            None if failed.is_word("user_name_invalid") => {
                let what = "the invite names nobody: it is for any name, or used up, expired or mistyped";
                let next = "give your name: conclave join LINK NAME; or ask for a new invite";
                Failed::new(Exit::NotFound, what, next).with_word("invite_invalid")
            }
            None => failed,
        }
    })?;
    let joined = begun(settings, cluster, &opened).await;
    let current = Known::new(&settings.state_dir).current();
    if let Some(current) = current.filter(|current| cluster.id.as_ref() != Some(&current.id)) {
        let id = cluster.id.as_deref().unwrap_or_default();
        let text = format!(
            "commands still go to the cluster {}; go over to this one with: conclave use {}",
            safe(current.shown(), ""),
            crate::known::short(id)
        );
        output::note(settings.quiet, &text);
    }
    joined
}

/// A client without a session, of a cluster that may see a password.
async fn stranger(settings: &Settings) -> anyhow::Result<(Client, &Identified)> {
    let client = session::observer(settings, settings.timeout).await?;
    let cluster = identify(settings).await?;
    if cluster.answered.is_none() {
        return Err(no_server(&cluster.last).into());
    }
    cluster.must_be_known(settings, PASSWORD)?;
    Ok((client, cluster))
}

/// The settings for the cluster of a link, once its server has shown that it belongs to it.
async fn meet(link: &Link, settings: &Settings) -> anyhow::Result<Settings> {
    let Link { address, cluster, .. } = link;
    let pinned = settings.anew(vec![Seed::Pinned { address: address.clone(), authority: *cluster }])?;
    let met = identify(&pinned).await?;
    if met.answered.is_some() {
        return Ok(pinned);
    }
    if met.refused.is_none() {
        return Err(no_server(&met.last).into());
    }
    if speaks_tls(address, settings.timeout.min(CLI_WHICH_CLUSTER)).await {
        return Err(of_another(link).into());
    }
    let plain = settings.expecting(cluster.to_string(), Seed::Node(address.clone()));
    let met = identify(&plain).await?;
    match (&met.answered, &met.refused) {
        (Some(_), _) if met.authority.is_none() => Ok(plain),
        (None, Some(refused)) => Err(refused.clone().into()),
        (None, None) if met.others.is_empty() => Err(no_server(&met.last).into()),
        _ => Err(of_another(link).into()),
    }
}

fn of_another(link: &Link) -> Failed {
    let what = format!(
        "the server {} does not prove that it belongs to the cluster {} of the link: the invite was not sent to it",
        link.address, link.cluster
    );
    Failed::new(Exit::Refused, what, "ask whoever invited you for a new link; somebody may be listening")
}

/// Keeps a log-in that has begun, and ends the one before.
async fn begun(settings: &Settings, cluster: &Identified, opened: &OpenedSession) -> anyhow::Result<Exit> {
    let (id, user) = (&opened.session.cluster_id, &opened.session.user);
    keep(settings, cluster, opened).await?;
    if let Some(given) = settings.given_user.as_ref().filter(|given| *given != user) {
        let text =
            format!("--user, CONCLAVE_USER or the configuration file says {given}: commands act as {given}");
        output::note(settings.quiet, &text);
    }
    let json = serde_json::json!({
        "cluster": cluster.name,
        "cluster_id": id,
        "user": user,
        "user_id": opened.session.user_id,
        "session_id": opened.session.id,
    });
    let text = format!("logged in as {user} in the cluster {}", safe(&cluster.name, ""));
    output::done(settings.json, &json, &text);
    Ok(Exit::Ok)
}

/// Keeps a log-in, makes its user the one as whom commands act, and ends the log-in before, which nobody could use any more.
///
/// # Errors
/// If the log-in cannot be kept. It is ended then.
pub(super) async fn keep(
    settings: &Settings,
    cluster: &Identified,
    opened: &OpenedSession,
) -> anyhow::Result<()> {
    let (id, user) = (&opened.session.cluster_id, &opened.session.user);
    let logins = LogIns::new(&settings.state_dir);
    // A log-in that cannot be read is replaced.
    let before = logins.token(id, user).ok().flatten();
    let write = || {
        private::create_dir(&settings.state_dir)?;
        logins.keep(id, user, &opened.token)?;
        logins.set_user(id, user)
    };
    let written = write().map_err(|error| cannot_use(&settings.state_dir, &error));
    let useless = match &written {
        Ok(()) => before,
        Err(_) => crate::login::token(opened.token.as_bytes()),
    };
    if let Some(token) = useless {
        let client = session::with_token(settings, cluster, &token).await?;
        // One that has ended, or cannot be ended now, does no harm.
        let _ = tokio::time::timeout(LOG_OUT_PATIENCE, client.people().log_out()).await;
        client.close().await;
    }
    Ok(written?)
}

/// How long the end of a log-in that was replaced may take.
const LOG_OUT_PATIENCE: Duration = Duration::from_secs(2);

/// The id of a cluster in a link: that of the authority, which servers prove, or else the cluster's own.
pub(super) fn id_in_links(cluster: &Identified) -> Option<CaId> {
    cluster.authority.or_else(|| cluster.id.as_deref()?.parse().ok())
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The failure with the name in its advice.
pub(super) fn named(failed: Failed, name: &str) -> Failed {
    let next = failed.next.replace("NAME", name);
    failed.advising(next)
}
