//! Notifies subscribers that a room has new events. A notification carries no events: a subscriber reads them itself
//! from its own position, so a slow one costs no memory here and no event can be skipped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_core::{RoomId, Seq};
use conclave_proto::chat::GoAway;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A subscriber that has lacked an event for longer is behind.
const BEHIND_AFTER: Duration = Duration::from_secs(1);

/// The subscribers of each room, on this node.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    rooms: Mutex<HashMap<RoomId, Vec<Follower>>>,
}

#[derive(Debug)]
struct Follower {
    subscriber: Arc<Subscriber>,
    /// The room's index in the subscriber's own list.
    room: u32,
}

/// One subscription's mailbox: which of its rooms have new events, and whether its client should move. Bounded by its
/// number of rooms.
#[derive(Debug, Default)]
pub(crate) struct Subscriber {
    news: Mutex<News>,
    notify: Notify,
    /// Whether the session has ended.
    ended: AtomicBool,
    /// Whether `go_away` is set: checking this flag needs no lock.
    move_requested: AtomicBool,
    go_away: Mutex<Option<GoAway>>,
}

#[derive(Debug, Default)]
struct News {
    rooms: Vec<u32>,
    /// When the oldest pending notification came.
    since: Option<Instant>,
    /// Since when the subscriber has lacked an event; `None` once it has read everything.
    behind_since: Option<Instant>,
}

/// How far the subscribers are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Subscribers that have lacked an event for longer than [`BEHIND_AFTER`].
    pub(crate) behind: usize,
    /// How long the subscriber that is furthest behind has lacked an event.
    pub(crate) longest: Duration,
}

impl Feed {
    /// Adds a follower of the room. From now on the follower is notified of every event; it must read earlier ones
    /// itself.
    pub(crate) fn follow(&self, room: RoomId, subscriber: &Arc<Subscriber>, index: u32) {
        let follower = Follower { subscriber: Arc::clone(subscriber), room: index };
        lock(&subscriber.news).behind_since.get_or_insert_with(Instant::now);
        lock(&self.rooms).entry(room).or_default().push(follower);
    }

    /// Removes a follower of the room.
    pub(crate) fn unfollow(&self, room: RoomId, subscriber: &Arc<Subscriber>) {
        let mut rooms = lock(&self.rooms);
        if let Some(followers) = rooms.get_mut(&room) {
            followers.retain(|follower| !Arc::ptr_eq(&follower.subscriber, subscriber));
            if followers.is_empty() {
                rooms.remove(&room);
            }
        }
    }

    /// Notifies the followers of these rooms.
    pub(crate) fn publish(&self, heads: &[(RoomId, Seq)]) {
        let rooms = lock(&self.rooms);
        if rooms.is_empty() {
            return;
        }
        let now = Instant::now();
        for follower in heads.iter().filter_map(|(room, _)| rooms.get(room)).flatten() {
            follower.subscriber.mark_unread(follower.room, now);
        }
    }

    /// How far the subscribers are behind.
    pub(crate) fn lag(&self, now: Instant) -> Lag {
        let rooms = lock(&self.rooms);
        // A subscriber follows several rooms, and exactly one of them as its first.
        let subscribers = rooms.values().flatten().filter(|follower| follower.room == 0);
        subscribers.fold(Lag::default(), |lag, follower| {
            let since = lock(&follower.subscriber.news).behind_since;
            let behind = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            Lag { behind: lag.behind + usize::from(behind > BEHIND_AFTER), longest: lag.longest.max(behind) }
        })
    }
}

impl Subscriber {
    /// Marks a room as having new events.
    pub(crate) fn mark_unread(&self, room: u32, now: Instant) {
        let mut news = lock(&self.news);
        let first = news.rooms.is_empty();
        if !news.rooms.contains(&room) {
            news.rooms.push(room);
            news.since.get_or_insert(now);
            news.behind_since.get_or_insert(now);
        }
        drop(news);
        if first {
            self.notify.notify_one();
        }
    }

    /// Takes the pending notifications, if any: the rooms, and when the oldest came.
    pub(crate) fn take(&self, rooms: &mut Vec<u32>) -> Option<Instant> {
        let mut news = lock(&self.news);
        rooms.append(&mut news.rooms);
        news.since.take()
    }

    /// The subscriber has read everything that it was notified of, and maybe more.
    pub(crate) fn caught_up(&self) {
        let mut news = lock(&self.news);
        news.behind_since = news.since;
    }

    /// Asks the subscription's client to move to another node.
    pub(crate) fn request_move(&self, go_away: GoAway) {
        *lock(&self.go_away) = Some(go_away);
        self.move_requested.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Takes the request to move, if there is one.
    pub(crate) fn take_move_request(&self) -> Option<GoAway> {
        if !self.move_requested.load(Ordering::Acquire) {
            return None;
        }
        self.move_requested.store(false, Ordering::Relaxed);
        lock(&self.go_away).take()
    }

    /// Ends the subscription, because its session has ended.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether the subscription's session has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until there may be notifications.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic half-way, so a poisoned one is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_is_notified_once_until_it_takes() {
        let feed = Feed::default();
        let subscriber = Arc::new(Subscriber::default());
        feed.follow(RoomId(1), &subscriber, 0);
        feed.follow(RoomId(2), &subscriber, 1);
        for seq in 1..100 {
            feed.publish(&[(RoomId(2), Seq(seq)), (RoomId(3), Seq(seq))]);
        }
        subscriber.wait().await;
        let mut rooms = Vec::new();
        assert!(subscriber.take(&mut rooms).is_some());
        assert_eq!(rooms, [1]);
        rooms.clear();
        feed.unfollow(RoomId(2), &subscriber);
        feed.publish(&[(RoomId(2), Seq(100))]);
        assert!(subscriber.take(&mut rooms).is_none());
        feed.unfollow(RoomId(1), &subscriber);
        assert!(lock(&feed.rooms).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_is_behind_until_it_has_read_everything() {
        let feed = Feed::default();
        let (slow, quick) = (Arc::new(Subscriber::default()), Arc::new(Subscriber::default()));
        for subscriber in [&slow, &quick] {
            feed.follow(RoomId(1), subscriber, 0);
            feed.follow(RoomId(2), subscriber, 1);
            subscriber.caught_up();
        }
        let second = Duration::from_secs(1);
        tokio::time::advance(second * 9).await;
        assert_eq!(feed.lag(Instant::now()), Lag::default(), "a quiet room leaves nobody behind");
        feed.publish(&[(RoomId(1), Seq(1)), (RoomId(2), Seq(1))]);
        for subscriber in [&slow, &quick] {
            subscriber.take(&mut Vec::new());
        }
        quick.caught_up();
        tokio::time::advance(second * 2).await;
        feed.publish(&[(RoomId(2), Seq(2))]);
        assert_eq!(feed.lag(Instant::now()), Lag { behind: 1, longest: second * 2 });
        quick.take(&mut Vec::new());
        quick.caught_up();
        // What came while the slow one read what it had been told of is lacking still.
        tokio::time::advance(second / 2).await;
        slow.caught_up();
        assert_eq!(feed.lag(Instant::now()), Lag { behind: 0, longest: second / 2 });
    }
}
