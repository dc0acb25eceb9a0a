//! Bugs on purpose, to prove that chaos experiments, the simulation and the checker find such bugs.
//!
//! A planted bug is a mistake that somebody could make tomorrow, at the very place where they would make it. A build with the
//! feature `planted-bugs` has all of them, and makes the one that `plant` names; without the feature [`planted`] is a
//! constant `false`, of which the compiler leaves nothing. The feature is refused in builds without debug assertions, so that
//! no release can have it, and it stands in [`VERSION`].
//!
//! This is the only state outside of values in this crate. What replicas decide ([`crate::apply`]) never looks at it.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!(
    "the feature planted-bugs breaks conclave's promises on purpose and is refused in builds without debug assertions: \
     build with the dev profile, or without the feature"
);

/// The environment variable with which a binary is told which bug to make.
pub const VARIABLE: &str = "CONCLAVE_PLANTED_BUG";

/// The version as it is shown: a build with planted bugs says so wherever it says its version.
pub const VERSION: &str = if cfg!(feature = "planted-bugs") {
    concat!(env!("CARGO_PKG_VERSION"), "+planted-bugs")
} else {
    env!("CARGO_PKG_VERSION")
};

/// A mistake that can be made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log's writer answers before it has written and synced.
    AckBeforeSync,
    /// The leader answers when it has appended, and not when a majority has.
    AckBeforeQuorum,
    /// The leader shows subscribers what it has appended, before it is committed.
    PublishBeforeCommit,
    /// A snapshot leaves out which requests have been decided.
    ForgetDedupe,
    /// A leader answers linearizable reads without asking whether it still leads.
    StaleRead,
    /// A subscription that continues asks for one event too many.
    FollowOffByOne,
    /// A vote is given out before it is synced.
    UnsyncedVote,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AckBeforeSync,
        Self::AckBeforeQuorum,
        Self::PublishBeforeCommit,
        Self::ForgetDedupe,
        Self::StaleRead,
        Self::FollowOffByOne,
        Self::UnsyncedVote,
    ];

    /// The name by which it is chosen.
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
        }
    }

    /// The bug of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether this process makes that mistake.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use with_the_feature::{UnknownBug, plant, planted};

#[cfg(feature = "planted-bugs")]
mod with_the_feature {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{Bug, VARIABLE};

    /// The bug's number, from 1; 0 for none.
    static CHOSEN: AtomicU8 = AtomicU8::new(0);

    /// A name that no bug has.
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[error("{VARIABLE} is {0:?}, which is no planted bug; there are: {list}", list = Bug::ALL.map(Bug::name).join(", "))]
    pub struct UnknownBug(pub String);

    /// Whether this process makes that mistake.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        CHOSEN.load(Ordering::Relaxed) == bug as u8 + 1
    }

    /// Chooses the mistake that this process makes from now on, by the value of [`VARIABLE`]; none if it is absent or empty.
    /// A binary calls it once, before anything else.
    ///
    /// # Errors
    /// If there is no such bug. Nothing has changed then.
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

    #[cfg(not(feature = "planted-bugs"))]
    #[test]
    fn without_the_feature_there_is_nothing() {
        const { assert!(!planted(Bug::AckBeforeSync)) };
        assert_eq!(VERSION, env!("CARGO_PKG_VERSION"));
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn one_bug_at_a_time_and_only_known_ones() {
        assert!(Bug::ALL.into_iter().all(|bug| !planted(bug)));
        for chosen in Bug::ALL {
            assert_eq!(plant(Some(chosen.name())), Ok(Some(chosen)));
            assert!(Bug::ALL.into_iter().all(|bug| planted(bug) == (bug == chosen)));
        }
        let why = plant(Some("ack-befor-sync")).unwrap_err().to_string();
        assert!(Bug::ALL.into_iter().all(|bug| why.contains(bug.name())), "{why}");
        assert!(planted(Bug::UnsyncedVote), "a name that is refused changes nothing");
        assert_eq!(plant(Some("")), Ok(None));
        assert!(Bug::ALL.into_iter().all(|bug| !planted(bug)));
        assert!(VERSION.ends_with("planted-bugs"));
    }
}
