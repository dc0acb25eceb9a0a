//! `conclave sessions` and `conclave logout`.

use conclave_client::people::api::close_sessions_request::Which as Closed;
use conclave_client::people::{Service, api};
use conclave_client::{CallError, Kept, People};
use serde::Serialize;

use super::admin::call;
use crate::args::people::{CloseArgs, LogoutArgs, SessionsArgs, SessionsCommand, Which};
use crate::errors::of_call;
use crate::exit::{Exit, Failed};
use crate::identify::{cannot_use, identify};
use crate::login::LogIns;
use crate::settings::{Settings, Style};
use crate::view::table::{Align, Cell, render};
use crate::view::text::{count, safe, stamp};
use crate::{output, session};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Characters of a date in a time stamp.
const DATE: usize = 10;
/// Characters of the time stamps in a table: up to the minute.
const MINUTE: usize = 16;

#[derive(Debug, Serialize)]
struct Json<'a> {
    session_id: u64,
    kind: &'static str,
    label: &'a str,
    client: &'a str,
    opened: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    last_seen: String,
    current: bool,
}

/// Lists or ends sessions.
///
/// # Errors
/// If the user has no session, or the caller is no admin where that is needed.
pub(in crate::command) async fn sessions(args: &SessionsArgs, settings: &Settings) -> anyhow::Result<Exit> {
    match &args.command {
        None => list(args, settings).await,
        Some(SessionsCommand::Close(close)) => end(close, args, settings).await,
    }
}

async fn list(args: &SessionsArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let sessions = if let Some(name) = &args.subject {
        let question = api::ListSessionsRequest { user: name.clone() };
        let list = async |mut people: Service, request| people.list_sessions(request).await;
        call(args.admin.admin_token_file.as_deref(), settings, question, list).await?.sessions
    } else {
        let client = session::member(settings).await?;
        let listed = client.people().sessions("").await;
        session::close(client).await;
        listed.map_err(|error| of_call(None, &error))?
    };
    if settings.json {
        for one in &sessions {
            output::json(&Json {
                session_id: one.session_id,
                kind: kind(one),
                label: &one.label,
                client: &one.client,
                opened: stamp(one.opened_ms),
                expires: (one.expires_ms != 0).then(|| stamp(one.expires_ms)),
                last_seen: last_seen(one),
                current: one.current,
            })?;
        }
    } else {
        output::block(&table(settings.style, &sessions))?;
    }
    Ok(Exit::Ok)
}

fn kind(session: &api::Session) -> &'static str {
    match session.kind() {
        api::SessionKind::Login => "login",
        api::SessionKind::Access => "token",
        api::SessionKind::Bot => "bot",
    }
}

/// The day on which a session was last seen.
fn last_seen(session: &api::Session) -> String {
    stamp(i64::from(session.seen_day) * DAY_MS).chars().take(DATE).collect()
}

fn table(style: Style, sessions: &[api::Session]) -> String {
    let columns = [
        ("ID", Align::Right),
        ("", Align::Left),
        ("KIND", Align::Left),
        ("OPENED", Align::Left),
        ("LAST SEEN", Align::Left),
        ("CLIENT", Align::Left),
        ("LABEL", Align::Left),
    ];
    let row = |one: &api::Session| -> Vec<Cell> {
        let opened: String = stamp(one.opened_ms).replace('T', " ").chars().take(MINUTE).collect();
        vec![
            one.session_id.to_string().into(),
            if one.current { "*" } else { "" }.into(),
            kind(one).into(),
            opened.into(),
            last_seen(one).into(),
            safe(&one.client, "").into(),
            safe(&one.label, "").into(),
        ]
    };
    render(style, &columns, &sessions.iter().map(row).collect::<Vec<_>>())
}

async fn end(close: &CloseArgs, args: &SessionsArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let which = match (close.which, &args.subject) {
        (Which::One(id), _) => Closed::SessionId(id),
        (Which::All, Some(name)) => Closed::User(name.clone()),
        (Which::All, None) => Closed::All(true),
        (Which::Others, None) => Closed::Others(true),
        (Which::Others, Some(_)) => {
            let next = "conclave sessions close all --for NAME";
            return Err(Failed::new(Exit::Usage, "`others` are those of your own log-in", next).into());
        }
    };
    if args.subject.is_some() {
        let question = api::CloseSessionsRequest { which: Some(which) };
        let close = async |mut people: Service, request| people.close_sessions(request).await;
        call(args.admin.admin_token_file.as_deref(), settings, question, close).await?;
    } else {
        if !matches!(which, Closed::SessionId(_)) {
            nothing_waits(settings, close.force).await?;
        }
        let client = session::member(settings).await?;
        let closed = client.people().close_sessions(which).await;
        session::close(client).await;
        closed.map_err(|error| match error {
            CallError::Auth(_) if matches!(close.which, Which::One(_)) => {
                let what = "you have no open session with this number";
                Failed::new(Exit::NotFound, what, "conclave sessions").with_word("session_unknown")
            }
            error => of_call(None, &error),
        })?;
        if close.which == Which::All {
            forget(settings).await?;
        }
    }
    let (json, text) = match close.which {
        Which::One(id) => (id.to_string(), format!("the session {id} is closed")),
        Which::Others => ("others".to_owned(), "all other sessions are closed".to_owned()),
        Which::All => ("all".to_owned(), "all sessions are closed".to_owned()),
    };
    output::done(settings.json, &serde_json::json!({ "closed": json }), &text);
    Ok(Exit::Ok)
}

/// Checks that no message waits for the cluster on this machine: without its session it could not be sent.
///
/// # Errors
/// If messages wait, unless that is forced.
pub(super) async fn nothing_waits(settings: &Settings, force: bool) -> anyhow::Result<()> {
    identify(settings).await?;
    let waiting = session::waiting(settings).await;
    if waiting == 0 || force {
        return Ok(());
    }
    let what = format!("{} of {} would not be sent any more", wait(waiting), settings.user());
    let next = "send what waits: conclave outbox flush; or go on with --force: then it stays in `conclave outbox list`";
    Err(Failed::new(Exit::Refused, what, next).with_word("messages_wait").into())
}

fn wait(waiting: usize) -> String {
    format!(
        "{} that {} in the outbox",
        count(waiting as u64, "message"),
        if waiting == 1 { "waits" } else { "wait" }
    )
}

/// Ends the log-in of this machine, and the sessions of its outboxes.
///
/// # Errors
/// If there is no log-in, messages wait, or no server answers.
pub(in crate::command) async fn log_out(args: &LogoutArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    let id = cluster.id.clone().unwrap_or_default();
    let user = settings.user_in(&id);
    let Some(token) = LogIns::new(&settings.state_dir).token(&id, &user)? else {
        let what = format!("{user} is not logged in on this machine");
        return Err(Failed::new(Exit::Auth, what, "conclave login NAME").with_word("not_logged_in").into());
    };
    nothing_waits(settings, args.force).await?;
    let client = session::with_token(settings, cluster, &token).await?;
    let people = client.people();
    let ended = async {
        end_outboxes(&people, settings, &id).await?;
        people.log_out().await
    };
    let ended = ended.await;
    client.close().await;
    match ended {
        // It was ended elsewhere.
        Ok(()) | Err(CallError::Auth(_)) => {}
        Err(error) => return Err(of_call(None, &error).into()),
    }
    forget(settings).await?;
    let json = serde_json::json!({ "cluster_id": id, "user": user, "logged_out": true });
    output::done(settings.json, &json, &format!("{user} is logged out"));
    Ok(Exit::Ok)
}

/// Ends the sessions of the user's outboxes on this machine.
async fn end_outboxes(people: &People, settings: &Settings, cluster_id: &str) -> Result<(), CallError> {
    let open = people.sessions("").await?;
    for (_, dir) in session::outboxes(settings, cluster_id) {
        // `conclave outbox list` reports an outbox that cannot be read.
        let Ok(kept) = Kept::read(&dir).await else { continue };
        if open.iter().any(|one| one.session_id == kept.session_id && !one.current) {
            match people.close_sessions(Closed::SessionId(kept.session_id)).await {
                // It has ended meanwhile.
                Ok(()) | Err(CallError::Auth(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Removes what this machine has of a log-in that has ended. Outboxes in which messages wait stay as they are.
async fn forget(settings: &Settings) -> anyhow::Result<()> {
    let id = identify(settings).await?.id.clone().unwrap_or_default();
    for (_, dir) in session::outboxes(settings, &id) {
        // One that is in use, or cannot be written, has a session that has ended, and is mended with the next log-in.
        let _ = Kept::forget_session(&dir).await;
    }
    let forgotten = LogIns::new(&settings.state_dir).forget(&id, &settings.user_in(&id));
    Ok(forgotten.map_err(|error| cannot_use(&settings.state_dir, &error))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_as_a_table() {
        let session = |session_id, current, label: &str| api::Session {
            session_id,
            label: label.to_owned(),
            client: "conclave-cli/1".to_owned(),
            opened_ms: 1_700_000_000_000,
            seen_day: 19_676,
            current,
            ..api::Session::default()
        };
        let sessions = [session(8, true, ""), session(41, false, "laptop")];
        let expected = "\
ID     KIND   OPENED            LAST SEEN   CLIENT          LABEL
 8  *  login  2023-11-14 22:13  2023-11-15  conclave-cli/1
41     login  2023-11-14 22:13  2023-11-15  conclave-cli/1  laptop
";
        assert_eq!(table(Style::default(), &sessions), expected);
    }
}
