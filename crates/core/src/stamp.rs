//! The leader's time of a batch of commands, and the rules by which the batch is decided.

use crate::level;
use crate::limits::ROOM_TIME_AHEAD_MAX_MS;

/// What the leader states about a batch of commands. All commands of the batch have it.
///
/// Replicas of different versions apply the same batches, so a rule that decides an old command in a new way depends on the
/// level that the leader put into the batch, never on the version that applies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The leader's clock at the proposal, milliseconds since 1970.
    pub time_ms: i64,
    /// The feature level whose rules decide the batch: the cluster's level, as the leader knew it.
    level: u32,
}

impl Stamp {
    /// The stamp of a batch that a cluster of this feature level proposes.
    #[must_use]
    pub const fn at_level(time_ms: i64, cluster_level: u32) -> Self {
        Self { time_ms, level: if cluster_level < level::FIRST { level::FIRST } else { cluster_level } }
    }

    /// The stamp of a batch of the first feature level.
    #[must_use]
    pub const fn first(time_ms: i64) -> Self {
        Self::at_level(time_ms, level::FIRST)
    }

    /// The level whose rules decide the batch, which is also the level that a cluster needs to have before this stamp may
    /// stand in one of its logs.
    #[must_use]
    pub const fn level(self) -> u32 {
        self.level
    }

    /// Whether the time of a room may fall, if it is more than [`ROOM_TIME_AHEAD_MAX_MS`] ahead of `time_ms`. Feature
    /// level 2.
    #[must_use]
    pub const fn may_step_back(self) -> bool {
        self.level >= level::RIGHTS
    }

    /// Whether the rules of [`crate::access`] hold. Feature level 2.
    pub(crate) const fn has_rights(self) -> bool {
        self.level >= level::RIGHTS
    }

    /// Whether sessions are listed and bounded as [`crate::people`] says. Feature level 2.
    pub(crate) const fn has_accounts(self) -> bool {
        self.level >= level::ACCOUNTS
    }

    /// The time of a room's next event, after an event at `last_ms`.
    pub(crate) fn after(self, last_ms: i64) -> i64 {
        let ahead_ms = last_ms.saturating_sub(self.time_ms);
        if self.may_step_back() && ahead_ms > ROOM_TIME_AHEAD_MAX_MS {
            return self.time_ms;
        }
        self.time_ms.max(last_ms)
    }
}
