//! Planted bugs: deliberate mistakes which prove that chaos experiments, the simulation and the checker find such
//! mistakes.
//!
//! A planted bug is a plausible programming mistake, at the place in the code where a programmer could make it. Every
//! build with debug assertions contains all of them; [`plant`] activates at most one. A build without debug assertions,
//! such as a release, contains none: [`planted`] is a constant `false` there, and the compiler removes the code that
//! depends on it.
//!
//! The chosen bug is the only global state in this crate. [`crate::apply`] never reads it.

/// The environment variable that names the bug for a binary of a build with debug assertions.
pub const VARIABLE: &str = "CONCLAVE_PLANTED_BUG";

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log's writer answers before it has written and synced.
    AckBeforeSync,
    /// The leader answers when the entry is in its own log, before the entry is in the logs of a majority.
    AckBeforeQuorum,
    /// The leader publishes events to subscribers when they are appended, before they are committed.
    PublishBeforeCommit,
    /// A snapshot leaves out the request numbers and stored replies of the sessions.
    ForgetDedupe,
    /// A leader answers linearizable reads without confirming its leadership with a quorum.
    StaleRead,
    /// A subscription that resumes starts at the wrong seq, off by one.
    FollowOffByOne,
    /// A vote is sent before it is synced.
    UnsyncedVote,
    /// A gateway accepts requests that the cluster's feature level does not allow yet.
    SkipLevelGate,
    /// A node accepts a peer whose data dir was put back from an older copy.
    TrustOldCopy,
    /// What an entry does depends on the process that applies it.
    ApplyByProcess,
    /// A subscription goes on after the reader's membership of the room has ended.
    LeakAfterRemoval,
    /// Somebody who becomes a member sees the past of a room that hides it.
    JoinSeesPast,
    /// A subscription shows the rooms of its resume token to whoever has the token.
    SkipMemberCheckInToken,
    /// The edits of a deleted message are not erased.
    DeleteKeepsEdits,
    /// A page shows a message with the text of the edit before the last one.
    FoldOffByOne,
}

impl Bug {
    /// All planted bugs.
    pub const ALL: [Self; 15] = [
        Self::AckBeforeSync,
        Self::AckBeforeQuorum,
        Self::PublishBeforeCommit,
        Self::ForgetDedupe,
        Self::StaleRead,
        Self::FollowOffByOne,
        Self::UnsyncedVote,
        Self::SkipLevelGate,
        Self::TrustOldCopy,
        Self::ApplyByProcess,
        Self::LeakAfterRemoval,
        Self::JoinSeesPast,
        Self::SkipMemberCheckInToken,
        Self::DeleteKeepsEdits,
        Self::FoldOffByOne,
    ];

    /// The value of [`VARIABLE`] that chooses this bug.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::AckBeforeQuorum => "ack-before-quorum",
            Self::PublishBeforeCommit => "publish-before-commit",
            Self::ForgetDedupe => "forget-dedupe",
            Self::StaleRead => "stale-read",
            Self::FollowOffByOne => "follow-off-by-one",
            Self::UnsyncedVote => "unsynced-vote",
            Self::SkipLevelGate => "skip-level-gate",
            Self::TrustOldCopy => "trust-old-copy",
            Self::ApplyByProcess => "apply-by-process",
            Self::LeakAfterRemoval => "leak-after-removal",
            Self::JoinSeesPast => "join-sees-past",
            Self::SkipMemberCheckInToken => "skip-member-check-in-token",
            Self::DeleteKeepsEdits => "delete-keeps-edits",
            Self::FoldOffByOne => "fold-off-by-one",
        }
    }

    /// The bug of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether this bug is active in this process.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(debug_assertions)]
pub use chosen::{UnknownBug, plant, planted};

#[cfg(debug_assertions)]
mod chosen {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{Bug, VARIABLE};

    /// The bug's number, from 1; 0 for none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// A value of [`VARIABLE`] that names no bug.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[error("{VARIABLE} is {0:?}, which is no planted bug; there are: {list}", list = Bug::ALL.map(Bug::name).join(", "))]
    pub struct UnknownBug(pub String);

    /// Whether this bug is active in this process.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as u8 + 1
    }

    /// Activates the bug of this name, the value of [`VARIABLE`]; none if the value is absent or empty. A binary calls
    /// this function once, before anything else.
    ///
    /// # Errors
    /// If no bug has this name. The active bug has not changed then.
    pub fn plant(name: Option<&str>) -> Result<Option<Bug>, UnknownBug> {
        let chosen = match name.filter(|name| !name.is_empty()) {
            Some(name) => Some(Bug::named(name).ok_or_else(|| UnknownBug(name.to_owned()))?),
            None => None,
        };
        CHOSEN.store(chosen.map_or(0, |bug| bug as u8 + 1), Ordering::Relaxed);
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own() {
        for bug in Bug::ALL {
            assert_eq!(Bug::named(bug.name()), Some(bug));
        }
        assert_eq!(Bug::named("none"), None);
    }

    #[cfg(not(debug_assertions))]
    #[test]
    fn a_build_without_debug_assertions_has_no_planted_bug() {
        const { assert!(!planted(Bug::AckBeforeSync)) };
    }

    #[cfg(debug_assertions)]
    #[test]
    fn one_bug_at_a_time_and_only_known_ones() {
        assert!(Bug::ALL.into_iter().all(|bug| !planted(bug)));
        for chosen in Bug::ALL {
            assert_eq!(plant(Some(chosen.name())), Ok(Some(chosen)));
            assert!(Bug::ALL.into_iter().all(|bug| planted(bug) == (bug == chosen)));
        }
        let why = plant(Some("ack-befor-sync")).unwrap_err().to_string();
        assert!(Bug::ALL.into_iter().all(|bug| why.contains(bug.name())), "{why}");
        assert!(Bug::ALL.last().is_some_and(|last| planted(*last)), "a name that is refused changes nothing");
        assert_eq!(plant(Some("")), Ok(None));
        assert!(Bug::ALL.into_iter().all(|bug| !planted(bug)));
    }
}
