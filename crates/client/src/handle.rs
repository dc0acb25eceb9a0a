//! What a client and its subscriptions share.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::calls::Caller;
use crate::shared::SharedState;

/// What a client and its subscriptions hold. When the last of them goes, the client's tasks end.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<SharedState>,
    pub(crate) caller: Caller,
    pub(crate) tracker: TaskTracker,
    /// How long a call is tried.
    pub(crate) patience: Duration,
    /// How many requests the outbox file has.
    pub(crate) progress: watch::Receiver<u64>,
    /// The thread that writes it.
    pub(crate) writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}
