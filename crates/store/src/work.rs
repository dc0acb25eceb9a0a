//! Who does the work that blocks: threads, or in a simulation the tasks of the one runtime there is.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinError;

/// Who does the work that blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Each writer is a thread, and what else blocks is done on the runtime's threads for that.
    #[default]
    Threads,
    /// Writers are tasks of the runtime in which the store is opened, and what blocks is done at once by whoever asks.
    /// For simulations, which must have one thread and one order: nothing there really blocks. A sync takes as long as
    /// [`crate::Disk::sync_takes`] says, on the runtime's clock.
    Tasks,
}

impl Work {
    /// Does something that blocks.
    ///
    /// # Errors
    /// If it panicked, or the runtime ends.
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

/// Wakes a writer, whichever it is. There is one that waits.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    thread: Condvar,
    task: Notify,
}

impl Wake {
    /// Wakes it, now or when it waits next.
    pub(crate) fn ring(&self) {
        self.thread.notify_one();
        self.task.notify_one();
    }

    /// Blocks the thread.
    pub(crate) fn wait<'a, T>(&self, held: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.thread.wait(held).unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks the thread, not for longer than this.
    pub(crate) fn wait_timeout<'a, T>(&self, held: MutexGuard<'a, T>, time: Duration) -> MutexGuard<'a, T> {
        self.thread.wait_timeout(held, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits in a task.
    pub(crate) async fn rung(&self) {
        self.task.notified().await;
    }
}

/// A writer that others may have to push: in a simulation, whoever would wait for it does its work instead.
pub(crate) type Shared<T> = std::sync::Arc<Mutex<T>>;
