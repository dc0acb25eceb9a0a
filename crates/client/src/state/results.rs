//! The results that nodes send back.

use std::sync::Arc;
use std::time::Duration;

use conclave_proto::chat::{Failure, SendResult, send_result};
use conclave_proto::status::NOT_YET;
use tokio::time::Instant;

use super::{ClientState, LinkId, Wakes};
use crate::SendError;
use crate::journal::StoredSettled;
use crate::limits::REFUSED_KEPT_MAX;
use crate::outbox::SentCopy;
use crate::retry::Reply;
use crate::types::{Ack, RefusedRequest};

/// Nodes that must refuse a session before the session is reported as unusable.
const AUTH_TRIES: usize = 3;

impl ClientState {
    /// Applies the results of one frame.
    pub(crate) fn apply_results(&mut self, id: LinkId, results: Vec<SendResult>, wakes: &mut Wakes) {
        let now = Instant::now();
        for result in results {
            let Some(link) = self.links.get_mut(&id) else { return };
            let Some((sent, at)) = link.in_flight.take(result.index) else { continue };
            link.last_progress = now;
            link.races = 0;
            if link.silent_since.take().is_some() {
                self.nodes.mark_worked(&link.address);
            }
            // An exponentially smoothed mean, as TCP's round-trip time.
            link.smoothed_rtt = link.smoothed_rtt * 7 / 8 + now.duration_since(at) / 8;
            let address = Arc::clone(&link.address);
            match result.outcome {
                Some(send_result::Outcome::Ack(ack)) => {
                    self.auth_failures = 0;
                    let ack = Ack {
                        room_id: ack.room_id,
                        request_no: ack.request_no,
                        seq: ack.seq,
                        time_ms: ack.time_ms,
                        duplicate: ack.duplicate,
                        forgotten: ack.answer_forgotten,
                    };
                    self.learn_room(sent.room, ack.room_id);
                    let _ = self.reply(sent, Reply::Acked(ack), now, wakes);
                }
                Some(send_result::Outcome::Failure(failure)) => {
                    let hint = failure.leader.as_ref().is_some_and(|hint| self.nodes.learn_leader(hint));
                    let reply = self.refused_by_level(sent, &failure);
                    let reply = reply.unwrap_or_else(|| Reply::from_failure(&failure));
                    self.failure(sent, reply, hint, &address, now, wakes);
                }
                None => {
                    let _ = self.reply(sent, Reply::Unknown { after: Duration::ZERO }, now, wakes);
                }
            }
        }
        if let Some(link) = self.links.get_mut(&id)
            && !link.ready.is_empty()
        {
            wakes.feeds.extend(link.feed.take());
        }
    }

    /// The refusal of a request that the cluster's feature level does not allow. Such a request was submitted before a node
    /// had reported the level; sent again and again, it would hold back all later requests of its room until the last
    /// server is upgraded. A node that lags behind a level that others have reported is asked again instead.
    fn refused_by_level(&self, sent: SentCopy, failure: &Failure) -> Option<Reply> {
        if failure.code != NOT_YET {
            return None;
        }
        let needs = self.requests.level(sent)?;
        let lags = self.nodes.feature_level().is_some_and(|level| level >= needs);
        let (code, message) = (failure.code.clone(), failure.message.clone());
        (!lags).then_some(Reply::Refused { code, message, number_used: false })
    }

    fn failure(
        &mut self,
        sent: SentCopy,
        reply: Reply,
        hinted: bool,
        address: &str,
        now: Instant,
        wakes: &mut Wakes,
    ) {
        let elsewhere = match &reply {
            Reply::Unknown { .. } => !hinted,
            Reply::Auth { .. } => true,
            // The first failure is retried at the same node.
            Reply::NotSent { .. } => !hinted && self.requests.failures(sent.room) > 0,
            _ => false,
        };
        if let Reply::Auth { message } = &reply {
            self.session_refused(message.clone(), wakes);
        }
        let rewound = self.reply(sent, reply, now, wakes);
        if rewound && elsewhere {
            self.nodes.mark_failed(address);
            self.detach(sent.room, now, wakes);
        }
        if hinted {
            self.reroute = true;
            wakes.supervisor = true;
        }
    }

    /// A node has refused the session. Once enough nodes have, all waiters get the error.
    pub(crate) fn session_refused(&mut self, message: String, wakes: &mut Wakes) {
        self.auth_failures = self.auth_failures.saturating_add(1);
        if usize::try_from(self.auth_failures).unwrap_or(usize::MAX) >= self.nodes.count().max(AUTH_TRIES) {
            self.no_session(message, wakes);
        }
    }

    /// There is no usable session: all waiters get the error, and the requests stay in the outbox.
    pub(crate) fn no_session(&mut self, message: String, wakes: &mut Wakes) {
        wakes.failed = Some(SendError::Auth(message));
        wakes.waiters.extend(self.requests.take_waiters());
    }

    fn reply(&mut self, sent: SentCopy, reply: Reply, now: Instant, wakes: &mut Wakes) -> bool {
        let before = wakes.settled.len();
        let effect = self.requests.reply(sent, reply, now, rand::random(), &mut wakes.settled);
        for settled in &wakes.settled[before..] {
            let (Some(content), Err(error)) = (&settled.lost, &settled.outcome) else { continue };
            let room = self.requests.name(settled.room).to_string();
            if self.refused.len() == REFUSED_KEPT_MAX {
                tracing::warn!(room, %error, "request refused that nobody waits for");
                continue;
            }
            let code = error.code().unwrap_or_default().to_owned();
            let (content, message) = (content.clone(), error.to_string());
            self.refused.push(RefusedRequest { room, content, code, message });
        }
        if let Some(queue) = &mut self.queue {
            let was_idle = queue.unsynced_settled() == 0;
            for settled in &wakes.settled[before..] {
                let room = self.requests.name(settled.room).to_string();
                let record = StoredSettled { room, request_no: settled.number, consumed: settled.consumed };
                queue.settled(settled.room, self.requests.settled(settled.room), record);
            }
            queue.rewrite |= effect.renumbered;
            // The writer waits without a deadline while nothing is settled.
            wakes.queue |= queue.is_due() || (was_idle && queue.unsynced_settled() > 0);
        }
        if self.requests.needs_session() {
            wakes.supervisor = true;
        }
        self.finish_change(sent.room);
        self.enqueue(sent.room, now, wakes);
        effect.rewound
    }
}
