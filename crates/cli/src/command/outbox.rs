//! `conclave outbox`: the messages that wait on this machine.

use conclave_client::Kept;
use serde::Serialize;

use crate::args::OutboxCommand;
use crate::exit::{Exit, Failed};
use crate::identify::identify;
use crate::known::{Known, short};
use crate::settings::Settings;
use crate::view::table::{Align, Cell, render};
use crate::view::text::{count, safe};
use crate::{output, session};

/// Characters of a message that are shown in a table.
const TEXT_SHOWN: usize = 60;

#[derive(Debug, Serialize)]
struct Json<'a> {
    cluster: &'a str,
    cluster_id: &'a str,
    user: &'a str,
    outbox: &'a str,
    room: &'a str,
    request_no: u64,
    kind: &'static str,
    body: &'a str,
}

/// Lists, sends or drops the user's waiting messages.
///
/// # Errors
/// If no server answers, or an outbox cannot be read or written.
pub(super) async fn run(command: Option<OutboxCommand>, settings: &Settings) -> anyhow::Result<Exit> {
    match command.unwrap_or(OutboxCommand::List) {
        OutboxCommand::List => list(settings).await,
        OutboxCommand::Flush => flush(settings).await,
        OutboxCommand::Drop { yes } => drop_all(yes, settings).await,
    }
}

async fn list(settings: &Settings) -> anyhow::Result<Exit> {
    let known = Known::new(&settings.state_dir);
    let columns = [
        ("CLUSTER", Align::Left),
        ("OUTBOX", Align::Left),
        ("ROOM", Align::Left),
        ("NO", Align::Right),
        ("MESSAGE", Align::Left),
    ];
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut exit = Exit::Ok;
    for cluster in known.clusters() {
        let user = settings.user_in(&cluster.id);
        for (name, dir) in session::outboxes(settings, &cluster.id) {
            let kept = match Kept::read(&dir).await {
                Ok(kept) => kept,
                Err(error) => {
                    let failed = Failed::new(Exit::Refused, error.to_string(), "");
                    output::passed_over(settings.json, None, &failed);
                    exit = Exit::Refused;
                    continue;
                }
            };
            for pending in &kept.pending {
                let (kind, body) = session::kind_and_text(&pending.content);
                if settings.json {
                    output::json(&Json {
                        cluster: cluster.shown(),
                        cluster_id: &cluster.id,
                        user: &user,
                        outbox: &name,
                        room: &pending.room,
                        request_no: pending.request_no,
                        kind,
                        body,
                    })?;
                    continue;
                }
                let said = if body.is_empty() { kind.to_owned() } else { shown(body) };
                rows.push(vec![
                    format!("{} ({})", safe(cluster.shown(), ""), short(&cluster.id)).into(),
                    safe(&name, "").into(),
                    format!("#{}", safe(&pending.room, "")).into(),
                    pending.request_no.to_string().into(),
                    said.into(),
                ]);
            }
        }
    }
    match (settings.json, rows.is_empty()) {
        (true, _) => {}
        (false, true) => output::note(settings.quiet, &format!("nothing of {} waits here", settings.user())),
        (false, false) => output::block(&render(settings.style, &columns, &rows))?,
    }
    Ok(exit)
}

/// The beginning of a message, on one line.
fn shown(text: &str) -> String {
    let line = safe(&text.replace('\n', " "), "");
    let begin: String = line.chars().take(TEXT_SHOWN).collect();
    if begin.len() < line.len() { format!("{begin} …") } else { begin }
}

async fn flush(settings: &Settings) -> anyhow::Result<Exit> {
    identify(settings).await?.must_answer()?;
    let done = session::send_leftovers(settings, settings.timeout).await;
    let (waiting, refused) = (done.waiting + done.held + done.stuck, done.refused.len());
    let json = serde_json::json!({ "sent": done.sent, "waiting": waiting, "refused": refused });
    let mut said = format!("{} sent, {waiting} waiting", count(done.sent as u64, "message"));
    if done.held > 0 {
        said.push_str(&format!(" ({} in commands that run)", done.held));
    }
    if done.stuck > 0 {
        said.push_str(&format!("; {} {}", count(done.stuck as u64, "message"), session::STUCK));
    }
    if refused > 0 {
        said.push_str(&format!(", {refused} refused"));
    }
    output::done(settings.json, &json, &said);
    Ok(match (refused, waiting) {
        (0, 0) => Exit::Ok,
        (0, _) => Exit::Queued,
        _ => Exit::Refused,
    })
}

async fn drop_all(yes: bool, settings: &Settings) -> anyhow::Result<Exit> {
    let cluster = identify(settings).await?;
    let waiting = session::waiting(settings).await;
    if !yes {
        let what = format!("{} of {} would never be sent", count(waiting as u64, "message"), settings.user());
        let next = "`conclave outbox list` shows them; conclave outbox drop --yes";
        return Err(Failed::new(Exit::Usage, what, next).into());
    }
    let mut dropped = 0;
    for (_, dir) in session::outboxes(settings, cluster.id.as_deref().unwrap_or_default()) {
        if Kept::read(&dir).await.is_ok_and(|kept| kept.pending.is_empty()) {
            continue;
        }
        let kept = Kept::drop_requests(&dir).await.map_err(|error| {
            Failed::new(Exit::Refused, error.to_string(), "wait for the command that runs, or end it")
        })?;
        dropped += kept.pending.len();
    }
    let json = serde_json::json!({ "dropped": dropped });
    output::done(settings.json, &json, &format!("{} dropped", count(dropped as u64, "message")));
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_message_is_shown_on_one_harmless_line() {
        assert_eq!(shown("one\ntwo\x1b[2J"), "one two\u{fffd}[2J");
        assert_eq!(shown(&"x".repeat(61)), format!("{} …", "x".repeat(60)));
    }
}
