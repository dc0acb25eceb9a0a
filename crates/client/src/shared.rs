//! The shared state behind its lock, and how its tasks are woken.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};

use crate::limits::OUTBOX_SETTLED_IDLE;
use crate::nodes::{Nodes, bearer};
use crate::state::{ClientState, Wakes};

/// The parts that all tasks of a client share.
#[derive(Debug)]
pub(crate) struct SharedState {
    state: Mutex<ClientState>,
    pub(crate) nodes: Arc<Nodes>,
    /// Wakes the thread that writes the outbox file.
    queue_due: Condvar,
    /// Wakes the supervisor.
    pub(crate) supervisor: Notify,
    /// Wakes tasks that wait for requests to leave the outbox.
    pub(crate) space_freed: Notify,
    pub(crate) cancel: CancellationToken,
}

impl SharedState {
    pub(crate) fn new(state: ClientState, nodes: Arc<Nodes>) -> Self {
        Self {
            state: Mutex::new(state),
            nodes,
            queue_due: Condvar::new(),
            supervisor: Notify::new(),
            space_freed: Notify::new(),
            cancel: CancellationToken::new(),
        }
    }

    /// Locks the state, also if the lock is poisoned. A panic under the lock leaves the state as it was between two
    /// statements, which is no worse than a crash of the program; tasks that wait for ever would be worse.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ClientState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until there is something to write: at once for requests, and for records of settled requests once nothing has been
    /// settled or queued for [`OUTBOX_SETTLED_IDLE`]. With `retry`, blocks until this delay is over or the queue is stopped.
    pub(crate) fn wait_for_queue(&self, retry: Option<Duration>) -> MutexGuard<'_, ClientState> {
        let state = self.lock();
        match retry {
            None => {
                let mut state = state;
                loop {
                    let Some(queue) = state.queue.as_ref().filter(|queue| !queue.is_due()) else {
                        return state;
                    };
                    let settled = queue.unsynced_settled();
                    if settled == 0 {
                        state = self.queue_due.wait(state).unwrap_or_else(PoisonError::into_inner);
                        continue;
                    }
                    let waited = self.queue_due.wait_timeout(state, OUTBOX_SETTLED_IDLE);
                    let (after, wait) = waited.unwrap_or_else(PoisonError::into_inner);
                    state = after;
                    let still = state.queue.as_ref().is_some_and(|queue| queue.unsynced_settled() == settled);
                    if wait.timed_out() && still {
                        return state;
                    }
                }
            }
            Some(after) => {
                let waiting = |state: &mut ClientState| state.queue.as_ref().is_some_and(|queue| !queue.stop);
                self.queue_due
                    .wait_timeout_while(state, after, waiting)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    /// Wakes the writer of the outbox file.
    pub(crate) fn queue_is_due(&self) {
        self.queue_due.notify_one();
    }

    /// Wakes tasks and waiters. Must not be called under the lock.
    pub(crate) fn wake(&self, wakes: Wakes) {
        for feed in wakes.feeds {
            feed.wake();
        }
        if wakes.supervisor {
            self.supervisor.notify_one();
        }
        if wakes.queue {
            self.queue_is_due();
        }
        if !wakes.settled.is_empty() {
            self.space_freed.notify_waiters();
        }
        for settled in wakes.settled {
            if let Some(waiter) = settled.waiter {
                // The caller may have stopped waiting.
                let _ = waiter.send(settled.outcome);
            }
        }
        for waiter in wakes.waiters {
            let _ = waiter.send(Err(wakes.failed.as_ref().map_or(crate::SendError::Closed, clone_error)));
        }
    }

    /// Queues the requests that were restored from the outbox file.
    pub(crate) fn resume(&self) {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let now = tokio::time::Instant::now();
        for room in state.requests.keys().collect::<Vec<_>>() {
            state.enqueue(room, now, &mut wakes);
        }
        drop(state);
        self.wake(wakes);
    }

    /// Closes the client. Idempotent.
    pub(crate) fn close(&self) {
        let mut wakes = Wakes { queue: true, ..Wakes::default() };
        let mut state = self.lock();
        state.closed = true;
        if let Some(queue) = &mut state.queue {
            queue.stop = true;
        }
        // They get `SendError::Closed`.
        wakes.waiters = state.requests.take_waiters();
        drop(state);
        self.cancel.cancel();
        self.space_freed.notify_waiters();
        self.wake(wakes);
    }

    /// Makes sure that a node belongs to the cluster. Returns the `authorization` metadata for calls to it: the session's, or
    /// that of a client which only reads.
    pub(crate) async fn admit(&self, address: &str) -> Result<Option<MetadataValue<Ascii>>, Status> {
        self.nodes.admit(address).await?;
        match self.authorization() {
            Some(authorization) => Ok(Some(authorization)),
            None => self.nodes.reading_authorization(address).await,
        }
    }

    /// The `authorization` metadata of the session.
    pub(crate) fn authorization(&self) -> Option<MetadataValue<Ascii>> {
        let identity = self.lock().session.clone().filter(|identity| identity.is_open())?;
        bearer(&identity.token)
    }

    /// Whether this client still has to open its first session.
    pub(crate) fn awaits_session(&self) -> bool {
        self.lock().session.as_ref().is_some_and(|identity| !identity.is_open())
    }
}

fn clone_error(error: &crate::SendError) -> crate::SendError {
    match error {
        crate::SendError::Auth(message) => crate::SendError::Auth(message.clone()),
        crate::SendError::Outbox(message) => crate::SendError::Outbox(message.clone()),
        crate::SendError::Refused { .. } | crate::SendError::Queued(_) | crate::SendError::Closed => {
            crate::SendError::Closed
        }
    }
}
