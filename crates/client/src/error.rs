//! How sending and calling can fail, and what the caller may conclude.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use conclave_core::Refusal;
use conclave_proto::chat;

use crate::find::NotFound;

/// A request that came to nothing, for good or for now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Final: the cluster, or this library before asking it, said no.
    #[error("{message}")]
    Refused {
        /// Stable word, for example `room_unknown`.
        code: String,
        /// For people.
        message: String,
    },
    /// Not decided yet when the caller's time was over. It stays in the outbox and is sent when that is possible.
    #[error("queued, but not acknowledged within {0:?}")]
    Queued(Duration),
    /// The session is not accepted. The request stays in the outbox.
    #[error("{0}")]
    Auth(String),
    /// The outbox on disk could not take it. It will not be sent.
    #[error("the outbox cannot be written: {0}")]
    Outbox(String),
    /// The client was closed. What a durable outbox holds is sent by the next client that opens it.
    #[error("the client is closed")]
    Closed,
}

impl SendError {
    /// A refusal that this library found out by itself.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused { code: refusal.word().to_owned(), message: refusal.to_string() }
    }

    /// The stable word of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::Queued(_) | Self::Auth(_) | Self::Outbox(_) | Self::Closed => None,
        }
    }
}

/// A call (everything that is not a send) that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Final: the answer is no.
    #[error("{message}")]
    Refused {
        /// Stable word, for example `room_unknown`.
        code: String,
        /// For people.
        message: String,
    },
    /// The session is not accepted.
    #[error("{0}")]
    Auth(String),
    /// Servers answered, but none could do it in the time given.
    #[error("no server could do it within {after:?}: {message}")]
    Unavailable {
        /// Stable word of the last answer.
        code: String,
        /// The last answer, for people.
        message: String,
        /// How long it was tried.
        after: Duration,
    },
    /// No server was reachable.
    #[error("no server is reachable within {after:?} ({last})")]
    NoServer {
        /// How long it was tried.
        after: Duration,
        /// The last attempt, for people.
        last: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl CallError {
    /// The stable word, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Unavailable { code, .. } => Some(code),
            Self::Auth(_) | Self::NoServer { .. } | Self::Closed => None,
        }
    }

    /// What a final failure means.
    pub(crate) fn last_word(failure: chat::Failure) -> Self {
        if is_auth(&failure.code) {
            Self::Auth(failure.message)
        } else {
            Self::Refused { code: failure.code, message: failure.message }
        }
    }
}

/// Whether a stable word says that the session is not accepted.
pub(crate) fn is_auth(code: &str) -> bool {
    code == Refusal::SessionUnknown.word()
}

/// A client that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// What the builder was given makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nobody knows a server.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The session could not be opened.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The outbox directory cannot be used.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// An outbox directory that cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// Another process uses it.
    #[error("the outbox {} is in use by another process; use another directory, or wait", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It was made for somebody else.
    #[error("the outbox {} belongs to the user {owner:?}; use another directory", path.display())]
    OtherUser {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// Something changed its bytes.
    #[error(
        "the outbox file {} is damaged at byte {offset}: {what}; move it away to begin a new one \
         (what it held unsent is lost then)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Written by a newer version.
    #[error("the outbox file {} was written by a newer version ({version}); upgrade this one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The file system said no.
    #[error("the outbox {} cannot be used: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}
