//! Turns errors of the client library into an exit code and advice.

use conclave_client::find::{Found, NotFound};
use conclave_client::{CallError, Client, ConnectError, SendError};
use conclave_core::Refusal;
use conclave_proto::chat::GetServerStatusResponse;
use conclave_proto::status::TOO_MANY_CONNECTIONS;

use crate::exit::{Exit, Failed};
use crate::identify::{Identified, Other};
use crate::known::short;
use crate::login::LogIns;
use crate::settings::Settings;
use crate::view::text::safe;

/// Advice if the cluster does not know the session; a cluster never loses sessions unless its data was removed.
const NO_SESSION: &str = "if the cluster was created anew, give another --state-dir, or remove this user's sessions \
                          (STATE_DIR/CLUSTER_ID/USER), which drops the unsent messages there";
const NO_SERVER: &str = "start a cluster with `conclave up`, or name its servers with --server HOST:PORT; `conclave doctor` says more";
/// Stands for the user's name in advice.
const NAME: &str = "NAME";
/// Advice for a session that was ended.
const LOGIN: &str = "conclave login NAME";
/// The same for the token of a program.
const TOKEN: &str = "put another token into CONCLAVE_TOKEN: conclave token create";
const STATUS: &str = "conclave status";
const NO_QUORUM: &str =
    "start the servers that are down (`conclave status`); reading works meanwhile, without --linearizable";

/// The failure of a request.
pub(crate) fn of_send(room: &str, error: &SendError) -> Failed {
    match error {
        SendError::Refused { code, message } => of_refusal(Some(room), code, message),
        SendError::Queued(_) => Failed::new(
            Exit::Queued,
            format!(
                "{error}; it is safe in the outbox and is sent, once, by the next command that reaches the cluster"
            ),
            "conclave outbox flush; `conclave status` shows the cluster",
        ),
        SendError::Auth(why) => {
            let failed = of_auth(why);
            let what = format!("{}; what was to be sent stays in the outbox", failed.what);
            failed.saying(what)
        }
        SendError::Outbox(_) => Failed::new(
            Exit::Refused,
            format!("{error}; nothing was sent"),
            "free some disk space, or give another --state-dir",
        ),
        other => Failed::new(Exit::Refused, other.to_string(), ""),
    }
}

/// The failure of a request; of one that stays in the outbox also why, if the servers are full.
pub(crate) fn of_send_at(client: &Client, room: &str, error: &SendError) -> Failed {
    let mut failed = of_send(room, error);
    if let (SendError::Queued(_), Some(why)) = (error, client.full()) {
        failed.what.push_str(&format!("\n  {}", full(&why).what));
        failed.next = full(&why).next;
    }
    failed
}

/// The failure of a call. `room` is the room that the call concerned.
pub(crate) fn of_call(room: Option<&str>, error: &CallError) -> Failed {
    match error {
        CallError::Refused { code, message } => of_refusal(room, code, message),
        CallError::Auth(why) => of_auth(why),
        CallError::Unavailable { code, message, .. } if is_full(code) => full(message),
        // A server was reachable, but the cluster could not complete the call.
        CallError::Unavailable { code, .. } => {
            let next = if code == "no_quorum" { NO_QUORUM } else { STATUS };
            Failed::new(Exit::NoServer, error.to_string(), next).with_word(code)
        }
        CallError::NoServer { .. } => Failed::new(Exit::NoServer, error.to_string(), NO_SERVER),
        other => Failed::new(Exit::Refused, other.to_string(), ""),
    }
}

/// The failure to build a client.
pub(crate) fn of_connect(error: &ConnectError) -> Failed {
    match error {
        ConnectError::Invalid(what) => Failed::new(Exit::Usage, what, "conclave --help"),
        // `explain` adds the sources that were searched.
        ConnectError::NotFound(_) => no_server(&LastAttempt::default()),
        ConnectError::Call(call) => of_call(None, call),
        ConnectError::SessionEnded { .. } => {
            let next = "see what waits: conclave outbox list; send again what is missing, and give up the rest: \
                        conclave outbox drop";
            Failed::new(Exit::Auth, error.to_string(), next).with_word(Refusal::SessionEnded.word())
        }
        ConnectError::Outbox(_) => Failed::new(Exit::Refused, error.to_string(), "give another --state-dir"),
        other => Failed::new(Exit::Refused, other.to_string(), ""),
    }
}

/// The failure of a session that is not accepted.
fn of_auth(why: &str) -> Failed {
    if why == Refusal::SessionEnded.to_string() {
        return Failed::new(Exit::Auth, why, LOGIN).with_word(Refusal::SessionEnded.word());
    }
    Failed::new(Exit::Auth, why, NO_SESSION)
}

/// Advice for a refusal that is about no room; may be empty.
fn advice(code: &str) -> &'static str {
    match code {
        "login_required" => {
            "conclave login NAME; who has no account yet asks an admin for an invite, or tries: conclave register NAME"
        }
        "wrong_password" => "try again; an admin sets a new password with: conclave passwd --for NAME",
        "session_needed" => LOGIN,
        "invite_invalid" => "ask for a new invite: it may be used up, expired, or for another name",
        "registration_closed" => "ask an admin for an invite, and join with its link: conclave join LINK",
        "name_taken" => "if it is yours: conclave login NAME; else choose another one",
        "name_looks_alike" | "name_reserved" => "choose another name",
        "not_admin" => {
            "ask an admin of the cluster (`conclave users` shows them), or give --admin-token-file"
        }
        "user_disabled" => "ask an admin of the cluster: conclave admin user NAME --enable",
        "user_unknown" => "conclave users",
        _ => "",
    }
}

fn of_refusal(room: Option<&str>, code: &str, message: &str) -> Failed {
    let exit = Exit::of_word(code);
    let failed = match (exit, room) {
        (Exit::NotFound, Some(room)) if code == Refusal::RoomUnknown.word() => Failed::new(
            exit,
            format!("there is no room #{room}"),
            format!("`conclave rooms` lists them, `conclave create {room}` makes it"),
        ),
        (Exit::NotFound, Some(room)) if code == Refusal::NotAMember.word() => Failed::new(
            exit,
            format!("you are not a member of #{room}"),
            format!(
                "`conclave join {room}` if the room is open; else a member adds you: `conclave add {room} NAME`"
            ),
        ),
        (Exit::NotFound, Some(room)) => {
            Failed::new(exit, format!("#{room}: {message}"), format!("conclave members {room}"))
        }
        _ => Failed::new(exit, message, advice(code)),
    };
    failed.with_word(code)
}

/// The failure of the last attempt to reach a server, without the timeout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastAttempt {
    /// The reason, for people; empty if there was no attempt.
    pub(crate) why: String,
    /// Whether the server answered that it is full.
    pub(crate) is_full: bool,
}

impl From<String> for LastAttempt {
    fn from(why: String) -> Self {
        Self { why, is_full: false }
    }
}

pub(crate) fn last_attempt(error: &CallError) -> LastAttempt {
    match error {
        CallError::NoServer { last, .. } => last.clone().into(),
        CallError::Unavailable { code, message, .. } if is_full(code) => {
            LastAttempt { why: message.clone(), is_full: true }
        }
        other => other.to_string().into(),
    }
}

fn is_full(code: &str) -> bool {
    matches!(code, TOO_MANY_CONNECTIONS | "node_full")
}

/// The error that all servers that answer are full.
pub(crate) fn full(why: &str) -> Failed {
    let next = "try again later; the operator can start more servers, or raise --max-clients or --max-connections-per-address";
    Failed::new(Exit::NoServer, format!("every server that answers is full: {why}"), next)
}

/// The error that no server answered.
pub(crate) fn no_server(last: &LastAttempt) -> Failed {
    if last.is_full {
        return full(&last.why);
    }
    let why = if last.why.is_empty() { String::new() } else { format!(" ({})", last.why) };
    Failed::new(Exit::NoServer, format!("no server answers{why}"), NO_SERVER)
}

/// The error that a majority of the servers is needed and does not answer.
pub(crate) fn no_majority(status: &GetServerStatusResponse) -> Failed {
    let answer = status.nodes.iter().filter(|node| node.reachable).count();
    let what = format!("no majority of the servers answers: {answer} of {}", status.nodes.len());
    Failed::new(Exit::NoServer, what, NO_QUORUM).with_word("no_quorum")
}

/// Adds to an error that the cluster did not answer: which other clusters were found, and where servers were searched.
pub(crate) async fn explain(error: anyhow::Error, settings: &Settings) -> anyhow::Error {
    let mut failed = match error.downcast::<Failed>() {
        Ok(failed) if matches!(failed.exit, Exit::NoServer | Exit::Queued) => failed,
        Ok(failed) if failed.exit == Exit::Auth => return ended(failed, settings).into(),
        Ok(other) => return other.into(),
        Err(other) => return other,
    };
    if let Some(cluster) = settings.identified.get() {
        name_others(&mut failed, cluster);
    }
    if failed.exit == Exit::NoServer && !failed.is_word("no_quorum") {
        failed.what.push_str(&searched_sources(&settings.search.found().await));
    }
    failed.into()
}

/// The failure of a session that is not accepted, with the user's name. A cluster forgets sessions that have ended: what it does not
/// know was ended if it came from a log-in.
fn ended(failed: Failed, settings: &Settings) -> Failed {
    let user = settings.user();
    let cluster_id = settings.identified.get().and_then(|cluster| cluster.id.clone()).unwrap_or_default();
    let has_login =
        LogIns::new(&settings.state_dir).token(&cluster_id, &user).is_ok_and(|login| login.is_some());
    let of_session = failed.next == NO_SESSION || failed.next == LOGIN;
    let failed = match of_session && (has_login || settings.token.is_some()) {
        true => {
            let what =
                failed.what.replace(&Refusal::SessionUnknown.to_string(), &Refusal::SessionEnded.to_string());
            let next = if settings.token.is_some() { TOKEN } else { LOGIN };
            failed.saying(what).advising(next).with_word(Refusal::SessionEnded.word())
        }
        false => failed,
    };
    let next = failed.next.replace(NAME, &user);
    failed.advising(next)
}

/// Says that another cluster was found and left alone.
fn name_others(failed: &mut Failed, cluster: &Identified) {
    if let (None, Some(refused)) = (&cluster.answered, &cluster.refused) {
        failed.what.push_str(&format!("\n  {}", refused.what));
        failed.next.clone_from(&refused.next);
    }
    let (None, [first, ..]) = (&cluster.answered, cluster.others.as_slice()) else { return };
    let named = |other: &Other| {
        format!("{} ({}) at {}", safe(&other.name, ""), short(&other.id), safe(&other.address, ""))
    };
    let others: Vec<String> = cluster.others.iter().map(named).collect();
    failed.what.push_str(&format!(
        "\n  your cluster {} ({}) does not answer; another one was found and is left alone: {}",
        safe(&cluster.name, ""),
        cluster.id.as_deref().map_or("", short),
        others.join(", ")
    ));
    failed.next = format!(
        "start your cluster, or go over to the other one with: conclave use {}",
        safe(&first.address, "")
    );
}

/// The searched sources, one line each.
fn searched_sources(result: &Result<Found, NotFound>) -> String {
    let (notes, found) = match result {
        Ok(found) => (&found.notes, Some(found)),
        Err(not_found) => (&not_found.notes, None),
    };
    let mut text: String = notes.iter().map(|note| format!("\n  tried: {}", safe(note, ""))).collect();
    if let Some(found) = found {
        text.push_str(&format!("\n  tried: {}: {}", found.source, found.addresses().join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use conclave_client::find::{Candidate, Source};

    use super::*;

    #[test]
    fn searched_sources_are_listed_in_order() {
        let notes = vec!["the name server 127.0.0.1:7453 does not answer".to_owned()];
        let candidates = vec![Candidate::at("a:1"), Candidate::at("b:2")];
        let found = Found { candidates, fresh_for: None, source: Source::Default, notes: notes.clone() };
        assert_eq!(
            searched_sources(&Ok(found)),
            "\n  tried: the name server 127.0.0.1:7453 does not answer\n  tried: the default addresses: a:1, b:2"
        );
        assert_eq!(searched_sources(&Err(NotFound { notes })).lines().count(), 2);
    }

    #[test]
    fn another_cluster_is_named_and_how_to_go_over_to_it() {
        let other = Other { id: "cd".repeat(16), name: "local-2".into(), address: "b:1".into() };
        let mut cluster = Identified {
            id: Some("ab".repeat(16)),
            name: "play".into(),
            authority: None,
            net: conclave_client::Net::System,
            answered: None,
            others: vec![other],
            is_known: true,
            refused: None,
            last: LastAttempt::default(),
        };
        let mut queued = of_send("ops", &SendError::Queued(Duration::from_secs(1)));
        name_others(&mut queued, &cluster);
        for part in
            ["outbox", "your cluster play (abababab)", "local-2 (cdcdcdcd) at b:1", "conclave use b:1"]
        {
            assert!(queued.to_string().contains(part), "{part}: {queued}");
        }
        cluster.answered = Some("a:1".into());
        let mut queued = of_send("ops", &SendError::Queued(Duration::from_secs(1)));
        name_others(&mut queued, &cluster);
        assert!(!queued.to_string().contains("local-2"), "{queued}");
    }

    #[test]
    fn each_send_error_has_its_exit_code() {
        let refused = |code: &str| SendError::Refused { code: code.into(), message: "no".into() };
        let exits = [
            (refused("room_unknown"), Exit::NotFound),
            (refused("text_too_long"), Exit::Refused),
            (SendError::Queued(Duration::from_secs(1)), Exit::Queued),
            (SendError::Auth("who?".into()), Exit::Auth),
            (SendError::Outbox("full".into()), Exit::Refused),
        ];
        for (error, exit) in exits {
            assert_eq!(of_send("ops", &error).exit, exit, "{error:?}");
        }
        let unknown = of_send("ops", &refused("room_unknown"));
        assert!(unknown.next.contains("conclave create ops"), "{unknown}");
        let json = serde_json::to_value(crate::exit::JsonError::of_failed(&unknown, None)).unwrap();
        assert_eq!(json["error"], "room_unknown");
    }

    #[test]
    fn each_call_error_has_its_exit_code() {
        let gone = CallError::NoServer { after: Duration::from_secs(1), last: "refused".into() };
        assert_eq!(of_call(None, &gone).exit, Exit::NoServer);
        let auth = ConnectError::Call(CallError::Auth("who?".into()));
        assert_eq!(of_connect(&auth).exit, Exit::Auth);
    }
}
