//! What went wrong in the client library, as an exit code and what to run next.

use conclave_client::find::{Found, NotFound};
use conclave_client::{CallError, ConnectError, SendError};

use crate::exit::{Exit, Failed};
use crate::settings::Settings;
use crate::view::text::safe;

/// The cluster lost what it knew of its sessions, which it never does by itself.
const NO_SESSION: &str = "if the cluster began anew, remove this user's sessions (STATE_DIR/CLUSTER_ID/USER, with what is \
                          queued there), or give another --state-dir";
const NO_SERVER: &str = "start a cluster with `conclave up`, or name its servers with --server HOST:PORT; `conclave doctor` says more";
const STATUS: &str = "conclave status";

/// A request that failed.
pub(crate) fn of_send(room: &str, error: &SendError) -> Failed {
    match error {
        SendError::Refused { code, message } => of_refusal(Some(room), code, message),
        SendError::Queued(_) => Failed::new(
            Exit::Queued,
            format!("{error}; it is safe in the outbox and is sent, once, by the next command"),
            STATUS,
        ),
        SendError::Auth(_) => Failed::new(Exit::Auth, error.to_string(), NO_SESSION),
        SendError::Outbox(_) => Failed::new(
            Exit::Refused,
            format!("{error}; nothing was sent"),
            "free some disk space, or give another --state-dir",
        ),
        other => Failed::new(Exit::Refused, other.to_string(), ""),
    }
}

/// A call that failed; `room` is the one it was about.
pub(crate) fn of_call(room: Option<&str>, error: &CallError) -> Failed {
    match error {
        CallError::Refused { code, message } => of_refusal(room, code, message),
        CallError::Auth(_) => Failed::new(Exit::Auth, error.to_string(), NO_SESSION),
        // A server answered, so one is reachable; the cluster as a whole could not do it.
        CallError::Unavailable { .. } => Failed::new(Exit::NoServer, error.to_string(), STATUS),
        CallError::NoServer { .. } => Failed::new(Exit::NoServer, error.to_string(), NO_SERVER),
        other => Failed::new(Exit::Refused, other.to_string(), ""),
    }
}

/// A client that could not be made.
pub(crate) fn of_connect(error: &ConnectError) -> Failed {
    match error {
        ConnectError::Invalid(what) => Failed::new(Exit::Usage, what, "conclave --help"),
        // Where it was looked for is said by `explain`.
        ConnectError::NotFound(_) => no_server(""),
        ConnectError::Call(call) => of_call(None, call),
        ConnectError::Outbox(_) => Failed::new(Exit::Refused, error.to_string(), "give another --state-dir"),
        other => Failed::new(Exit::Refused, other.to_string(), ""),
    }
}

fn of_refusal(room: Option<&str>, code: &str, message: &str) -> Failed {
    let exit = Exit::of_word(code);
    match (exit, room) {
        (Exit::NotFound, Some(room)) => Failed::new(
            exit,
            format!("there is no room #{room}"),
            format!("`conclave rooms` lists them, `conclave create {room}` makes it"),
        ),
        _ => Failed::new(exit, message, ""),
    }
}

/// What the last attempt said, without how long it was tried.
pub(crate) fn last_attempt(error: &CallError) -> String {
    match error {
        CallError::NoServer { last, .. } => last.clone(),
        other => other.to_string(),
    }
}

/// No server answered.
pub(crate) fn no_server(last: &str) -> Failed {
    let why = if last.is_empty() { String::new() } else { format!(" ({last})") };
    Failed::new(Exit::NoServer, format!("no server answers{why}"), NO_SERVER)
}

/// Says where servers were looked for, in an error that means that none answers.
pub(crate) async fn explain(error: anyhow::Error, settings: &Settings) -> anyhow::Error {
    let mut failed = match error.downcast::<Failed>() {
        Ok(failed) if failed.exit == Exit::NoServer => failed,
        Ok(other) => return other.into(),
        Err(other) => return other,
    };
    failed.what.push_str(&looked(&settings.search.found().await));
    failed.into()
}

/// One line for each place.
fn looked(result: &Result<Found, NotFound>) -> String {
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
    fn what_was_tried_is_said_in_order() {
        let notes = vec!["the name server 127.0.0.1:7453 does not answer".to_owned()];
        let candidates = vec![Candidate::at("a:1"), Candidate::at("b:2")];
        let found = Found { candidates, fresh_for: None, source: Source::Default, notes: notes.clone() };
        assert_eq!(
            looked(&Ok(found)),
            "\n  tried: the name server 127.0.0.1:7453 does not answer\n  tried: the default addresses: a:1, b:2"
        );
        assert_eq!(looked(&Err(NotFound { notes })).lines().count(), 2);
    }

    #[test]
    fn sends_fail_with_the_code_that_scripts_expect() {
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
    }

    #[test]
    fn calls_fail_with_the_code_that_scripts_expect() {
        let gone = CallError::NoServer { after: Duration::from_secs(1), last: "refused".into() };
        assert_eq!(of_call(None, &gone).exit, Exit::NoServer);
        let auth = ConnectError::Call(CallError::Auth("who?".into()));
        assert_eq!(of_connect(&auth).exit, Exit::Auth);
    }
}
