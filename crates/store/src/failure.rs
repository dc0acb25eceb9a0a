//! The first error of a store. The store does nothing after it.

use std::sync::OnceLock;

use tokio::sync::watch;

use crate::error::StoreError;

/// Remembers the first error. Nothing is written after it.
#[derive(Debug)]
pub(crate) struct Failure {
    first: OnceLock<StoreError>,
    shown: watch::Sender<Option<String>>,
}

impl Failure {
    pub(crate) fn new() -> Self {
        Self { first: OnceLock::new(), shown: watch::Sender::new(None) }
    }

    /// Makes the store fail with this error, unless it has failed before. Returns the first error.
    pub(crate) fn set(&self, error: StoreError) -> StoreError {
        let mut is_first = false;
        let first = self.first.get_or_init(|| {
            is_first = true;
            error
        });
        if is_first && !matches!(first, StoreError::Closed(_)) {
            tracing::error!(error = %first, "store failed");
            self.shown.send_replace(Some(first.to_string()));
        }
        first.clone()
    }

    /// The error, if there was one.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.first.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.shown.subscribe()
    }
}
