//! Errors of sends and calls, and what the caller may conclude from them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use conclave_core::Refusal;
use conclave_proto::chat;
use conclave_proto::status::{NOT_YET, READS_ONLY};

use crate::find::NotFound;

/// A request that failed, or that has no outcome yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Final: the cluster, or this library before sending, refused the request.
    #[error("{message}")]
    Refused {
        /// Stable code, for example `room_unknown`.
        code: String,
        /// The reason, for people.
        message: String,
    },
    /// No outcome within the caller's timeout. The request stays in the outbox and is sent when a server is reachable.
    #[error("queued, but not acknowledged within {0:?}")]
    Queued(Duration),
    /// The session is not accepted. The request stays in the outbox.
    #[error("{0}")]
    Auth(String),
    /// The outbox on disk could not be written. The request will not be sent.
    #[error("the outbox cannot be written: {0}")]
    Outbox(String),
    /// The client was closed. The next client that opens the durable outbox sends its requests.
    #[error("the client is closed")]
    Closed,
}

impl SendError {
    /// A refusal by this library.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        Self::Refused { code: refusal.word().to_owned(), message: refusal.to_string() }
    }

    /// The cluster's feature level does not allow the request yet.
    pub(crate) fn not_yet(needs: u32, level: u32) -> Self {
        let message = format!(
            "the cluster does not take this kind of request yet: it needs feature level {needs}, and the cluster has {level} \
             until all of its servers are upgraded and none is held back (--feature-level)"
        );
        Self::Refused { code: NOT_YET.to_owned(), message }
    }

    /// The client only reads.
    pub(crate) fn reads_only() -> Self {
        let message = "this client only reads; connect with a session to send".to_owned();
        Self::Refused { code: READS_ONLY.to_owned(), message }
    }

    /// The stable code of a refusal.
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
    /// Final: the cluster refused the call.
    #[error("{message}")]
    Refused {
        /// Stable code, for example `room_unknown`.
        code: String,
        /// The reason, for people.
        message: String,
    },
    /// The session is not accepted.
    #[error("{0}")]
    Auth(String),
    /// Servers answered, but none could complete the call before the timeout.
    #[error("no server completed the call within {after:?}: {message}")]
    Unavailable {
        /// Stable code of the last answer.
        code: String,
        /// The last answer, for people.
        message: String,
        /// The timeout.
        after: Duration,
    },
    /// No server was reachable.
    #[error("no server is reachable within {after:?} ({last})")]
    NoServer {
        /// The timeout.
        after: Duration,
        /// The failure of the last attempt, for people.
        last: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl CallError {
    /// The stable code, if there is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Unavailable { code, .. } => Some(code),
            Self::Auth(_) | Self::NoServer { .. } | Self::Closed => None,
        }
    }

    /// The error for a final failure.
    pub(crate) fn last_word(failure: chat::Failure) -> Self {
        if is_auth(&failure.code) {
            Self::Auth(failure.message)
        } else {
            Self::Refused { code: failure.code, message: failure.message }
        }
    }
}

/// Whether a stable code says that the session is not accepted.
pub(crate) fn is_auth(code: &str) -> bool {
    [Refusal::SessionUnknown, Refusal::SessionEnded].iter().any(|refusal| code == refusal.word())
}

/// A client that could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An argument of the builder is invalid.
    #[error("{0}")]
    Invalid(String),
    /// No server was found.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The session could not be opened.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The outbox directory cannot be used.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The session of the outbox was ended while requests waited in it. They may have been decided before, so no other session
    /// sends them.
    #[error("the session of the outbox {} was ended while {waiting} of its requests waited", path.display())]
    SessionEnded {
        /// The directory of the outbox.
        path: PathBuf,
        /// How many requests wait.
        waiting: usize,
    },
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
    /// The outbox belongs to another user.
    #[error("the outbox {} belongs to the user {owner:?}; use another directory", path.display())]
    OtherUser {
        /// The directory.
        path: PathBuf,
        /// The user that it belongs to.
        owner: String,
    },
    /// The file is damaged.
    #[error(
        "the outbox file {} is damaged at byte {offset}: {what}; move it away to start with an \
         empty outbox (its unsent messages are not sent then)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the damage, bytes.
        offset: u64,
        /// The damage.
        what: String,
    },
    /// The file was written by a newer version.
    #[error("the outbox file {} was written by a newer version ({version}); upgrade this one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// An I/O error.
    #[error("the outbox {} cannot be used: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}
