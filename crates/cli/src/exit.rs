//! Exit codes. The numbers are part of the interface: scripts branch on them.

use std::fmt;
use std::io;
use std::process::ExitCode;

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

    /// The exit code of a refusal with this stable code.
    pub(crate) fn of_word(word: &str) -> Self {
        match word {
            "room_unknown" | "forbidden" | "not_found" => Self::NotFound,
            "session_unknown" | "unauthenticated" | "not_operator" => Self::Auth,
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
}

impl Failed {
    /// An error with advice.
    pub(crate) fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: next.into() }
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
        assert_eq!(Exit::of_word("session_unknown"), Exit::Auth);
        assert_eq!(Exit::of_word("not_operator"), Exit::Auth);
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
    fn advice_stands_on_its_own_line() {
        let failed = Failed::new(Exit::NotFound, "there is no room #x", "conclave rooms");
        assert_eq!(failed.to_string(), "there is no room #x\n  next: conclave rooms");
    }
}
