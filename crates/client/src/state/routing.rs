//! Chooses the link of each room: to the leader of its shard if the leader is known, and to another node if that one
//! fails, is silent or is leaving.
//!
//! What must stay true: a room changes its link either when it has nothing in flight on the old one, or together with
//! sending every request without an outcome again. So requests never overtake each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ClientState, InFlight, Link, LinkId, Wakes};
use crate::limits::{SEND_RACE_AFTER, SEND_RACE_AFTER_MAX};
use crate::outbox::RoomKey;
use crate::types::Route;

impl ClientState {
    /// Does what is due: requeues rooms whose delay is over, gives links to rooms without one, leaves silent links.
    /// Returns the links to open, and when to poll again.
    pub(crate) fn poll(&mut self, now: Instant, wakes: &mut Wakes) -> (Vec<LinkId>, Option<Instant>) {
        let mut next = None;
        for room in std::mem::take(&mut self.held) {
            match self.requests.held_until(room).filter(|at| *at > now) {
                // The room stays held. Waking the supervisor for it would call this function in a busy loop.
                Some(at) => {
                    self.held.push(room);
                    next = earliest(next, Some(at));
                }
                None => {
                    self.path(room).held = false;
                    self.enqueue(room, now, wakes);
                }
            }
        }
        let version = self.nodes.version();
        if std::mem::take(&mut self.reroute) || version != self.routed_version {
            self.routed_version = version;
            self.reroute_rooms(now, wakes);
        }
        next = earliest(next, self.race_silent_links(now, wakes));
        let mut open = Vec::new();
        if self.session.is_some() && !self.closed {
            for room in std::mem::take(&mut self.unrouted) {
                self.path(room).queued = false;
                if !self.requests.ready(room, now) {
                    self.enqueue(room, now, wakes);
                    continue;
                }
                match self.choose_node(room) {
                    Ok(address) => {
                        let link = self.link_to(&address, now, &mut open);
                        self.path(room).link = Some(link);
                        self.enqueue(room, now, wakes);
                    }
                    Err(at) => {
                        self.path(room).queued = true;
                        self.unrouted.push(room);
                        next = earliest(next, at);
                    }
                }
            }
        }
        self.watched = next.is_some();
        (open, next)
    }

    /// The node to send the room's requests to, or when to choose again.
    fn choose_node(&self, room: RoomKey) -> Result<Arc<str>, Option<Instant>> {
        if self.route == Route::Leader
            && let Some(leader) = self.nodes.leader_of(self.requests.id(room))
        {
            return Ok(leader);
        }
        match self.nodes.pick(&[]) {
            Some(pick) if pick.at.is_none() => Ok(pick.address),
            Some(pick) => Err(pick.at),
            None => Err(None),
        }
    }

    fn link_to(&mut self, address: &Arc<str>, now: Instant, open: &mut Vec<LinkId>) -> LinkId {
        let alive = |link: &Link| {
            link.address == *address && link.silent_since.is_none() && !link.cancel.is_cancelled()
        };
        if let Some((id, _)) = self.links.iter().find(|(_, link)| alive(link)) {
            return *id;
        }
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let link = Link {
            address: Arc::clone(address),
            feed: None,
            ready: VecDeque::new(),
            in_flight: InFlight::default(),
            last_progress: now,
            smoothed_rtt: Duration::ZERO,
            races: 0,
            silent_since: None,
            cancel: CancellationToken::new(),
        };
        self.links.insert(id, link);
        open.push(id);
        id
    }

    /// Moves rooms whose leader is another node now, and rooms at a node that is avoided, as soon as they have nothing
    /// in flight.
    fn reroute_rooms(&mut self, now: Instant, wakes: &mut Wakes) {
        for room in self.requests.keys().collect::<Vec<_>>() {
            let Some(link) = self.path(room).link else { continue };
            let Some(at) = self.links.get(&link).map(|link| Arc::clone(&link.address)) else { continue };
            let better = match self.route {
                Route::Leader => {
                    self.nodes.leader_of(self.requests.id(room)).is_some_and(|leader| leader != at)
                }
                Route::Pinned => false,
            };
            let worse = self.nodes.avoided(&at) && !self.nodes.all_failed();
            if !better && !worse {
                continue;
            }
            if self.requests.has_in_flight(room) {
                self.path(room).changing = true;
            } else {
                self.detach(room, now, wakes);
            }
        }
    }

    /// Sends the requests of a silent link to another node as well. Returns when to check again. The silent link stays
    /// open for late results, at most for `SEND_RACE_AFTER_MAX`.
    fn race_silent_links(&mut self, now: Instant, wakes: &mut Wakes) -> Option<Instant> {
        let mut next = None;
        let mut silent = Vec::new();
        for (id, link) in &mut self.links {
            if link.in_flight.count() == 0 {
                continue;
            }
            if let Some(since) = link.silent_since {
                let over = since + SEND_RACE_AFTER_MAX;
                if over <= now {
                    link.cancel.cancel();
                } else {
                    next = earliest(next, Some(over));
                }
                continue;
            }
            let patience = SEND_RACE_AFTER.max(link.smoothed_rtt * 8).saturating_mul(1 << link.races.min(8));
            let due = link.last_progress + patience.min(SEND_RACE_AFTER_MAX);
            if due > now {
                next = earliest(next, Some(due));
                continue;
            }
            link.races += 1;
            link.last_progress = now;
            silent.push((*id, Arc::clone(&link.address)));
            next = earliest(next, Some(now + SEND_RACE_AFTER));
        }
        for (id, address) in silent {
            if self.nodes.pick(&[Arc::clone(&address)]).is_none_or(|other| other.at.is_some()) {
                continue;
            }
            tracing::debug!(node = %address, "link silent, requests sent to another node as well");
            self.nodes.mark_silent(&address);
            if let Some(link) = self.links.get_mut(&id) {
                link.silent_since = Some(now);
            }
            for room in self.requests.keys().collect::<Vec<_>>() {
                if self.path(room).link == Some(id) {
                    self.detach(room, now, wakes);
                }
            }
        }
        next
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;
    use crate::nodes::Nodes;
    use crate::retry::Reply;

    #[test]
    fn a_held_room_does_not_wake_the_supervisor() {
        let mut state = ClientState::new(Route::Pinned, Arc::new(Nodes::in_order()), false);
        let (waiter, _answer) = tokio::sync::oneshot::channel();
        let now = Instant::now();
        let (mut wakes, mut settled) = (Wakes::default(), Vec::new());
        state.submit("general", Content::Text("hello".to_owned()), waiter, &mut wakes);
        let room = state.requests.keys().next().unwrap();
        state.unrouted.clear();
        state.path(room).queued = false;
        let (sent, _) = state.requests.take(room).unwrap();
        let wait = Duration::from_secs(1);
        let _ = state.requests.reply(sent, Reply::NotSent { after: wait }, now, 0.0, &mut settled);
        state.enqueue(room, now, &mut wakes);
        assert_eq!(state.held, [room]);

        let mut wakes = Wakes::default();
        let (_, next) = state.poll(now, &mut wakes);
        assert_eq!(
            (next, wakes.supervisor),
            (Some(now + wait), false),
            "the room is held and the supervisor sleeps"
        );
        let mut wakes = Wakes::default();
        let _ = state.poll(now + wait, &mut wakes);
        assert!(state.held.is_empty() && state.path(room).queued, "the room is queued after its delay");
    }
}
