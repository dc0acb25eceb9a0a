//! Request numbers and stored replies, with which a send has one effect, however often it is repeated.
//!
//! For each (session, room) the machine keeps the last request number that it decided, and the
//! replies whose arrival the client has not yet confirmed. There is no time window: the number is
//! kept as long as the session. (Compare Raft, section 8, "client interaction"; and the
//! session registers of the Raft dissertation, section 6.3.)

use std::collections::VecDeque;

use crate::id::{RequestNo, Seq};
use crate::limits::STORED_REPLIES_MAX;
use crate::refusal::Refusal;

/// The count of a session's rooms in a data shard that knows that the session has ended.
pub const ENDED: u32 = u32::MAX;

/// The requests of one session in one room that the machine remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRoom {
    /// The last decided number. Only the next number can take effect.
    pub last: RequestNo,
    /// The newest decided requests, ascending and without gaps, ending at `last`.
    pub replies: VecDeque<StoredReply>,
}

/// The reply to one decided request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredReply {
    /// The number of the request.
    pub request: RequestNo,
    /// [`crate::Action::digest`] of the request's action, to tell a repeat from a number used twice.
    pub digest: u64,
    /// The decision.
    pub verdict: StoredOutcome,
    /// The event's time, milliseconds since 1970; 0 without an event.
    pub time_ms: i64,
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredOutcome {
    /// The request became the event at this position.
    Event(Seq),
    /// The request was valid, but the state already was as requested.
    Unchanged,
    /// The request was refused for good.
    Refused(Refusal),
}

/// The relation of a request number to the decided requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The next number: the request is to be decided.
    Next,
    /// Decided before; this is the reply.
    Repeat(StoredReply),
    /// Decided before, and the reply is no longer stored.
    Forgotten,
    /// The number was decided before, for another action.
    Reused,
    /// Beyond the next number, which is the value.
    Early(RequestNo),
}

impl SessionRoom {
    /// The standing of a request with this number and digest.
    #[must_use]
    pub fn standing(&self, request: RequestNo, digest: u64) -> Standing {
        let next = self.last.next();
        if request == next {
            return Standing::Next;
        }
        if request > next {
            return Standing::Early(next);
        }
        match self.find(request) {
            None => Standing::Forgotten,
            Some(stored) if stored.digest == digest => Standing::Repeat(*stored),
            Some(_) => Standing::Reused,
        }
    }

    /// Stores the reply to the next request, and drops the replies that the client has, up to `settled`.
    ///
    /// # Panics
    /// If the request is not the next one: only [`Standing::Next`] may be recorded.
    pub fn record(&mut self, reply: StoredReply, settled: RequestNo) {
        assert_eq!(reply.request, self.last.next(), "only the next request is recorded");
        self.last = reply.request;
        while self.replies.front().is_some_and(|old| old.request <= settled) {
            self.replies.pop_front();
        }
        if self.replies.len() == STORED_REPLIES_MAX {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
    }

    fn find(&self, request: RequestNo) -> Option<&StoredReply> {
        let first = self.replies.front()?.request;
        let at = request.0.checked_sub(first.0)?;
        self.replies.get(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(n: u64) -> StoredReply {
        StoredReply {
            request: RequestNo(n),
            digest: n * 10,
            verdict: StoredOutcome::Event(Seq(n)),
            time_ms: 0,
        }
    }

    #[test]
    fn repeats_get_their_reply_until_settled() {
        let mut session = SessionRoom::default();
        for n in 1..=5 {
            session.record(stored(n), RequestNo(0));
        }
        assert_eq!(session.standing(RequestNo(3), 30), Standing::Repeat(stored(3)));
        assert_eq!(session.standing(RequestNo(3), 31), Standing::Reused);
        assert_eq!(session.standing(RequestNo(6), 0), Standing::Next);
        assert_eq!(session.standing(RequestNo(7), 0), Standing::Early(RequestNo(6)));
        session.record(stored(6), RequestNo(4));
        assert_eq!(session.standing(RequestNo(4), 40), Standing::Forgotten);
        assert_eq!(session.standing(RequestNo(5), 50), Standing::Repeat(stored(5)));
    }

    #[test]
    fn stored_replies_are_bounded_even_if_the_client_settles_none() {
        let mut session = SessionRoom::default();
        for n in 1..=STORED_REPLIES_MAX as u64 + 10 {
            session.record(stored(n), RequestNo(0));
        }
        assert_eq!(session.replies.len(), STORED_REPLIES_MAX);
        assert_eq!(session.standing(RequestNo(10), 100), Standing::Forgotten);
        assert_eq!(session.standing(RequestNo(11), 110), Standing::Repeat(stored(11)));
    }
}
