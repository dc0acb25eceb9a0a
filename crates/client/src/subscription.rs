//! Streams of events that continue on another node.

use std::sync::Arc;

use crate::error::CallError;
use crate::types::{Batch, Incoming};

/// Events of rooms, each once, in order and without a gap. Nothing runs behind it: who does not ask for the next event
/// slows the stream down, and dropping it ends it.
#[derive(Debug)]
pub struct Subscription {}

#[expect(clippy::unused_async, clippy::unused_self, reason = "interface first")]
impl Subscription {
    /// What comes next. Reconnects by itself, for ever; fails only where trying again cannot help. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// A room that is not there, a token that does not fit, a session that is not accepted.
    pub async fn next(&mut self) -> Result<Incoming, CallError> {
        Err(CallError::Closed)
    }

    /// The next events, as many as came together. Signs of life and changes of connection are passed over.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub async fn next_batch(&mut self) -> Result<Batch, CallError> {
        Err(CallError::Closed)
    }

    /// The name of a room of this subscription, once it is known.
    #[must_use]
    pub fn room_name(&self, _room_id: u64) -> Option<Arc<str>> {
        None
    }

    /// Resumes after everything that was delivered, on any node and in any process.
    #[must_use]
    pub fn token(&self) -> bytes::Bytes {
        bytes::Bytes::new()
    }
}
