//! How many bytes of clients' calls a node holds at a time.
//!
//! Counts of requests do not bound memory: a request may be small or large. Each budget is in bytes and for the whole
//! node. Whoever waits for a budget does not read on from its client, so that the client's sends slow down.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{PAGES_BYTES_MAX, SENDS_BYTES_MAX};
use crate::metrics::ClientMetrics;

/// The unit of the budgets, bytes. Every use is rounded up to it.
const UNIT: usize = 1024;

/// The budgets of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    sends: Part,
    pages: Part,
}

/// One budget, and the bytes of it that are in use.
#[derive(Clone, Debug)]
struct Part {
    free: Arc<Semaphore>,
    held: IntGauge,
}

/// A share of a budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: i64,
    held: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(metrics: &ClientMetrics) -> Self {
        let part = |bytes: usize, held: &IntGauge| Part {
            free: Arc::new(Semaphore::new(bytes / UNIT)),
            held: held.clone(),
        };
        Self {
            sends: part(SENDS_BYTES_MAX, &metrics.sends_held),
            pages: part(PAGES_BYTES_MAX, &metrics.pages_held),
        }
    }

    /// Waits for a share for requests that are received and not decided yet. `None` if the budget is closed, which it
    /// never is.
    pub(crate) async fn sends(&self, bytes: usize) -> Option<Share> {
        // More than all of it is never free at once.
        let units = units(bytes.min(SENDS_BYTES_MAX));
        let permit = Arc::clone(&self.sends.free).acquire_many_owned(units).await.ok()?;
        Some(self.sends.share(permit))
    }

    /// A share for a page of events that waits to be sent, if it is free.
    pub(crate) fn page(&self, bytes: usize) -> Option<Share> {
        let permit = Arc::clone(&self.pages.free).try_acquire_many_owned(units(bytes)).ok()?;
        Some(self.pages.share(permit))
    }
}

impl Part {
    fn share(&self, permit: OwnedSemaphorePermit) -> Share {
        let bytes = i64::try_from(permit.num_permits() * UNIT).unwrap_or(i64::MAX);
        self.held.add(bytes);
        Share { bytes, held: self.held.clone(), _permit: permit }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.sub(self.bytes);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn sends_beyond_the_budget_wait_until_others_are_decided() {
        let metrics = Metrics::new("n1", "test");
        let budget = Budget::new(&metrics.clients);
        let all = budget.sends(SENDS_BYTES_MAX - UNIT).now_or_never().unwrap();
        let last = budget.sends(1).now_or_never().unwrap();
        assert_eq!(usize::try_from(metrics.clients.sends_held.get()).unwrap(), SENDS_BYTES_MAX);
        assert!(budget.sends(1).now_or_never().is_none());
        drop(last);
        assert!(budget.sends(UNIT).now_or_never().is_some());
        drop(all);
        assert!(budget.sends(usize::MAX).now_or_never().is_some(), "one frame can always be taken");
        assert_eq!(metrics.clients.sends_held.get(), 0);
    }

    #[test]
    fn a_large_page_is_refused_while_the_budget_is_used_up() {
        let metrics = Metrics::new("n1", "test");
        let budget = Budget::new(&metrics.clients);
        let all = budget.page(PAGES_BYTES_MAX).unwrap();
        assert!(budget.page(1).is_none());
        drop(all);
        assert!(budget.page(1).is_some());
        assert_eq!(metrics.clients.pages_held.get(), 0);
    }
}
