//! One room's requests: numbered without gaps, sent in order, kept until settled.

use std::collections::VecDeque;
use std::sync::Arc;

use conclave_core::limits::STORED_REPLIES_MAX;
use conclave_proto::chat::{RoomRef, SendMessageRequest, send_message_request};
use tokio::time::Instant;

use crate::retry;
use crate::types::Content;

/// The maximum number of requests beyond the last one whose settlement is recorded here: the cluster keeps this many
/// replies for repeats.
const WINDOW: u64 = STORED_REPLIES_MAX as u64;

/// A request that is not settled, or one behind such a request.
#[derive(Debug)]
pub(super) struct Item<W> {
    pub(super) content: send_message_request::Content,
    pub(super) waiter: Option<W>,
    pub(super) status: ItemStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemStatus {
    /// Sent until it is settled.
    Pending,
    /// Not applied under this session, and never will be: it gets a number of the next session.
    Released,
    /// Settled, but a request before it is not.
    Decided,
}

/// One room's requests.
///
/// An *epoch* is a run of sends in ascending order without a failure. Every failure begins a new epoch at the oldest
/// unsettled request. Replies to copies of older epochs count only if they are final.
#[derive(Debug)]
pub(super) struct Room<W> {
    pub(super) name: Arc<str>,
    /// The room's id, 0 until it is known.
    pub(super) id: u64,
    /// The number of `items[0]`. All before it are settled.
    pub(super) first: u64,
    pub(super) items: VecDeque<Item<W>>,
    /// Requests up to this number may be sent: they are on disk, or the outbox is not durable.
    pub(super) stored: u64,
    /// Settlements up to this number are on disk, or the outbox is not durable.
    pub(super) settled_stored: u64,
    /// The last number sent in this epoch.
    pub(super) sent: u64,
    /// The number of requests of this epoch without an answer.
    pub(super) in_flight: u32,
    /// The last number sent in any epoch.
    pub(super) ever_sent: u64,
    /// The last number of which a copy of an earlier epoch may still arrive at the cluster: its outcome is in doubt.
    pub(super) in_doubt_upto: u64,
    /// The last number known to be used up.
    pub(super) decided: u64,
    /// `decided` when the epoch began.
    pub(super) decided_at_start: u64,
    pub(super) epoch: u32,
    /// Replies to copies of epochs before this one are ignored: their numbers have changed their meaning.
    pub(super) epoch_valid_from: u32,
    /// The number of a refused request, if the refusal did not use up the number.
    pub(super) gap: Option<u64>,
    /// Nothing is sent before this time.
    pub(super) not_before: Option<Instant>,
    /// Failures since the last final answer.
    pub(super) failures: u32,
}

impl<W> Room<W> {
    pub(super) fn new(name: Arc<str>, next: u64, decided: u64, stored: bool) -> Self {
        Self {
            name,
            id: 0,
            first: next,
            items: VecDeque::new(),
            stored: if stored { u64::MAX } else { next - 1 },
            settled_stored: if stored { u64::MAX } else { next - 1 },
            sent: next - 1,
            in_flight: 0,
            ever_sent: next - 1,
            in_doubt_upto: 0,
            decided,
            decided_at_start: decided,
            epoch: 0,
            epoch_valid_from: 0,
            gap: None,
            not_before: None,
            failures: 0,
        }
    }

    /// The number that the next request gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// The number up to which all requests are settled.
    pub(super) fn settled(&self) -> u64 {
        self.first - 1
    }

    pub(super) fn push(&mut self, content: Content, waiter: Option<W>) -> u64 {
        let number = self.next();
        self.items.push_back(Item { content: content.into_wire(), waiter, status: ItemStatus::Pending });
        number
    }

    pub(super) fn item(&mut self, number: u64) -> Option<&mut Item<W>> {
        let at = number.checked_sub(self.first)?;
        self.items.get_mut(usize::try_from(at).ok()?)
    }

    /// Unsettled requests with their numbers.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = (u64, &Item<W>)> {
        (self.first..).zip(&self.items).filter(|(_, item)| item.status != ItemStatus::Decided)
    }

    /// The last number that may be sent now.
    fn sendable_upto(&self, moving: bool) -> u64 {
        let window = self.settled_stored.min(self.settled()).saturating_add(WINDOW);
        // Requests behind a gap wait until the gap is closed.
        let before_gap = self.gap.map_or(u64::MAX, |gap| gap - 1);
        let last = (self.next() - 1).min(self.stored).min(window).min(before_gap);
        if moving { last.min(self.ever_sent) } else { last }
    }

    /// Whether there is something to send, regardless of `not_before`.
    pub(super) fn wants_to_send(&self, moving: bool) -> bool {
        self.sent < self.sendable_upto(moving)
    }

    /// Takes the next request to send.
    pub(super) fn take(&mut self, moving: bool) -> Option<(u64, SendMessageRequest)> {
        let upto = self.sendable_upto(moving);
        let settled = self.settled_stored.min(self.settled());
        let room = if self.id == 0 {
            RoomRef { name: self.name.to_string(), id: 0 }
        } else {
            RoomRef { name: String::new(), id: self.id }
        };
        while self.sent < upto {
            self.sent += 1;
            let number = self.sent;
            let Some(item) = self.item(number).filter(|item| item.status == ItemStatus::Pending) else {
                continue;
            };
            // Who writes in an open room becomes a member of it; who moderates it, or leaves it, does not.
            let join_first = is_message(&item.content);
            let content = Some(item.content.clone());
            self.ever_sent = self.ever_sent.max(number);
            self.in_flight += 1;
            return Some((
                number,
                SendMessageRequest {
                    room: Some(room),
                    request_no: number,
                    settled_no: settled,
                    join_first,
                    content,
                },
            ));
        }
        None
    }

    /// Begins a new epoch: everything without an answer will be sent again.
    pub(super) fn rewind(&mut self) {
        if self.in_flight > 0 {
            self.in_doubt_upto = self.in_doubt_upto.max(self.sent);
        }
        self.in_flight = 0;
        self.sent = self.settled();
        self.epoch = self.epoch.wrapping_add(1);
        self.decided_at_start = self.decided;
    }

    /// Delays the next send: by `after`, which the node asked for, or by the retry delay if that is longer.
    pub(super) fn hold(&mut self, after: std::time::Duration, now: Instant, random: f64) {
        let wait = after.max(retry::delay(self.failures, random));
        self.failures = self.failures.saturating_add(1);
        self.not_before = (!wait.is_zero()).then(|| now + wait);
    }

    /// Removes settled requests from the front.
    pub(super) fn settle_front(&mut self) {
        while self.items.front().is_some_and(|item| item.status == ItemStatus::Decided) {
            self.items.pop_front();
            self.first += 1;
        }
        self.sent = self.sent.max(self.settled());
    }

    /// Gives the unsettled requests new numbers from `first` on. Replies to older copies are ignored from here on.
    pub(super) fn renumber(&mut self, first: u64, durable: bool) {
        self.items.retain(|item| item.status != ItemStatus::Decided);
        for item in &mut self.items {
            item.status = ItemStatus::Pending;
        }
        self.first = first;
        self.sent = first - 1;
        self.ever_sent = first - 1;
        self.in_doubt_upto = 0;
        self.in_flight = 0;
        self.decided = self.decided.min(first - 1);
        self.decided_at_start = self.decided;
        self.epoch = self.epoch.wrapping_add(1);
        self.epoch_valid_from = self.epoch;
        self.gap = None;
        if durable {
            // The file is rewritten with the new numbers before any of them is sent.
            self.stored = first - 1;
            self.settled_stored = first - 1;
        }
    }

    /// Whether no request of this room can still be applied under the session.
    pub(super) fn drained(&self) -> bool {
        let upto = self.ever_sent;
        self.unsettled().all(|(number, item)| number > upto || item.status == ItemStatus::Released)
    }

    /// Whether a copy with number `from` or higher may still arrive at the cluster.
    pub(super) fn in_doubt_from(&self, from: u64) -> bool {
        self.in_doubt_upto >= from
    }
}
fn is_message(content: &send_message_request::Content) -> bool {
    use conclave_proto::chat::{RoomAction, room_action::Kind};
    use send_message_request::Content;
    matches!(
        content,
        Content::Text(_) | Content::Action(RoomAction { kind: Some(Kind::Text(_) | Kind::Post(_)) })
    )
}
