//! Where blocking work runs: on threads, or in a simulation in tasks of the single runtime.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinError;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Each writer is a thread; other blocking work runs on the runtime's threads for blocking work.
    #[default]
    Threads,
    /// Writers are tasks of the runtime in which the store is opened; other blocking work runs at once in its caller.
    /// For simulations, which need a single thread and a deterministic order: nothing really blocks there. A sync takes
    /// [`crate::Disk::sync_takes`] on the runtime's clock.
    Tasks,
}

impl Work {
    /// Runs a blocking function.
    ///
    /// # Errors
    /// If the function panicked, or the runtime ends.
    pub async fn block<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await,
            Self::Tasks => Ok(work()),
        }
    }
}

/// Wakes a writer, which is a thread or a task. Only one waits.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    thread: Condvar,
    task: Notify,
}

impl Wake {
    /// Wakes the writer, now or at its next wait.
    pub(crate) fn notify(&self) {
        self.thread.notify_one();
        self.task.notify_one();
    }

    /// Blocks the thread until the writer is woken.
    pub(crate) fn wait<'a, T>(&self, held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.thread.wait(held).unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks the thread until the writer is woken, for `time` at most.
    pub(crate) fn wait_timeout<'a, T>(&self, held: MutexGuard<'a, T>, time: Duration) -> MutexGuard<'a, T> {
        self.thread.wait_timeout(held, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits in a task until the writer is woken.
    pub(crate) async fn notified(&self) {
        self.task.notified().await;
    }
}

/// A writer as a shared value: in a simulation, a caller that would wait for the writer does the writer's work instead.
pub(crate) type SharedWriter<T> = std::sync::Arc<Mutex<T>>;
