//! The handle that a client and its subscriptions share.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::calls::Caller;
use crate::shared::SharedState;

/// The parts of a running client. The client and its subscriptions hold it; when the last of them is dropped, the
/// client's tasks end.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<SharedState>,
    pub(crate) caller: Caller,
    pub(crate) tracker: TaskTracker,
    /// Timeout for a call over all attempts.
    pub(crate) patience: Duration,
    /// Serial of the last request that the outbox file contains.
    pub(crate) progress: watch::Receiver<u64>,
    /// The thread that writes the outbox file.
    pub(crate) writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}
