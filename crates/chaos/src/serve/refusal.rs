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
    Wrong,
    /// The named object does not exist.
    Missing,
    /// A run or a fault has to end first.
    Busy,
    /// Too many requests or watchers.
    Full,
    /// The token is missing or wrong.
    NotKnown,
    /// The caller has no permission.
    NotAllowed,
    /// The controller is shutting down.
    Ending,
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

    pub(super) fn ending() -> Self {
        Self::new(RefusalKind::Ending, "the controller is shutting down")
    }
}
