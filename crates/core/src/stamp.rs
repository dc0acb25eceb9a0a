//! The time of a batch of commands, and how rooms follow it.

use crate::level;
use crate::limits::ROOM_TIME_AHEAD_MAX_MS;

/// The leader's time of a batch of commands. All commands of the batch have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The leader's clock at the proposal, milliseconds since 1970.
    pub time_ms: i64,
    /// Whether the time of a room may fall, if it is more than [`ROOM_TIME_AHEAD_MAX_MS`] ahead of `time_ms`. Feature
    /// level 2.
    pub may_step_back: bool,
}

impl Stamp {
    /// The stamp of a batch that a cluster of this feature level proposes.
    #[must_use]
    pub const fn at_level(time_ms: i64, cluster_level: u32) -> Self {
        Self { time_ms, may_step_back: cluster_level >= 2 }
    }

    /// The stamp of a batch of the first feature level: the time of a room never falls.
    #[must_use]
    pub const fn never_back(time_ms: i64) -> Self {
        Self::at_level(time_ms, level::FIRST)
    }

    /// The level that a cluster needs to have before this stamp may stand in one of its logs.
    #[must_use]
    pub const fn level(self) -> u32 {
        if self.may_step_back { 2 } else { level::FIRST }
    }

    /// The time of a room's next event, after an event at `last_ms`.
    pub(crate) fn after(self, last_ms: i64) -> i64 {
        let ahead_ms = last_ms.saturating_sub(self.time_ms);
        if self.may_step_back && ahead_ms > ROOM_TIME_AHEAD_MAX_MS {
            return self.time_ms;
        }
        self.time_ms.max(last_ms)
    }
}
