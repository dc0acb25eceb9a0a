//! Which sessions subscribe on this node, their maximum number, and how a session is asked to move.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_core::SessionId;
use conclave_proto::chat::GoAway;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feed::Subscriber;
use crate::limits::{MOVE_ASKED_AGAIN, STREAMS_PER_SESSION_MIN, STREAMS_PER_SESSION_SHARE};

/// The sessions of one node. Locked only briefly, when streams open and close; never for an event.
#[derive(Debug)]
pub(crate) struct LocalSessions {
    max: u32,
    table: Mutex<Table>,
    /// Notified when the node becomes full or stops being full.
    news: Arc<Notify>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    here: HashMap<SessionId, Here>,
    /// Open `JoinChat` streams.
    streams: u32,
    /// Open `SendMessages` streams, and those of each session.
    sends: u32,
    sending: HashMap<SessionId, Sending>,
    /// Whether new streams are refused.
    closed: bool,
    full: bool,
}

/// A session with streams of sends on this node.
#[derive(Debug, Default)]
struct Sending {
    streams: u32,
    /// Cancelled when the session has ended.
    ended: CancellationToken,
}

/// A session that subscribes on this node.
#[derive(Debug, Default)]
struct Here {
    subscribers: Vec<Arc<Subscriber>>,
    /// When the session was last asked to move.
    asked: Option<Instant>,
}

impl Here {
    fn is_going(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < MOVE_ASKED_AGAIN)
    }
}

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamRefusal {
    /// The node has its maximum number of sessions or streams.
    #[error("this node has its maximum number of clients")]
    Full,
    /// The node is draining.
    #[error("this node is draining")]
    Draining,
    /// The session has its maximum number of streams on this node.
    #[error("this session has its maximum number of streams on this node; end others first")]
    Session,
}

impl StreamRefusal {
    /// The stable error code.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Full => "node_full",
            Self::Draining => "node_draining",
            Self::Session => "too_many_streams",
        }
    }
}

impl LocalSessions {
    /// At most `max` sessions subscribe, with twice as many subscription streams, and twice as many send streams.
    pub(crate) fn new(max: u32, news: Arc<Notify>) -> Self {
        Self { max, table: Mutex::default(), news, emptied: Notify::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code under this lock can panic half-way, so a poisoned one is still consistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    /// The number of sessions that subscribe on this node.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.table().here.len()).unwrap_or(u32::MAX)
    }

    /// Whether the node is full: it reached the maximum and has not fallen clearly below since.
    pub(crate) fn is_full(&self) -> bool {
        self.table().full
    }

    /// Why a stream of this session would be refused now, if it would. `None` is a session that is not known yet.
    pub(crate) fn refusal_for(&self, session: Option<SessionId>) -> Option<StreamRefusal> {
        self.table().refusal_for(self.max, session)
    }

    /// Admits a subscription, until its seat is dropped.
    pub(crate) fn admit_subscription(
        self: &Arc<Self>,
        session: SessionId,
        subscriber: &Arc<Subscriber>,
    ) -> Result<SubscriptionPermit, StreamRefusal> {
        let mut table = self.table();
        if let Some(why) = table.refusal_for(self.max, Some(session)) {
            return Err(why);
        }
        table.streams += 1;
        table.here.entry(session).or_default().subscribers.push(Arc::clone(subscriber));
        self.weigh(&mut table);
        Ok(SubscriptionPermit { sessions: Arc::clone(self), session, subscriber: Arc::clone(subscriber) })
    }

    /// Admits a send stream, until its seat is dropped.
    pub(crate) fn admit_sends(self: &Arc<Self>, session: SessionId) -> Result<SendPermit, StreamRefusal> {
        let mut table = self.table();
        if table.closed {
            return Err(StreamRefusal::Draining);
        }
        if table.sends >= self.max.saturating_mul(2) {
            return Err(StreamRefusal::Full);
        }
        let sending = table.sending.entry(session).or_default();
        if sending.streams >= per_session(self.max) {
            return Err(StreamRefusal::Session);
        }
        sending.streams += 1;
        let ended = sending.ended.clone();
        table.sends += 1;
        Ok(SendPermit { sessions: Arc::clone(self), session, ended })
    }

    /// Refuses all new streams until [`Self::open`].
    pub(crate) fn close(&self) {
        self.table().closed = true;
    }

    /// Admits new streams again.
    pub(crate) fn open(&self) {
        self.table().closed = false;
    }

    /// Asks `count` sessions to move. Sessions asked recently and still here count towards it, because the caller may
    /// not know yet that they are moving. Returns how many were newly asked.
    pub(crate) fn ask_to_move(&self, count: u32, go_away: impl FnMut() -> GoAway) -> u32 {
        let now = Instant::now();
        let mut table = self.table();
        let going = table.here.values().filter(|here| here.is_going(now)).count();
        table.ask_to_move(count.saturating_sub(u32::try_from(going).unwrap_or(u32::MAX)), now, go_away)
    }

    /// Asks up to `count` further sessions to move. Returns how many were asked.
    pub(crate) fn ask_more_to_move(&self, count: u32, go_away: impl FnMut() -> GoAway) -> u32 {
        self.table().ask_to_move(count, Instant::now(), go_away)
    }

    /// Ends the streams of a session that has ended.
    pub(crate) fn end(&self, session: SessionId) {
        let table = self.table();
        table
            .here
            .get(&session)
            .iter()
            .flat_map(|here| &here.subscribers)
            .for_each(|subscriber| subscriber.end());
        if let Some(sending) = table.sending.get(&session) {
            sending.ended.cancel();
        }
    }

    /// The sessions with streams on this node.
    pub(crate) fn here(&self) -> Vec<SessionId> {
        let table = self.table();
        let mut sessions: Vec<_> = table.here.keys().chain(table.sending.keys()).copied().collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// Returns once no session subscribes on this node.
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
        // The node stops being full only clearly below the maximum, so that one client that comes and goes does not
        // make it flap.
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
    fn refusal_for(&self, max: u32, session: Option<SessionId>) -> Option<StreamRefusal> {
        let known = session.is_some_and(|session| self.here.contains_key(&session));
        if self.closed {
            Some(StreamRefusal::Draining)
        } else if self.streams >= max.saturating_mul(2) || (!known && self.here.len() as u64 >= max.into()) {
            Some(StreamRefusal::Full)
        } else {
            let here = session.and_then(|session| self.here.get(&session));
            let streams = here.map_or(0, |here| here.subscribers.len());
            (streams as u64 >= per_session(max).into()).then_some(StreamRefusal::Session)
        }
    }

    fn ask_to_move(&mut self, count: u32, now: Instant, mut go_away: impl FnMut() -> GoAway) -> u32 {
        let mut asked = 0;
        for here in self.here.values_mut().filter(|here| !here.is_going(now)) {
            if asked == count {
                break;
            }
            asked += 1;
            here.asked = Some(now);
            let go_away = go_away();
            for subscriber in &here.subscribers {
                subscriber.request_move(go_away.clone());
            }
        }
        asked
    }
}

/// The seat of a subscription.
#[derive(Debug)]
pub(crate) struct SubscriptionPermit {
    sessions: Arc<LocalSessions>,
    session: SessionId,
    subscriber: Arc<Subscriber>,
}

impl Drop for SubscriptionPermit {
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

/// The seat of a send stream.
#[derive(Debug)]
pub(crate) struct SendPermit {
    sessions: Arc<LocalSessions>,
    session: SessionId,
    ended: CancellationToken,
}

impl SendPermit {
    /// Cancelled when the session has ended.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl Drop for SendPermit {
    fn drop(&mut self) {
        let mut table = self.sessions.table();
        table.sends -= 1;
        if let Some(sending) = table.sending.get_mut(&self.session) {
            sending.streams -= 1;
            if sending.streams == 0 {
                table.sending.remove(&self.session);
            }
        }
    }
}

/// Ids from here on are of sessions for reading only, which a node gives out itself; those that the meta shard gives begin
/// with 1 and never get there.
pub(crate) const FIRST_READING_ID: u64 = 1 << 63;

/// Whether the session is one for reading only.
pub(crate) fn is_reading(session: SessionId) -> bool {
    session.0 >= FIRST_READING_ID
}

/// How many streams of a kind one session may have on a node that takes `max` sessions: one session cannot take the places
/// of all others.
fn per_session(max: u32) -> u32 {
    STREAMS_PER_SESSION_MIN.max(max / STREAMS_PER_SESSION_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(max: u32) -> Arc<LocalSessions> {
        Arc::new(LocalSessions::new(max, Arc::default()))
    }

    fn admit_subscription(
        sessions: &Arc<LocalSessions>,
        session: u64,
    ) -> Result<(SubscriptionPermit, Arc<Subscriber>), StreamRefusal> {
        let subscriber = Arc::new(Subscriber::default());
        Ok((sessions.admit_subscription(SessionId(session), &subscriber)?, subscriber))
    }

    #[test]
    fn one_session_too_many_is_refused() {
        let sessions = sessions(2);
        let one = admit_subscription(&sessions, 1).unwrap();
        let two = admit_subscription(&sessions, 2).unwrap();
        assert!(sessions.is_full());
        assert_eq!(admit_subscription(&sessions, 3).unwrap_err(), StreamRefusal::Full);
        assert_eq!(sessions.refusal_for(None), Some(StreamRefusal::Full));
        let again = admit_subscription(&sessions, 1).unwrap();
        assert_eq!(sessions.count(), 2, "a session counts once");
        drop(one);
        assert_eq!(sessions.count(), 2);
        drop(again);
        assert_eq!((sessions.count(), sessions.is_full()), (1, false));
        let three = admit_subscription(&sessions, 3).unwrap();
        sessions.close();
        assert_eq!(admit_subscription(&sessions, 3).unwrap_err(), StreamRefusal::Draining);
        assert_eq!(sessions.admit_sends(SessionId(3)).unwrap_err(), StreamRefusal::Draining);
        drop((two, three));
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn streams_are_bounded() {
        let sessions = sessions(1);
        let _one = [admit_subscription(&sessions, 1).unwrap(), admit_subscription(&sessions, 1).unwrap()];
        assert_eq!(admit_subscription(&sessions, 1).unwrap_err(), StreamRefusal::Full);
        let sends = [1, 2].map(|session| sessions.admit_sends(SessionId(session)).unwrap());
        assert_eq!(sessions.admit_sends(SessionId(3)).unwrap_err(), StreamRefusal::Full);
        drop(sends);
        sessions.admit_sends(SessionId(3)).unwrap();
    }

    #[test]
    fn one_session_does_not_take_the_places_of_all_others() {
        let sessions = sessions(100);
        let mine: Vec<_> = (0..8).map(|_| admit_subscription(&sessions, 1).unwrap()).collect();
        assert_eq!(admit_subscription(&sessions, 1).unwrap_err(), StreamRefusal::Session);
        assert_eq!(sessions.refusal_for(Some(SessionId(1))), Some(StreamRefusal::Session));
        admit_subscription(&sessions, 2).unwrap();
        drop(mine);
        admit_subscription(&sessions, 1).unwrap();
        let mine: Vec<_> = (0..8).map(|_| sessions.admit_sends(SessionId(1)).unwrap()).collect();
        assert_eq!(sessions.admit_sends(SessionId(1)).unwrap_err(), StreamRefusal::Session);
        sessions.admit_sends(SessionId(2)).unwrap();
        drop(mine);
        sessions.admit_sends(SessionId(1)).unwrap();
        assert_eq!(per_session(10_000), 625);
    }

    #[tokio::test]
    async fn a_full_node_stays_full_until_clearly_below_the_maximum() {
        let news = Arc::new(Notify::new());
        let sessions = Arc::new(LocalSessions::new(40, Arc::clone(&news)));
        let mut permits: Vec<_> =
            (0..40).map(|session| admit_subscription(&sessions, session).unwrap()).collect();
        news.notified().await;
        for left in [39, 38] {
            permits.pop();
            assert_eq!((sessions.count(), sessions.is_full()), (left, true));
        }
        permits.pop();
        assert!(!sessions.is_full());
        news.notified().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_asked_recently_is_not_asked_twice() {
        let sessions = sessions(100);
        let permits: Vec<_> =
            (0..10).map(|session| admit_subscription(&sessions, session).unwrap()).collect();
        let mut no = 0;
        let mut go_away = || {
            no += 1;
            GoAway { reason: no.to_string(), ..GoAway::default() }
        };
        assert_eq!(sessions.ask_to_move(4, &mut go_away), 4);
        assert_eq!(sessions.ask_to_move(4, &mut go_away), 0, "the same four");
        assert_eq!(sessions.ask_to_move(6, &mut go_away), 2);
        assert_eq!(sessions.ask_more_to_move(100, &mut go_away), 4);
        let mut reasons: Vec<_> =
            permits.iter().filter_map(|(_, subscriber)| subscriber.take_move_request()).collect();
        reasons.sort_by_key(|go_away| go_away.reason.parse::<u32>().unwrap());
        assert_eq!(reasons.len(), 10);
        tokio::time::advance(MOVE_ASKED_AGAIN).await;
        assert_eq!(sessions.ask_to_move(4, &mut go_away), 4, "they stayed");
        let waiting = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.emptied().await }
        });
        tokio::task::yield_now().await;
        drop(permits);
        waiting.await.unwrap();
    }
}
