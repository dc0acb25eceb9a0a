//! Whether the node works, or gives its clients and leaderships away.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

/// What the node does with clients and leaderships.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Duty {
    /// It takes clients and leads shards.
    #[default]
    Serves,
    /// It takes no new clients, and transfers its leaderships.
    Drains,
    /// Its leaderships are transferred: streams of sends end once their requests in flight are answered.
    Drained,
}

/// The node's duty, of which tasks hear.
#[derive(Debug, Default)]
pub(crate) struct OwnDuty {
    duty: watch::Sender<State>,
    /// The number of calls that ask whether the node may drain.
    intents: AtomicU32,
}

/// The intent to drain. Other nodes count the node as draining while this exists.
#[derive(Debug)]
pub(crate) struct Intent<'a>(&'a OwnDuty);

impl Drop for Intent<'_> {
    fn drop(&mut self) {
        self.0.intents.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A receiver of the duty.
pub(crate) type DutyReceiver = watch::Receiver<State>;

/// The duty, and whether it is the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    duty: Duty,
    /// The node is being stopped, so a drain is not taken back.
    stops: bool,
}

impl State {
    pub(crate) fn is_draining(self) -> bool {
        self.duty >= Duty::Drains
    }

    pub(crate) fn is_drained(self) -> bool {
        self.duty == Duty::Drained
    }
}

impl OwnDuty {
    pub(crate) fn get(&self) -> State {
        *self.duty.borrow()
    }

    pub(crate) fn subscribe(&self) -> DutyReceiver {
        self.duty.subscribe()
    }

    /// Announces a drain before the other nodes are asked whether they can spare this one: of two nodes that ask at the same
    /// time, each sees the other's intent.
    pub(crate) fn intend(&self) -> Intent<'_> {
        self.intents.fetch_add(1, Ordering::SeqCst);
        Intent(self)
    }

    /// Whether the node drains, or asks whether it may.
    pub(crate) fn drains_or_intends_to(&self) -> bool {
        self.get().is_draining() || self.intents.load(Ordering::SeqCst) > 0
    }

    /// Begins a drain; no effect on a node that drains. With `stops`, no later call takes the drain back.
    pub(crate) fn drain(&self, stops: bool) {
        self.change(|state| State { duty: state.duty.max(Duty::Drains), stops: state.stops || stops });
    }

    /// The leaderships are transferred; no effect if the drain was taken back meanwhile.
    pub(crate) fn handed_over(&self) {
        self.change(|state| State {
            duty: if state.is_draining() { Duty::Drained } else { state.duty },
            ..state
        });
    }

    /// Takes a drain back. Returns whether the node drained; `None` if the node is being stopped.
    pub(crate) fn serve(&self) -> Option<bool> {
        let mut was_draining = Some(false);
        self.change(|state| {
            if state.stops {
                was_draining = None;
                return state;
            }
            was_draining = Some(state.is_draining());
            State::default()
        });
        was_draining
    }

    fn change(&self, next: impl FnOnce(State) -> State) {
        self.duty.send_if_modified(|state| {
            let before = std::mem::replace(state, next(*state));
            *state != before
        });
    }
}

/// Waits until the duty meets the condition, or for ever if the node is gone.
pub(crate) async fn until(duty: &mut DutyReceiver, holds: impl FnMut(&State) -> bool) {
    if duty.wait_for(holds).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_taken_back_unless_the_node_stops() {
        let own = OwnDuty::default();
        assert_eq!(own.serve(), Some(false));
        own.drain(false);
        own.handed_over();
        assert!(own.get().is_draining() && own.get().is_drained());
        assert_eq!(own.serve(), Some(true));
        assert!(!own.get().is_draining());
        own.drain(true);
        own.drain(false);
        assert_eq!(own.serve(), None);
        assert!(own.get().is_draining());
    }

    #[test]
    fn a_hand_over_that_ends_after_the_drain_was_taken_back_changes_nothing() {
        let own = OwnDuty::default();
        own.drain(false);
        own.serve();
        let mut news = own.subscribe();
        news.mark_unchanged();
        own.handed_over();
        assert!(!own.get().is_drained() && !news.has_changed().unwrap());
    }
}
