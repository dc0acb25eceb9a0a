//! Tracks the user's own messages. A message is shown once, among the others, with its tick. If its ack is late, it is
//! shown before that with a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::CHAT_CLOCK_AFTER;

/// The room and the number of the request.
type Key = (String, u64);

/// A note to the user about an own message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TickNotice {
    /// The message waits for its ack.
    Clock { room: String, text: String },
    /// The message is acked, but its event has not arrived yet.
    Ticked { room: String, seq: u64, after: Duration },
    /// The message was refused.
    Failed { text: String, why: String },
}

#[derive(Debug)]
struct OwnMessage {
    text: String,
    since: Instant,
    clock_shown: bool,
    ticked: Option<(u64, Instant)>,
}

/// Own messages whose events have not arrived yet.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    own: BTreeMap<Key, OwnMessage>,
}

impl Ticks {
    /// Adds a message that is in the outbox.
    pub(super) fn submitted(&mut self, room: &str, request_no: u64, text: String, now: Instant) {
        let own = OwnMessage { text, since: now, clock_shown: false, ticked: None };
        self.own.insert((room.to_owned(), request_no), own);
    }

    /// Records the ack of a message.
    pub(super) fn acked(&mut self, room: &str, request_no: u64, seq: u64, now: Instant) {
        if let Some(own) = self.own.get_mut(&(room.to_owned(), request_no)) {
            own.ticked = Some((seq, now));
        }
    }

    /// Removes a refused message. Returns the note about it.
    pub(super) fn refused(&mut self, room: &str, request_no: u64, why: String) -> Option<TickNotice> {
        let own = self.own.remove(&(room.to_owned(), request_no))?;
        Some(TickNotice::Failed { text: own.text, why })
    }

    /// Removes a message whose event has arrived, which also is an ack: events are published only once they are
    /// committed. Returns how long it took, if it was shown with a clock before.
    pub(super) fn arrived(&mut self, room: &str, request_no: u64, now: Instant) -> Option<Duration> {
        let own = self.own.remove(&(room.to_owned(), request_no))?;
        own.clock_shown.then(|| now.saturating_duration_since(own.since))
    }

    /// The notes about late messages, each returned once.
    pub(super) fn late(&mut self, now: Instant) -> Vec<TickNotice> {
        let mut tell = Vec::new();
        self.own.retain(|(room, _), own| match own.ticked {
            Some((seq, at)) if now.saturating_duration_since(at) >= CHAT_CLOCK_AFTER => {
                let after = at.saturating_duration_since(own.since);
                tell.push(TickNotice::Ticked { room: room.clone(), seq, after });
                false
            }
            Some(_) => true,
            None => {
                if !own.clock_shown && now.saturating_duration_since(own.since) >= CHAT_CLOCK_AFTER {
                    own.clock_shown = true;
                    tell.push(TickNotice::Clock { room: room.clone(), text: own.text.clone() });
                }
                true
            }
        });
        tell
    }

    /// The number of messages without an ack.
    pub(super) fn waiting(&self) -> usize {
        self.own.values().filter(|own| own.ticked.is_none()).count()
    }

    /// Whether the events of all messages have arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    #[test]
    fn a_quick_message_is_shown_once() {
        let start = Instant::now();
        let mut ticks = Ticks::default();
        ticks.submitted("r", 1, "hello".into(), start);
        assert_eq!(ticks.late(start + SOON), []);
        ticks.acked("r", 1, 42, start + SOON);
        assert_eq!(ticks.arrived("r", 1, start + SOON), None);
        assert!(ticks.is_empty());
        assert_eq!(ticks.late(start + Duration::from_secs(9)), []);
    }

    #[test]
    fn a_late_message_is_shown_with_a_clock_once() {
        let start = Instant::now();
        let mut ticks = Ticks::default();
        ticks.submitted("r", 1, "hello".into(), start);
        let clock = TickNotice::Clock { room: "r".into(), text: "hello".into() };
        assert_eq!(ticks.late(start + CHAT_CLOCK_AFTER), [clock]);
        assert_eq!(ticks.late(start + CHAT_CLOCK_AFTER * 2), []);
        assert_eq!(ticks.waiting(), 1);
        let late = Duration::from_secs(2);
        assert_eq!(ticks.arrived("r", 1, start + late), Some(late));
        assert_eq!(ticks.waiting(), 0);
    }

    #[test]
    fn an_ack_without_its_event_is_shown() {
        let start = Instant::now();
        let mut ticks = Ticks::default();
        ticks.submitted("r", 7, "hello".into(), start);
        ticks.acked("r", 7, 42, start + SOON);
        assert_eq!((ticks.waiting(), ticks.is_empty()), (0, false));
        assert_eq!(ticks.late(start + SOON), []);
        let told = TickNotice::Ticked { room: "r".into(), seq: 42, after: SOON };
        assert_eq!(ticks.late(start + SOON + CHAT_CLOCK_AFTER), [told]);
        // The event arrives later and is shown like any other.
        assert_eq!(ticks.arrived("r", 7, start + Duration::from_secs(3)), None);
    }

    #[test]
    fn a_refusal_is_shown_with_its_reason() {
        let mut ticks = Ticks::default();
        ticks.submitted("r", 1, "hello".into(), Instant::now());
        let failed = TickNotice::Failed { text: "hello".into(), why: "no".into() };
        assert_eq!(ticks.refused("r", 1, "no".into()), Some(failed));
        assert!(ticks.is_empty());
    }
}
