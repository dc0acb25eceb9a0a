//! Waits for the outcome of a submitted request.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::SendError;
use crate::types::Ack;

/// A submitted request whose outcome can be awaited. Dropping the ticket does not cancel the request.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) request_no: u64,
    pub(crate) answer: oneshot::Receiver<Result<Ack, SendError>>,
    /// The outcome, if it arrived while the outbox was still being synced.
    pub(crate) early: Option<Result<Ack, SendError>>,
}

impl Ticket {
    /// The request's number in its room.
    #[must_use]
    pub fn request_no(&self) -> u64 {
        self.request_no
    }

    /// Waits for the ack without a timeout.
    ///
    /// # Errors
    /// If the request is refused, or the client is closed.
    pub async fn wait(mut self) -> Result<Ack, SendError> {
        match self.early.take() {
            Some(early) => early,
            None => self.answer.await.unwrap_or(Err(SendError::Closed)),
        }
    }

    /// Waits for the ack, at most `patience`. After that it returns [`SendError::Queued`]; the request stays in the
    /// outbox, and this method can be called again.
    ///
    /// # Errors
    /// As [`Ticket::wait`], and [`SendError::Queued`].
    pub async fn wait_for(&mut self, patience: Duration) -> Result<Ack, SendError> {
        if let Some(early) = self.early.take() {
            return early;
        }
        match tokio::time::timeout(patience, &mut self.answer).await {
            Ok(answer) => answer.unwrap_or(Err(SendError::Closed)),
            Err(_) => Err(SendError::Queued(patience)),
        }
    }
}
