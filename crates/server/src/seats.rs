//! Which sessions subscribe on this node, how many may, and how one is asked to continue elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_core::SessionId;
use conclave_proto::chat::GoAway;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::feed::Subscriber;
use crate::limits::MOVE_ASKED_AGAIN;

/// The sessions of one node. Locked for moments, when streams come and go; never for an event.
#[derive(Debug)]
pub(crate) struct Seats {
    max: u32,
    table: Mutex<Table>,
    /// Told when the node becomes full, or is no longer.
    news: Arc<Notify>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    here: HashMap<SessionId, Here>,
    /// Open `JoinChat` streams.
    streams: u32,
    /// Open `SendMessages` streams.
    sends: u32,
    /// Nobody is let in any more.
    closed: bool,
    full: bool,
}

/// A session that subscribes here.
#[derive(Debug, Default)]
struct Here {
    subscribers: Vec<Arc<Subscriber>>,
    /// When it was last asked to go.
    asked: Option<Instant>,
}

impl Here {
    fn is_going(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < MOVE_ASKED_AGAIN)
    }
}

/// Why a stream is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TurnedAway {
    /// There are as many already as there may be.
    #[error("this node has as many clients as it takes")]
    Full,
    /// The node gives its work away.
    #[error("this node is being stopped")]
    Draining,
}

impl TurnedAway {
    /// The stable word for it.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Full => "node_full",
            Self::Draining => "node_draining",
        }
    }
}

impl Seats {
    /// At most `max` sessions subscribe, with twice as many streams, and twice as many streams of sends.
    pub(crate) fn new(max: u32, news: Arc<Notify>) -> Self {
        Self { max, table: Mutex::default(), news, emptied: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing under this lock can panic half-way, so a poisoned one is still whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    /// Sessions that subscribe here.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.table().here.len()).unwrap_or(u32::MAX)
    }

    /// Whether the node has as many as it takes, or not much fewer since it had.
    pub(crate) fn is_full(&self) -> bool {
        self.table().full
    }

    /// Why a stream of this session would not be let in now, whoever it is from. `None` is a session not known yet.
    pub(crate) fn turns_away(&self, session: Option<SessionId>) -> Option<TurnedAway> {
        self.table().turns_away(self.max, session)
    }

    /// Lets a subscription in, until its seat is dropped.
    pub(crate) fn enter(
        self: &Arc<Self>,
        session: SessionId,
        subscriber: &Arc<Subscriber>,
    ) -> Result<Seat, TurnedAway> {
        let mut table = self.table();
        if let Some(why) = table.turns_away(self.max, Some(session)) {
            return Err(why);
        }
        table.streams += 1;
        table.here.entry(session).or_default().subscribers.push(Arc::clone(subscriber));
        self.weigh(&mut table);
        Ok(Seat { sessions: Arc::clone(self), session, subscriber: Arc::clone(subscriber) })
    }

    /// Lets a stream of sends in, until its seat is dropped.
    pub(crate) fn enter_sends(self: &Arc<Self>) -> Result<SendSeat, TurnedAway> {
        let mut table = self.table();
        if table.closed {
            return Err(TurnedAway::Draining);
        }
        if table.sends >= self.max.saturating_mul(2) {
            return Err(TurnedAway::Full);
        }
        table.sends += 1;
        Ok(SendSeat(Arc::clone(self)))
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.table().closed = true;
    }

    /// Asks so many sessions to go. Those that were asked lately and are still here are among them: whoever asks may not
    /// know yet that they are going. How many were asked now.
    pub(crate) fn ask(&self, count: u32, go_away: impl FnMut() -> GoAway) -> u32 {
        let now = Instant::now();
        let mut table = self.table();
        let going = table.here.values().filter(|here| here.is_going(now)).count();
        table.ask(count.saturating_sub(u32::try_from(going).unwrap_or(u32::MAX)), now, go_away)
    }

    /// Asks up to so many sessions more to go. How many were asked now.
    pub(crate) fn ask_more(&self, count: u32, go_away: impl FnMut() -> GoAway) -> u32 {
        self.table().ask(count, Instant::now(), go_away)
    }

    /// Returns once nobody subscribes any more.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.table().here.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn weigh(&self, table: &mut Table) {
        let count = u32::try_from(table.here.len()).unwrap_or(u32::MAX);
        // A little fewer before it counts as having room again, so that one client that comes and goes is no news.
        let full = count >= if table.full { self.max - self.max / 20 } else { self.max };
        if full != table.full {
            table.full = full;
            self.news.notify_one();
        }
        if count == 0 {
            self.emptied.notify_waiters();
        }
    }
}

impl Table {
    fn turns_away(&self, max: u32, session: Option<SessionId>) -> Option<TurnedAway> {
        let known = session.is_some_and(|session| self.here.contains_key(&session));
        if self.closed {
            Some(TurnedAway::Draining)
        } else if self.streams >= max.saturating_mul(2) || (!known && self.here.len() as u64 >= max.into()) {
            Some(TurnedAway::Full)
        } else {
            None
        }
    }

    fn ask(&mut self, count: u32, now: Instant, mut go_away: impl FnMut() -> GoAway) -> u32 {
        let mut asked = 0;
        for here in self.here.values_mut().filter(|here| !here.is_going(now)) {
            if asked == count {
                break;
            }
            asked += 1;
            here.asked = Some(now);
            let go_away = go_away();
            for subscriber in &here.subscribers {
                subscriber.ask(go_away.clone());
            }
        }
        asked
    }
}

/// A subscription's place.
#[derive(Debug)]
pub(crate) struct Seat {
    sessions: Arc<Seats>,
    session: SessionId,
    subscriber: Arc<Subscriber>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        table.streams -= 1;
        if let Some(here) = table.here.get_mut(&self.session) {
            here.subscribers.retain(|subscriber| !Arc::ptr_eq(subscriber, &self.subscriber));
            if here.subscribers.is_empty() {
                table.here.remove(&self.session);
            }
        }
        self.sessions.weigh(&mut table);
    }
}

/// The place of a stream of sends.
#[derive(Debug)]
pub(crate) struct SendSeat(Arc<Seats>);

impl Drop for SendSeat {
    fn drop(&mut self) {
        self.0.table().sends -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(max: u32) -> Arc<Seats> {
        Arc::new(Seats::new(max, Arc::default()))
    }

    fn enter(sessions: &Arc<Seats>, session: u64) -> Result<(Seat, Arc<Subscriber>), TurnedAway> {
        let subscriber = Arc::new(Subscriber::default());
        Ok((sessions.enter(SessionId(session), &subscriber)?, subscriber))
    }

    #[test]
    fn one_session_too_many_is_turned_away() {
        let sessions = sessions(2);
        let one = enter(&sessions, 1).unwrap();
        let two = enter(&sessions, 2).unwrap();
        assert!(sessions.is_full());
        assert_eq!(enter(&sessions, 3).unwrap_err(), TurnedAway::Full);
        assert_eq!(sessions.turns_away(None), Some(TurnedAway::Full));
        let again = enter(&sessions, 1).unwrap();
        assert_eq!(sessions.count(), 2, "a session counts once");
        drop(one);
        assert_eq!(sessions.count(), 2);
        drop(again);
        assert_eq!((sessions.count(), sessions.is_full()), (1, false));
        let three = enter(&sessions, 3).unwrap();
        sessions.close();
        assert_eq!(enter(&sessions, 3).unwrap_err(), TurnedAway::Draining);
        assert_eq!(sessions.enter_sends().unwrap_err(), TurnedAway::Draining);
        drop((two, three));
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn streams_are_bounded_too() {
        let sessions = sessions(1);
        let _one = [enter(&sessions, 1).unwrap(), enter(&sessions, 1).unwrap()];
        assert_eq!(enter(&sessions, 1).unwrap_err(), TurnedAway::Full);
        let sends = [sessions.enter_sends().unwrap(), sessions.enter_sends().unwrap()];
        assert_eq!(sessions.enter_sends().unwrap_err(), TurnedAway::Full);
        drop(sends);
        sessions.enter_sends().unwrap();
    }

    #[tokio::test]
    async fn full_is_full_until_there_is_some_room() {
        let news = Arc::new(Notify::new());
        let sessions = Arc::new(Seats::new(40, Arc::clone(&news)));
        let mut seats: Vec<_> = (0..40).map(|session| enter(&sessions, session).unwrap()).collect();
        news.notified().await;
        for left in [39, 38] {
            seats.pop();
            assert_eq!((sessions.count(), sessions.is_full()), (left, true));
        }
        seats.pop();
        assert!(!sessions.is_full());
        news.notified().await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_was_asked_and_is_still_here_is_not_asked_twice() {
        let sessions = sessions(100);
        let seats: Vec<_> = (0..10).map(|session| enter(&sessions, session).unwrap()).collect();
        let mut no = 0;
        let mut go_away = || {
            no += 1;
            GoAway { reason: no.to_string(), ..GoAway::default() }
        };
        assert_eq!(sessions.ask(4, &mut go_away), 4);
        assert_eq!(sessions.ask(4, &mut go_away), 0, "the same four");
        assert_eq!(sessions.ask(6, &mut go_away), 2);
        assert_eq!(sessions.ask_more(100, &mut go_away), 4);
        let mut reasons: Vec<_> = seats.iter().filter_map(|(_, subscriber)| subscriber.asked()).collect();
        reasons.sort_by_key(|go_away| go_away.reason.parse::<u32>().unwrap());
        assert_eq!(reasons.len(), 10);
        tokio::time::advance(MOVE_ASKED_AGAIN).await;
        assert_eq!(sessions.ask(4, &mut go_away), 4, "they stayed");
        let waiting = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.emptied().await }
        });
        tokio::task::yield_now().await;
        drop(seats);
        waiting.await.unwrap();
    }
}
