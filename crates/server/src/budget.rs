//! How many bytes of clients' calls a node holds at a time.
//!
//! Counts of requests do not bound memory: a request may be small or large. Each budget is in bytes and for the whole
//! node. Whoever waits for a budget does not read on from its client, so that the client's sends slow down; the wait ends
//! with a failure before the client gives up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_core::SessionId;
use conclave_core::limits::PAGE_BYTES_MAX;
use conclave_proto::status::Failure;
use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    ANSWERS_BYTES_MAX, ANSWERS_PER_SESSION_MAX, BUSY_RETRY, CALL_BYTES_MAX, CALLS_BYTES_MAX,
    CALLS_PER_SESSION_MAX, PAGES_BYTES_MAX, REQUEST_DEADLINE, SENDS_BYTES_MAX,
};
use crate::metrics::ClientMetrics;

/// The unit of the budgets, bytes. Every use is rounded up to it.
const UNIT: usize = 1024;

/// The budgets of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    sends: Part,
    calls: Part,
    answers: Part,
    pages: Part,
    /// Of single requests.
    pub(crate) call_places: Places,
    /// Of calls whose answer may be large.
    pub(crate) answer_places: Places,
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
            calls: part(CALLS_BYTES_MAX, &metrics.calls_held),
            answers: part(ANSWERS_BYTES_MAX, &metrics.answers_held),
            pages: part(PAGES_BYTES_MAX, &metrics.pages_held),
            call_places: Places::new(CALLS_PER_SESSION_MAX),
            answer_places: Places::new(ANSWERS_PER_SESSION_MAX),
        }
    }

    /// A share for a frame of requests that is received and not decided yet, if it is free.
    pub(crate) fn try_sends(&self, bytes: usize) -> Option<Share> {
        self.sends.try_take(bytes.min(SENDS_BYTES_MAX))
    }

    /// Waits for a share for a frame of requests.
    ///
    /// # Errors
    /// `busy`, not sent, if none is free in time.
    pub(crate) fn sends(&self, bytes: usize) -> impl Future<Output = Result<Share, Failure>> + Send + use<> {
        // More than all of it is never free at once.
        self.sends.clone().take(bytes.min(SENDS_BYTES_MAX))
    }

    /// Waits for a share for one call whose body is not read yet.
    ///
    /// # Errors
    /// As [`Budget::sends`].
    pub(crate) fn call(&self) -> impl Future<Output = Result<Share, Failure>> + Send + use<> {
        self.calls.clone().take(CALL_BYTES_MAX)
    }

    /// Waits for a share for an answer that may be large, until its client has taken it.
    ///
    /// # Errors
    /// As [`Budget::sends`].
    pub(crate) fn answer(&self) -> impl Future<Output = Result<Share, Failure>> + Send + use<> {
        self.answers.clone().take(PAGE_BYTES_MAX)
    }

    /// As [`Budget::answer`], for an answer of this size.
    ///
    /// # Errors
    /// As [`Budget::sends`].
    pub(crate) fn answer_of(
        &self,
        bytes: usize,
    ) -> impl Future<Output = Result<Share, Failure>> + Send + use<> {
        self.answers.clone().take(bytes.min(ANSWERS_BYTES_MAX))
    }

    /// A share for a page of events that waits to be sent, if it is free.
    pub(crate) fn page(&self, bytes: usize) -> Option<Share> {
        self.pages.try_take(bytes)
    }
}

/// How many calls of a kind each session has at a time.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    max: u32,
    taken: Arc<Mutex<HashMap<SessionId, u32>>>,
}

/// The place of one call of a session, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    session: SessionId,
}

impl Places {
    pub(crate) fn new(max: u32) -> Self {
        Self { max, taken: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<SessionId, u32>> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a call of a session.
    ///
    /// # Errors
    /// `too_many_calls`, not sent, if the session has its maximum number of them.
    pub(crate) fn admit(&self, session: SessionId) -> Result<Place, Failure> {
        let mut taken = self.taken();
        let count = taken.entry(session).or_default();
        if *count >= self.max {
            let why = format!(
                "a session may have {} calls of this kind at a time; take their answers first",
                self.max
            );
            return Err(Failure::not_sent("too_many_calls", why, BUSY_RETRY));
        }
        *count += 1;
        Ok(Place { places: self.clone(), session })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.session);
            }
        }
    }
}

impl Part {
    fn try_take(&self, bytes: usize) -> Option<Share> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units(bytes)).ok()?;
        Some(self.share(permit))
    }

    async fn take(self, bytes: usize) -> Result<Share, Failure> {
        let permit = Arc::clone(&self.free).acquire_many_owned(units(bytes));
        match tokio::time::timeout(REQUEST_DEADLINE, permit).await {
            Ok(Ok(permit)) => Ok(self.share(permit)),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => {
                let why =
                    "this node holds as many bytes of clients' calls as it may; nothing was done: send again";
                Err(Failure::not_sent("busy", why, BUSY_RETRY))
            }
        }
    }

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

    #[tokio::test(start_paused = true)]
    async fn sends_beyond_the_budget_wait_until_others_are_decided() {
        let metrics = Metrics::new("n1", "test");
        let budget = Budget::new(&metrics.clients);
        let all = budget.try_sends(SENDS_BYTES_MAX - UNIT).unwrap();
        let last = budget.sends(1).await.unwrap();
        assert_eq!(usize::try_from(metrics.clients.sends_held.get()).unwrap(), SENDS_BYTES_MAX);
        let mut waiting = Box::pin(budget.sends(1));
        assert!((&mut waiting).now_or_never().is_none() && budget.try_sends(1).is_none());
        drop(last);
        drop(waiting.await.unwrap());
        let busy = budget.sends(2 * UNIT).await.unwrap_err();
        assert_eq!(busy.code(), "busy", "the wait ends");
        drop(all);
        assert!(budget.try_sends(usize::MAX).is_some(), "one frame can always be taken");
        assert_eq!(metrics.clients.sends_held.get(), 0);
    }

    #[test]
    fn a_session_has_a_few_calls_of_a_kind_at_a_time() {
        let places = Places::new(3);
        let mut taken: Vec<_> = (0..3).map(|_| places.admit(SessionId(1)).unwrap()).collect();
        assert_eq!(places.admit(SessionId(1)).unwrap_err().code(), "too_many_calls");
        places.admit(SessionId(2)).unwrap();
        taken.pop();
        places.admit(SessionId(1)).unwrap();
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
