//! Exit codes. The numbers are part of the interface: scripts branch on them.

use std::fmt;
use std::io;
use std::process::ExitCode;

use serde::Serialize;

/// The exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Success.
    Ok,
    /// The cluster or this program refused the command.
    Refused,
    /// The command line was wrong.
    Usage,
    /// The session or the admin token was not accepted.
    Auth,
    /// The room does not exist, or access is forbidden.
    NotFound,
    /// The message is in the outbox on disk and not committed yet.
    Queued,
    /// No server answered.
    NoServer,
    /// The events read break a guarantee.
    Verification,
}

impl Exit {
    /// The number of the exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Auth => 3,
            Self::NotFound => 4,
            Self::Queued => 5,
            Self::NoServer => 6,
            Self::Verification => 7,
        }
    }

    /// The stable word of an error that has none of its own.
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::Auth => "not_authenticated",
            Self::NotFound => "not_found",
            Self::Queued => "queued",
            Self::NoServer => "no_server",
            Self::Verification => "verification_failed",
        }
    }

    /// The exit code of a refusal with this stable code.
    pub(crate) fn of_word(word: &str) -> Self {
        match word {
            "room_unknown"
            | "forbidden"
            | "not_found"
            | "not_a_member"
            | "not_allowed"
            | "not_yours"
            | "banned"
            | "muted"
            | "user_unknown"
            | "no_such_member"
            | "not_admin"
            | "user_disabled"
            | "invite_invalid"
            | "registration_closed" => Self::NotFound,
            "session_unknown" | "session_ended" | "session_needed" | "login_required" | "wrong_password"
            | "unauthenticated" | "not_operator" => Self::Auth,
            _ => Self::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error with its exit code and advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The error, without a full stop.
    pub(crate) what: String,
    /// Advice what to do; may be empty.
    pub(crate) next: String,
    /// The stable code of a server's refusal.
    word: Option<String>,
}

/// An error for programs. Its keys never change their meaning.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct JsonError {
    /// A stable word: the code of a server's refusal, or one for the exit code.
    error: String,
    message: String,
    next: Option<String>,
    /// The exit code of the command if this is its last error.
    exit: u8,
    /// The number of the line of input that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
}

impl JsonError {
    /// The error for programs.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Failed>() {
            Some(failed) => Self::of_failed(failed, None),
            None => Self::of_failed(&Failed::new(Exit::Refused, format!("{error:#}"), ""), None),
        }
    }

    /// The error for programs, about a line of input.
    pub(crate) fn of_failed(failed: &Failed, line: Option<u64>) -> Self {
        Self {
            error: failed.word.clone().unwrap_or_else(|| failed.exit.word().to_owned()),
            message: failed.what.clone(),
            next: Some(failed.next.clone()).filter(|next| !next.is_empty()),
            exit: failed.exit.code(),
            line,
        }
    }
}

impl Failed {
    /// An error with advice.
    pub(crate) fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into(), word: None }
    }

    /// Whether this is the stable code of the refusal.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.word.as_deref() == Some(word)
    }

    /// The same error in other words.
    pub(crate) fn saying(self, what: impl Into<String>) -> Self {
        Self { what: what.into(), ..self }
    }

    /// The same error with other advice.
    pub(crate) fn advising(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }

    /// The same error with the stable code of a server's refusal.
    pub(crate) fn with_word(self, word: &str) -> Self {
        Self { word: Some(word.to_owned()).filter(|word| !word.is_empty()), ..self }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

/// The exit code of an error. A closed stdout is a success: the reader has what it wanted (`conclave history general |
/// head -1`).
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Ok;
    }
    error.downcast_ref::<Failed>().map_or(Exit::Refused, |failed| failed.exit)
}

/// Whether the error is that stdout was closed by its reader.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_numbers_never_change() {
        let all = [
            Exit::Ok,
            Exit::Refused,
            Exit::Usage,
            Exit::Auth,
            Exit::NotFound,
            Exit::Queued,
            Exit::NoServer,
            Exit::Verification,
        ];
        for (number, exit) in all.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), number);
        }
    }

    #[test]
    fn each_refusal_has_its_exit_code() {
        assert_eq!(Exit::of_word("room_unknown"), Exit::NotFound);
        assert_eq!(Exit::of_word("not_a_member"), Exit::NotFound);
        assert_eq!(Exit::of_word("session_unknown"), Exit::Auth);
        assert_eq!(Exit::of_word("not_operator"), Exit::Auth);
        assert_eq!(Exit::of_word("login_required"), Exit::Auth);
        assert_eq!(Exit::of_word("wrong_password"), Exit::Auth);
        assert_eq!(Exit::of_word("not_admin"), Exit::NotFound);
        assert_eq!(Exit::of_word("text_too_long"), Exit::Refused);
    }

    #[test]
    fn each_error_has_its_exit_code() {
        let queued = anyhow::Error::from(Failed::new(Exit::Queued, "x", "")).context("send");
        assert_eq!(of_error(&queued), Exit::Queued);
        assert_eq!(of_error(&anyhow::anyhow!("anything")), Exit::Refused);
        let pipe: anyhow::Result<()> =
            Err(io::Error::from(io::ErrorKind::BrokenPipe)).context("write to stdout");
        assert_eq!(of_error(&pipe.unwrap_err()), Exit::Ok);
    }

    #[test]
    fn an_error_for_programs_has_a_stable_word() {
        let failed = Failed::new(Exit::NotFound, "there is no room #x", "").with_word("room_unknown");
        let json = |error: &JsonError| serde_json::to_string(error).unwrap();
        assert_eq!(
            json(&JsonError::of(&failed.into())),
            r##"{"error":"room_unknown","message":"there is no room #x","next":null,"exit":4}"##
        );
        assert_eq!(
            json(&JsonError::of_failed(&Failed::new(Exit::NoServer, "none", "start one"), Some(7))),
            r#"{"error":"no_server","message":"none","next":"start one","exit":6,"line":7}"#
        );
        assert_eq!(JsonError::of(&anyhow::anyhow!("x")).error, "refused");
    }

    #[test]
    fn advice_stands_on_its_own_line() {
        let failed = Failed::new(Exit::NotFound, "there is no room #x", "conclave rooms");
        assert_eq!(failed.to_string(), "there is no room #x\n  next: conclave rooms");
    }
}
