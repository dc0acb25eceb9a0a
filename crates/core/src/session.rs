//! Request numbers and stored replies: why a send that is repeated for ever has one effect.
//!
//! For each (session, room) the machine keeps the last request number that it decided and the
//! replies of the requests that the client has not yet settled. There is no time window: the number
//! stays for as long as the session does. (Compare Raft, section 8, "client interaction"; and the
//! session registers of the Raft dissertation, section 6.3.)

use std::collections::VecDeque;

use crate::id::{RequestNo, Seq};
use crate::limits::STORED_REPLIES_MAX;
use crate::refusal::Refusal;

/// What the machine remembers of one session in one room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRoom {
    /// The last number decided. The next one is the only one that can take effect.
    pub last: RequestNo,
    /// The newest decided requests, ascending and without gaps, ending at `last`.
    pub replies: VecDeque<StoredReply>,
}

/// The reply to one decided request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredReply {
    /// Which request.
    pub request: RequestNo,
    /// [`crate::Action::digest`] of what it asked for, to tell a repeat from a number used twice.
    pub digest: u64,
    /// What came of it.
    pub verdict: Verdict,
    /// The event's time; 0 where there is none.
    pub time_ms: i64,
}

/// What came of a decided request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It became the event at this place.
    Event(Seq),
    /// There was nothing to change.
    Unchanged,
    /// It was refused, for good.
    Refused(Refusal),
}

/// How a request number stands to what has been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The next number: decide it.
    Next,
    /// Decided before; this is the reply.
    Repeat(StoredReply),
    /// Decided before, so long ago that the reply is forgotten.
    Forgotten,
    /// Decided before, but it asked for something else.
    Reused,
    /// Beyond the next number, which is given.
    Early(RequestNo),
}

impl SessionRoom {
    /// Where a request with this number and digest stands.
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

    /// Stores the reply to the next request and forgets those that the client has settled.
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
        StoredReply { request: RequestNo(n), digest: n * 10, verdict: Verdict::Event(Seq(n)), time_ms: 0 }
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
    fn a_client_that_settles_nothing_is_still_bounded() {
        let mut session = SessionRoom::default();
        for n in 1..=STORED_REPLIES_MAX as u64 + 10 {
            session.record(stored(n), RequestNo(0));
        }
        assert_eq!(session.replies.len(), STORED_REPLIES_MAX);
        assert_eq!(session.standing(RequestNo(10), 100), Standing::Forgotten);
        assert_eq!(session.standing(RequestNo(11), 110), Standing::Repeat(stored(11)));
    }
}
