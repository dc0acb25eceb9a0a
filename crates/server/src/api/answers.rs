//! Answers with a page of events or rooms, until their clients have taken them.
//!
//! A client that asks and takes no answer leaves it in the node's memory for as long as its connection lives: the
//! transport does not even ask for the body then. So each such answer has a share of the budget, a session has a few of
//! them at a time, and a task drops those that nobody takes.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use conclave_core::SessionId;
use conclave_proto::status::Failure;
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;

use crate::budget::Share;
use crate::limits::{ANSWER_UNREAD_MAX, ANSWERS_PER_SESSION_MAX, BUSY_RETRY};

/// How often unread answers are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The answers of one node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Oldest first. A call takes its place here before it is answered.
    open: BTreeMap<u64, (Instant, Option<Answer>)>,
    of_sessions: HashMap<SessionId, u32>,
}

/// The body of an answer and its share of the budget; nothing once it was dropped.
type Answer = Arc<Mutex<Option<(Body, Share)>>>;

/// The place of one call of a session.
#[derive(Debug)]
pub(crate) struct Place {
    answers: Answers,
    number: u64,
    session: SessionId,
}

/// A body that may be dropped before it is read.
struct UnreadBody {
    answer: Answer,
    _place: Place,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic half-way, so a poisoned one is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers {
    /// Admits a call of a session, until its place is dropped.
    ///
    /// # Errors
    /// `too_many_calls`, not sent, if the session has its maximum number of them.
    pub(crate) fn admit(&self, session: SessionId) -> Result<Place, Failure> {
        let mut table = lock(&self.0);
        let count = table.of_sessions.entry(session).or_default();
        if *count >= ANSWERS_PER_SESSION_MAX {
            let why = format!(
                "a session may have {ANSWERS_PER_SESSION_MAX} such calls at a time; take their answers first"
            );
            return Err(Failure::not_sent("too_many_calls", why, BUSY_RETRY));
        }
        *count += 1;
        let number = table.next;
        table.next += 1;
        table.open.insert(number, (Instant::now(), None));
        Ok(Place { answers: self.clone(), number, session })
    }

    /// Keeps the place and the share until the body has been read, dropped, or not been read for too long.
    pub(crate) fn hold(&self, response: Response<Body>, share: Share, place: Place) -> Response<Body> {
        response.map(|body| {
            let answer = Arc::new(Mutex::new(Some((body, share))));
            lock(&self.0).open.insert(place.number, (Instant::now(), Some(Arc::clone(&answer))));
            Body::new(UnreadBody { answer, _place: place })
        })
    }

    /// Drops unread answers until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.drop_unread(),
                () = stop.cancelled() => return,
            }
        }
    }

    fn drop_unread(&self) {
        let unread: Vec<Answer> = {
            let table = lock(&self.0);
            let old = table.open.values().filter(|(since, _)| since.elapsed() >= ANSWER_UNREAD_MAX);
            old.filter_map(|(_, answer)| answer.clone()).collect()
        };
        // A place stays taken until the client gives up its call: it cannot make more of them.
        for answer in unread {
            drop(lock(&answer).take());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = lock(&self.answers.0);
        table.open.remove(&self.number);
        if let Some(count) = table.of_sessions.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                table.of_sessions.remove(&self.session);
            }
        }
    }
}

impl HttpBody for UnreadBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *lock(&self.answer) {
            Some((body, _)) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(Some(Err(Status::cancelled("the answer was not read in time")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.answer).as_ref().is_some_and(|(body, _)| body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::budget::Budget;
    use crate::metrics::Metrics;

    const ANA: SessionId = SessionId(1);

    fn answer(text: &'static str) -> Response<Body> {
        Response::new(Body::new(http_body_util::Full::new(Bytes::from_static(text.as_bytes()))))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_gives_back_its_share_of_the_budget() {
        let metrics = Metrics::new("n1", "test");
        let (budget, answers) = (Budget::new(&metrics.clients), Answers::default());
        let place = answers.admit(ANA).unwrap();
        let read = answers.hold(answer("read"), budget.answer().await.unwrap(), place);
        let place = answers.admit(ANA).unwrap();
        let unread = answers.hold(answer("unread"), budget.answer().await.unwrap(), place);
        assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), "read");
        let one = metrics.clients.answers_held.get();
        assert!(one > 0);
        tokio::time::advance(ANSWER_UNREAD_MAX - Duration::from_millis(1)).await;
        answers.drop_unread();
        assert_eq!(metrics.clients.answers_held.get(), one);
        tokio::time::advance(Duration::from_millis(1)).await;
        answers.drop_unread();
        assert_eq!(metrics.clients.answers_held.get(), 0);
        assert!(unread.into_body().collect().await.is_err());
    }

    #[test]
    fn a_session_has_a_few_of_these_calls_at_a_time() {
        let answers = Answers::default();
        let mut places: Vec<_> = (0..ANSWERS_PER_SESSION_MAX).map(|_| answers.admit(ANA).unwrap()).collect();
        assert_eq!(answers.admit(ANA).unwrap_err().code(), "too_many_calls");
        answers.admit(SessionId(2)).unwrap();
        places.pop();
        answers.admit(ANA).unwrap();
    }
}
