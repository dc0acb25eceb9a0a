//! How a command ends. The numbers are part of the interface: scripts branch on them.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// What the process tells its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// The cluster or this program said no, for good.
    Refused,
    /// The command line was wrong.
    Usage,
    /// Who you are was not accepted.
    Auth,
    /// The room is not there, or not for you.
    NotFound,
    /// Safe in the outbox, but not committed yet.
    Queued,
    /// No server answered.
    NoServer,
    /// What was read is not what was promised.
    Verification,
}

impl Exit {
    /// The number.
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

    /// What a refusal with this stable word means for the one who typed the command.
    pub(crate) fn of_word(word: &str) -> Self {
        match word {
            "room_unknown" | "forbidden" | "not_found" => Self::NotFound,
            "session_unknown" | "unauthenticated" => Self::Auth,
            _ => Self::Refused,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that knows its exit code and what to run next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What went wrong, without a full stop.
    pub(crate) what: String,
    /// What to do now; may be empty.
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

/// The code of an error. A reader who went away (`conclave history general | head -1`) has what it wanted.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Ok;
    }
    error.downcast_ref::<Failed>().map_or(Exit::Refused, |failed| failed.exit)
}

/// Whether the error is that nobody reads our output any more.
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
    fn refusals_have_the_code_of_their_word() {
        assert_eq!(Exit::of_word("room_unknown"), Exit::NotFound);
        assert_eq!(Exit::of_word("session_unknown"), Exit::Auth);
        assert_eq!(Exit::of_word("text_too_long"), Exit::Refused);
    }

    #[test]
    fn errors_have_codes() {
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
