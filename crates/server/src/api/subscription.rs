//! The `JoinChat` stream: catch up, then follow, in one loop.
//!
//! A subscription has a position in each room and reads the next events from the local replica: from the in-memory
//! tail if it keeps up, from disk if it does not. Events are never queued for a subscription, so a slow reader costs
//! disk reads and no memory, and there is no hand-over between catching up and following at which an event could be
//! lost or repeated.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use conclave_core::access::{Powers, Sight};
use conclave_core::limits::{HISTORY_EVENTS_MAX, KEEPALIVE_INTERVAL, PAGE_BYTES_MAX, SUBSCRIPTION_ROOMS_MAX};
use conclave_core::planted::{Bug, planted};
use conclave_core::{Refusal, Reply, RoomId, Seq, UserId};
use conclave_proto::chat::{
    self, JoinChatRequest, RoomSubscription, room_subscription::Start, stream_frame::Frame,
};
use conclave_proto::frame::EncodedFrame;
use conclave_proto::status::Failure;
use conclave_proto::token::{self, ResumeToken};
use conclave_store::EventPage;
use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::api::auth::{self, Caller};
use crate::api::gateway::Gateway;
use crate::api::sends;
use crate::budget::Share;
use crate::feed::Subscriber;
use crate::limits::{PAGE_BYTES_MIN, PAGES_GROW_AFTER};
use crate::local_sessions::SubscriptionPermit;
use crate::shard::ShardReader;
use crate::shard::reader::SeenRoom;

/// A subscription's position in one room.
struct RoomCursor {
    room: RoomId,
    name: String,
    seq: Seq,
    reader: ShardReader,
    /// What the caller may see, as of `sight_number`; see [`conclave_store::ShardState::sight`].
    sight: Sight,
    sight_number: u64,
    /// The caller may see nothing more, and was told.
    closed: bool,
}

impl RoomCursor {
    /// Where the next visible span begins and ends, and whether there is one.
    fn visible(&self) -> Option<(Seq, Option<Seq>)> {
        self.sight.visible(self.seq.next())
    }
}

/// What the next step of a room is.
enum Step {
    /// These events.
    Page(EventPage),
    /// Nothing, for now.
    Wait,
    /// The caller may see no event before this one.
    Skip(Seq),
    /// The caller may see nothing more.
    Close,
}

/// One subscription.
pub(crate) struct Subscription {
    gateway: Gateway,
    subscriber: Arc<Subscriber>,
    user: UserId,
    powers: Powers,
    positions: Vec<RoomCursor>,
    /// Rooms with unread events; the room that has waited longest comes first.
    unread: VecDeque<u32>,
    news_since: Option<Instant>,
    caught_up: bool,
    _permit: SubscriptionPermit,
    /// A receiver of its own: a clone of the gateway's would report every view since the start as new.
    views: watch::Receiver<Arc<chat::ClusterView>>,
    view_seen: u64,
    keepalive: std::pin::Pin<Box<Sleep>>,
    ended: bool,
    /// Size of the pages of events so far, bytes.
    paged_bytes: usize,
    /// The part of the node's budget that the last page takes. The next page is asked for when the last one was sent.
    share: Option<Share>,
}

/// Prepares a subscription: resolves its rooms, joins the rooms that the client asked to join, and validates the start
/// positions.
pub(crate) async fn open(
    gateway: &Gateway,
    caller: &Caller,
    request: JoinChatRequest,
) -> Result<impl Stream<Item = Result<EncodedFrame, Status>> + Send + use<>, Failure> {
    let subscriber = Arc::new(Subscriber::default());
    let sessions = &gateway.node.sessions;
    let permit = sessions
        .admit_subscription(caller.session, &subscriber)
        .map_err(|why| gateway.placement.refused(why))?;
    // The session may have ended between the check of its token and its admission, after which it is told.
    auth::check_open(gateway, caller).await?;
    let positions = positions(gateway, caller, request).await?;
    for (index, position) in (0..).zip(&positions) {
        gateway.feed.follow(position.room, &subscriber, index);
    }
    gateway.metrics.streams.inc();
    let subscription = Subscription {
        gateway: gateway.clone(),
        subscriber,
        user: caller.user,
        powers: caller.powers(),
        unread: (0..).take(positions.len()).collect(),
        positions,
        news_since: None,
        caught_up: false,
        _permit: permit,
        views: gateway.views.clone(),
        view_seen: 0,
        keepalive: Box::pin(tokio::time::sleep(KEEPALIVE_INTERVAL)),
        ended: false,
        paged_bytes: 0,
        share: None,
    };
    Ok(futures::stream::unfold(subscription, |mut subscription| async move {
        let frame = subscription.next().await?;
        Some((frame, subscription))
    }))
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for position in &self.positions {
            self.gateway.feed.unfollow(position.room, &self.subscriber);
        }
        self.gateway.metrics.streams.dec();
    }
}

async fn positions(
    gateway: &Gateway,
    caller: &Caller,
    request: JoinChatRequest,
) -> Result<Vec<RoomCursor>, Failure> {
    if request.rooms.len() > SUBSCRIPTION_ROOMS_MAX {
        let why =
            format!("a subscription has at most {SUBSCRIPTION_ROOMS_MAX} rooms, not {}", request.rooms.len());
        return Err(Failure::invalid("too_many_rooms_in_subscription", why));
    }
    let mut positions: Vec<RoomCursor> = Vec::new();
    if !request.resume_token.is_empty() {
        let token = ResumeToken::decode(&request.resume_token, gateway.node.cluster, gateway.node.epoch)
            .map_err(|error| Failure::invalid(error.word(), error.to_string()))?;
        for (room, seq) in token.rooms {
            if positions.iter().any(|known| known.room == room) {
                let why = format!("the resume token names room {room} twice");
                return Err(Failure::invalid("resume_token_repeats_a_room", why));
            }
            positions.push(position(gateway, caller, room, Begin::After(seq)).await?);
        }
    }
    for wanted in request.rooms {
        let room = gateway.router.room(wanted.room.as_ref(), caller.user).await?;
        if wanted.join {
            join(gateway, caller, room).await?;
        }
        if !positions.iter().any(|known| known.room == room) {
            let position = position(gateway, caller, room, begin(&wanted)).await?;
            // A room that the caller has read is closed in the stream, so that its other rooms go on. So is a room of the
            // token.
            let continues =
                matches!(wanted.start, Some(Start::AfterSeq(_))) && position.sight != Sight::Nothing;
            if position.visible().is_none() && !continues {
                return Err(Failure::Refused(position.sight.refusal()));
            }
            positions.push(position);
        }
    }
    if positions.is_empty() || positions.len() > SUBSCRIPTION_ROOMS_MAX {
        let why = format!("a subscription has 1 to {SUBSCRIPTION_ROOMS_MAX} rooms, not {}", positions.len());
        return Err(Failure::invalid("subscription_rooms", why));
    }
    Ok(positions)
}

/// Where a subscription starts in a room.
enum Begin {
    After(Seq),
    Last(u32),
    Now,
}

fn begin(wanted: &RoomSubscription) -> Begin {
    match wanted.start {
        Some(Start::AfterSeq(seq)) => Begin::After(Seq(seq)),
        Some(Start::Last(count)) => Begin::Last(count),
        None => Begin::Now,
    }
}

async fn position(
    gateway: &Gateway,
    caller: &Caller,
    room: RoomId,
    begin: Begin,
) -> Result<RoomCursor, Failure> {
    let reader = gateway.router.room_reader(room)?;
    let mut found = reader.seen_room(room, caller.user, caller.powers()).await?;
    let beyond = |found: &Option<SeenRoom>| match (&begin, found) {
        (Begin::After(seq), Some(seen)) => *seq > seen.head.last,
        _ => false,
    };
    // The caller may be a member already, and this replica not know it yet.
    let shut_out = |found: &Option<SeenRoom>| found.as_ref().is_some_and(|seen| seen.sight == Sight::Nothing);
    // The room or the position may be newer than what this replica has applied: wait until it has caught up.
    if found.is_none() || beyond(&found) || shut_out(&found) {
        if found.is_none() {
            gateway.router.open_room(room).await?;
        }
        match gateway.router.barrier(reader.shard()).await {
            // Without a majority nobody becomes a member.
            Err(_) if shut_out(&found) => {}
            caught_up => caught_up?,
        }
        found = reader.seen_room(room, caller.user, caller.powers()).await?;
    }
    let Some(SeenRoom { head, info, sight, number, .. }) = found else {
        return Err(Failure::Refused(Refusal::RoomUnknown));
    };
    let end = sight.visible_back(head.last);
    let seq = match begin {
        // Where the room ends is for those who may see its end.
        Begin::After(seq) if seq > head.last && end.is_some_and(|end| end.upto == head.last) => {
            let why = format!("position {seq} is beyond the end of the room, which is {}", head.last);
            return Err(Failure::invalid("position_beyond_end", why));
        }
        Begin::After(seq) => seq,
        Begin::Last(count) => Seq(head.last.0.saturating_sub(u64::from(count))),
        Begin::Now => head.last,
    };
    let sight = if planted(Bug::SkipMemberCheckInToken) { Sight::All } else { sight };
    Ok(RoomCursor { room, name: info.name, seq, reader, sight, sight_number: number, closed: false })
}

/// Joins without a request number: joining twice changes nothing.
async fn join(gateway: &Gateway, caller: &Caller, room: RoomId) -> Result<(), Failure> {
    if caller.reads_only {
        return Err(auth::reads_only());
    }
    let reader = gateway.router.room_reader(room)?;
    if reader.is_member(room, caller.user).await? {
        return Ok(());
    }
    match sends::decide(&gateway.router, room, sends::join(caller, room)).await? {
        Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
        _ => Ok(()),
    }
}

impl Subscription {
    async fn next(&mut self) -> Option<Result<EncodedFrame, Status>> {
        if self.ended {
            return None;
        }
        match self.frame().await {
            Ok(frame) => frame.map(Ok),
            Err(failure) => {
                self.ended = true;
                Some(Err(failure.into()))
            }
        }
    }

    /// The next frame, or `None` when the node stops.
    async fn frame(&mut self) -> Result<Option<EncodedFrame>, Failure> {
        loop {
            if self.subscriber.has_ended() {
                return Err(Failure::Refused(Refusal::SessionEnded));
            }
            if let Some(go_away) = self.subscriber.take_move_request() {
                return Ok(Some(Frame::GoAway(go_away).into()));
            }
            if let Some(frame) = self.next_page().await? {
                self.keepalive.as_mut().reset(Instant::now() + KEEPALIVE_INTERVAL);
                return Ok(Some(frame));
            }
            if self.positions.iter().all(|position| position.closed) {
                let sight = self.positions.first().map_or(Refusal::NotAMember, |room| room.sight.refusal());
                return Err(Failure::Refused(sight));
            }
            if !self.caught_up {
                self.caught_up = true;
                return Ok(Some(Frame::CaughtUp(self.caught_up()).into()));
            }
            let view = self.views.borrow_and_update().clone();
            if view.version != self.view_seen {
                self.view_seen = view.version;
                return Ok(Some(Frame::ClusterView((*view).clone()).into()));
            }
            tokio::select! {
                () = self.subscriber.wait() => {}
                () = self.keepalive.as_mut() => {
                    self.keepalive.as_mut().reset(Instant::now() + KEEPALIVE_INTERVAL);
                    return Ok(Some(Frame::Keepalive(self.keepalive_frame()).into()));
                }
                () = self.gateway.node.stop.cancelled() => return Ok(None),
                // The sender lives as long as the node.
                _ = self.views.changed() => {}
            }
        }
    }

    /// The next events of one room that has unread events, or `None` if this subscription has read everything.
    async fn next_page(&mut self) -> Result<Option<EncodedFrame>, Failure> {
        loop {
            let mut news = Vec::new();
            if let Some(since) = self.subscriber.take(&mut news) {
                self.news_since.get_or_insert(since);
            }
            for room in news {
                if !self.unread.contains(&room) {
                    self.unread.push_back(room);
                }
            }
            // The last page was sent.
            self.share = None;
            let Some(&room) = self.unread.front() else {
                self.subscriber.caught_up();
                return Ok(None);
            };
            // A large page needs a share of the budget, and a reader that has taken some pages: one that takes nothing
            // costs no more than a small page.
            if self.paged_bytes >= PAGES_GROW_AFTER {
                self.share = self.gateway.budget.page(PAGE_BYTES_MAX);
            }
            let bytes_max = if self.share.is_some() { PAGE_BYTES_MAX } else { PAGE_BYTES_MIN };
            let Some(position) = usize::try_from(room).ok().and_then(|room| self.positions.get_mut(room))
            else {
                self.unread.pop_front();
                continue;
            };
            if position.closed {
                self.unread.pop_front();
                continue;
            }
            let page = match step(&self.gateway, (self.user, self.powers), position, bytes_max).await? {
                Step::Page(page) => page,
                Step::Wait => {
                    self.unread.pop_front();
                    continue;
                }
                Step::Skip(from) => {
                    position.seq = Seq(from.0 - 1);
                    let skipped = chat::Truncated { room_id: position.room.0, first_seq: from.0 };
                    return Ok(Some(Frame::Truncated(skipped).into()));
                }
                Step::Close => {
                    position.closed = true;
                    let (room_id, code) = (position.room.0, position.sight.refusal().word().to_owned());
                    self.gateway.feed.unfollow(position.room, &self.subscriber);
                    let closed = chat::RoomClosed { room_id, resume_token: self.token(), code };
                    return Ok(Some(Frame::RoomClosed(closed).into()));
                }
            };
            if page.first != position.seq.next() {
                let expected = position.seq.next();
                tracing::error!(
                    room = position.room.0,
                    first = page.first.0,
                    %expected,
                    "page does not start at the subscription's position"
                );
                return Err(Failure::not_sent(
                    "storage",
                    "the room's events are not consecutive here",
                    KEEPALIVE_INTERVAL,
                ));
            }
            position.seq = page.last;
            self.paged_bytes = self.paged_bytes.saturating_add(page.records.len());
            // A room of which the caller has seen the last visible event is closed with the next frame.
            let over = position.visible().is_none();
            if page.last == page.head && !over {
                self.unread.pop_front();
                if self.unread.is_empty() {
                    self.subscriber.caught_up();
                }
            } else {
                // Rotate, so that rooms take turns page by page.
                self.unread.rotate_left(1);
            }
            if let Some(since) = self.news_since.take() {
                self.gateway.metrics.delivery_latency.observe(since.elapsed().as_secs_f64());
            }
            self.gateway.metrics.delivered.inc();
            return Ok(Some(EncodedFrame::Events { records: page.records, token: self.token() }));
        }
    }

    fn token(&self) -> Bytes {
        let node = &self.gateway.node;
        token::encode(
            node.cluster,
            node.epoch,
            self.positions
                .iter()
                .filter(|position| !position.closed)
                .map(|position| (position.room, position.seq)),
        )
    }

    fn caught_up(&self) -> chat::CaughtUp {
        let open = self.positions.iter().filter(|position| !position.closed);
        let rooms = open.map(|position| chat::RoomPosition {
            room_id: position.room.0,
            name: position.name.clone(),
            seq: position.seq.0,
        });
        chat::CaughtUp { resume_token: self.token(), rooms: rooms.collect() }
    }

    fn keepalive_frame(&self) -> chat::Keepalive {
        let mut leaders: Vec<chat::LeaderHint> = Vec::new();
        let mut quorum = true;
        for position in self.positions.iter().filter(|position| !position.closed) {
            let shard = self.gateway.router.shards.of_room(position.room);
            if leaders.iter().any(|hint| hint.shard == shard.id.0) {
                continue;
            }
            quorum &= shard.leader_with_quorum().is_some();
            leaders.extend(shard.hint());
        }
        chat::Keepalive { resume_token: self.token(), leaders, quorum }
    }
}

/// The next step of a room: its next events, as far as the caller may see them.
async fn step(
    gateway: &Gateway,
    (user, powers): (UserId, Powers),
    position: &mut RoomCursor,
    bytes_max: usize,
) -> Result<Step, Failure> {
    loop {
        let events_max = match position.visible() {
            None => return Ok(Step::Close),
            Some((from, _)) if from > position.seq.next() => return Ok(Step::Skip(from)),
            Some((_, upto)) => upto.map_or(HISTORY_EVENTS_MAX, |upto| {
                let left = usize::try_from(upto.0 - position.seq.0).unwrap_or(usize::MAX);
                left.min(HISTORY_EVENTS_MAX)
            }),
        };
        let page = read(gateway, position, events_max, bytes_max).await?;
        // Asked after the page was read: a membership that ended before one of its events has raised the number.
        let number = position.reader.sight_number();
        if number == position.sight_number || planted(Bug::LeakAfterRemoval) {
            return Ok(if page.records.is_empty() { Step::Wait } else { Step::Page(page) });
        }
        let seen = position.reader.seen_room(position.room, user, powers).await?;
        let seen = seen.ok_or(Failure::Refused(Refusal::RoomUnknown))?;
        let same = seen.sight == position.sight;
        position.sight = seen.sight;
        position.sight_number = seen.number;
        if same {
            // What the caller sees has not changed, so the page is what it was; a later change gets a page of its own.
            return Ok(if page.records.is_empty() { Step::Wait } else { Step::Page(page) });
        }
    }
}

/// Reads the next page of a room, from memory if it is there.
async fn read(
    gateway: &Gateway,
    position: &RoomCursor,
    events_max: usize,
    bytes_max: usize,
) -> Result<EventPage, Failure> {
    let RoomCursor { room, seq, reader, .. } = position;
    if let Some(page) = reader.recent_page(*room, *seq, events_max, bytes_max) {
        return Ok(page);
    }
    gateway.metrics.catch_up_pages.inc();
    reader.page(*room, *seq, events_max, bytes_max).await
}
