//! The requests that were sent on one stream and have no result yet.

use std::collections::VecDeque;

use conclave_core::limits::SENDS_IN_FLIGHT_MAX;
use tokio::time::Instant;

use crate::outbox::SentCopy;

/// Requests in flight on a stream, by their index in it.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    base: u64,
    slots: VecDeque<Option<(SentCopy, Instant)>>,
    count: usize,
}

impl InFlight {
    pub(super) fn push(&mut self, sent: SentCopy, now: Instant) {
        self.slots.push_back(Some((sent, now)));
        self.count += 1;
    }

    /// Removes the request at this index, because its result arrived.
    pub(super) fn take(&mut self, index: u64) -> Option<(SentCopy, Instant)> {
        let at = usize::try_from(index.checked_sub(self.base)?).ok()?;
        let taken = self.slots.get_mut(at)?.take()?;
        self.count -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        Some(taken)
    }

    /// The number of requests without a result.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether one more may be sent.
    pub(crate) fn has_space(&self) -> bool {
        self.slots.len() < SENDS_IN_FLIGHT_MAX
    }
}
