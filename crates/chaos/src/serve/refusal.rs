//! Why a request is refused.

use std::fmt;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of reason.
    pub kind: RefusalKind,
    /// The reason, and what the caller can do.
    pub why: String,
}

/// The kinds of reasons, which both APIs map to status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is invalid.
    Invalid,
    /// The named object does not exist.
    NotFound,
    /// A run or a fault has to end first.
    Busy,
    /// Too many requests or watchers.
    TooMany,
    /// The token is missing or wrong.
    Unauthenticated,
    /// The caller has no permission.
    Forbidden,
    /// The controller is shutting down.
    ShuttingDown,
    /// The operation failed.
    Failed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Refusal {
    pub(super) fn new(kind: RefusalKind, why: impl Into<String>) -> Self {
        Self { kind, why: why.into() }
    }

    pub(super) fn shutting_down() -> Self {
        Self::new(RefusalKind::ShuttingDown, "the controller is shutting down")
    }
}
