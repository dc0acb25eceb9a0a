//! Measures the latency of requests on a stream whose answers come in the same order: one request at a time, so that
//! the cost does not depend on the number in flight.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by the two directions of one stream.
#[derive(Debug, Default)]
pub(crate) struct Probe(Mutex<ProbeState>);

#[derive(Debug, Default)]
struct ProbeState {
    sent: u64,
    answered: u64,
    /// The measured request: its position in the stream, and when it was sent.
    timed: Option<(u64, Instant)>,
}

impl Probe {
    /// Records that a request was sent. It is measured if it is `worth` it and no other one is being measured.
    pub(crate) fn sent(&self, worth: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.sent += 1;
        if worth && state.timed.is_none() {
            state.timed = Some((state.sent, Instant::now()));
        }
    }

    /// Records an answer. Returns the latency if its request was the measured one.
    pub(crate) fn answered(&self) -> Option<Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.answered += 1;
        let answered = state.answered;
        let (_, since) = state.timed.take_if(|(place, _)| *place == answered)?;
        Some(since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_measured_request_yields_a_latency() {
        let probe = Probe::default();
        probe.sent(false);
        probe.sent(true);
        tokio::time::advance(Duration::from_millis(3)).await;
        probe.sent(true);
        assert_eq!(probe.answered(), None, "nothing of worth");
        tokio::time::advance(Duration::from_millis(4)).await;
        assert_eq!(probe.answered(), Some(Duration::from_millis(7)));
        assert_eq!(probe.answered(), None, "another one was timed when this was sent");
        probe.sent(true);
        assert_eq!(probe.answered(), Some(Duration::ZERO));
    }
}
