//! What has become of one's own messages. A message shows once, in its place among the others, with its tick. Only
//! where the tick is late it shows before, with a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::CHAT_CLOCK_AFTER;

/// The room and the number of the request.
type Key = (String, u64);

/// Something to tell the person.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TickNotice {
    /// It waits.
    Clock { room: String, text: String },
    /// It has its tick, but has not come back in its place yet.
    Ticked { room: String, seq: u64, after: Duration },
    /// It was refused, for good.
    Failed { text: String, why: String },
}

#[derive(Debug)]
struct Own {
    text: String,
    since: Instant,
    clock_shown: bool,
    ticked: Option<(u64, Instant)>,
}

/// Messages that have not come back in their place yet.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    own: BTreeMap<Key, Own>,
}

impl Ticks {
    /// A message is safe in the outbox.
    pub(super) fn submitted(&mut self, room: &str, request_no: u64, text: String, now: Instant) {
        let own = Own { text, since: now, clock_shown: false, ticked: None };
        self.own.insert((room.to_owned(), request_no), own);
    }

    /// A message is on disk at a majority.
    pub(super) fn acked(&mut self, room: &str, request_no: u64, seq: u64, now: Instant) {
        if let Some(own) = self.own.get_mut(&(room.to_owned(), request_no)) {
            own.ticked = Some((seq, now));
        }
    }

    /// A message was refused.
    pub(super) fn refused(&mut self, room: &str, request_no: u64, why: String) -> Option<TickNotice> {
        let own = self.own.remove(&(room.to_owned(), request_no))?;
        Some(TickNotice::Failed { text: own.text, why })
    }

    /// A message has come back in its place, which is a tick: events are published only after they are committed. If
    /// it showed with a clock before, how long it took.
    pub(super) fn arrived(&mut self, room: &str, request_no: u64, now: Instant) -> Option<Duration> {
        let own = self.own.remove(&(room.to_owned(), request_no))?;
        own.clock_shown.then(|| now.saturating_duration_since(own.since))
    }

    /// What is late.
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

    /// Messages without a tick.
    pub(super) fn waiting(&self) -> usize {
        self.own.values().filter(|own| own.ticked.is_none()).count()
    }

    /// Messages that have not come back in their place.
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    #[test]
    fn a_message_that_is_quick_shows_once() {
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
    fn a_message_that_waits_shows_a_clock_once() {
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
    fn a_tick_without_the_event_is_told() {
        let start = Instant::now();
        let mut ticks = Ticks::default();
        ticks.submitted("r", 7, "hello".into(), start);
        ticks.acked("r", 7, 42, start + SOON);
        assert_eq!((ticks.waiting(), ticks.is_empty()), (0, false));
        assert_eq!(ticks.late(start + SOON), []);
        let told = TickNotice::Ticked { room: "r".into(), seq: 42, after: SOON };
        assert_eq!(ticks.late(start + SOON + CHAT_CLOCK_AFTER), [told]);
        // The event comes later, in its place, like anybody's.
        assert_eq!(ticks.arrived("r", 7, start + Duration::from_secs(3)), None);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        let mut ticks = Ticks::default();
        ticks.submitted("r", 1, "hello".into(), Instant::now());
        let failed = TickNotice::Failed { text: "hello".into(), why: "no".into() };
        assert_eq!(ticks.refused("r", 1, "no".into()), Some(failed));
        assert!(ticks.is_empty());
    }
}
