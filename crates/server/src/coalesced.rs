//! Runs one piece of work for all calls that wait for it.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;

/// Work that calls share: at most one runs, and one waits for it, for all calls together. So strangers who ask again and
/// again cost other nodes no more than that. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Coalesced<T: Clone> {
    next: Arc<Mutex<Option<Shared<BoxFuture<'static, T>>>>>,
    turn: Arc<Semaphore>,
}

impl<T: Clone> Default for Coalesced<T> {
    fn default() -> Self {
        Self { next: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl<T: Clone + Send + Sync + 'static> Coalesced<T> {
    /// Returns the result of work that began after this call. Waiting calls share one run. The work must not own this value.
    pub(crate) async fn run<F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        // Work that waits is kept here, and must not keep this alive in turn.
        let (slot, turn) = (Arc::downgrade(&self.next), Arc::clone(&self.turn));
        let make = || {
            let work = async move {
                // The semaphore is never closed.
                let _turn = turn.acquire_owned().await;
                // It begins now, so later calls need another one.
                if let Some(slot) = slot.upgrade() {
                    slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
                work().await
            };
            work.boxed().shared()
        };
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(make).clone();
        next.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn calls_share_work_that_begins_after_them() {
        let coalesced = Coalesced::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(Semaphore::new(0));
        let ask = || {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            let coalesced = coalesced.clone();
            async move {
                let work = move || async move {
                    let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                    go.acquire().await.unwrap().forget();
                    number
                };
                coalesced.run(work).await
            }
        };
        let mut first = Box::pin(ask());
        assert!((&mut first).now_or_never().is_none());
        // The first work has begun, so it may not show what these calls ask for. They share the next one.
        let mut later: Vec<_> = (0..100).map(|_| Box::pin(ask())).collect();
        assert!(later.iter_mut().all(|call| call.now_or_never().is_none()));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        // Whoever gives up leaves the others their work.
        drop(later.remove(0));
        go.add_permits(2);
        assert_eq!(first.await, 1);
        for call in later {
            assert_eq!(call.await, 2);
        }
    }
}
