//! Times the requests of a stream whose answers come in the same order: one at a time, so that it costs the
//! same however many are under way.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by the two directions of one stream.
#[derive(Debug, Default)]
pub(crate) struct Probe(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sent: u64,
    answered: u64,
    /// The request that is timed: its place, and when it was sent.
    timed: Option<(u64, Instant)>,
}

impl Probe {
    /// A request goes out. It is timed if it is `worth` it and no other one is.
    pub(crate) fn sent(&self, worth: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.sent += 1;
        if worth && state.timed.is_none() {
            state.timed = Some((state.sent, Instant::now()));
        }
    }

    /// An answer came in: how long it took, if its request was the timed one.
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
    async fn the_timed_request_is_told_from_those_around_it() {
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
