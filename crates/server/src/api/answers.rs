//! Answers with a page of events or rooms, until their clients have taken them.
//!
//! A client that asks and takes no answer leaves it in the node's memory for as long as its connection lives: the
//! transport takes the first piece of a body and does not ask for more without window. So the pieces are small copies,
//! each such answer has a share of the budget, a session has a few of them at a time, and a task drops what nobody takes.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;

use crate::budget::{Place, Share};
use crate::limits::{ANSWER_PIECE_BYTES, ANSWER_UNREAD_MAX};

/// How often unread answers are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The answers of one node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// Since when each answer waits to be taken.
    open: HashMap<u64, (Instant, Answer)>,
}

/// What is left of an answer; nothing once it was dropped.
type Answer = Arc<Mutex<Option<Left>>>;

#[derive(Debug)]
struct Left {
    body: Body,
    /// The rest of the part of the body that is being handed out.
    part: Bytes,
    _share: Share,
}

/// A body that may be dropped before it is read.
struct UnreadBody {
    answers: Answers,
    number: u64,
    answer: Answer,
    _place: Place,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic half-way, so a poisoned one is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers {
    /// Keeps the place and the share until the body has been read, dropped, or not been read for too long.
    pub(crate) fn hold(&self, response: Response<Body>, share: Share, place: Place) -> Response<Body> {
        response.map(|body| {
            let answer = Arc::new(Mutex::new(Some(Left { body, part: Bytes::new(), _share: share })));
            let mut table = lock(&self.0);
            let number = table.next;
            table.next += 1;
            table.open.insert(number, (Instant::now(), Arc::clone(&answer)));
            drop(table);
            Body::new(UnreadBody { answers: self.clone(), number, answer, _place: place })
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
        let is_old = |(since, _): &&(Instant, Answer)| since.elapsed() >= ANSWER_UNREAD_MAX;
        let old: Vec<Answer> =
            lock(&self.0).open.values().filter(is_old).map(|(_, answer)| Arc::clone(answer)).collect();
        // A place stays taken until the client gives up its call: it cannot make more of them.
        for answer in old {
            drop(lock(&answer).take());
        }
    }
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        lock(&self.answers.0).open.remove(&self.number);
    }
}

impl HttpBody for UnreadBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut left = lock(&self.answer);
        let Some(left) = left.as_mut() else {
            return Poll::Ready(Some(Err(Status::cancelled("the answer was not read in time"))));
        };
        if left.part.is_empty() {
            match ready!(Pin::new(&mut left.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(part) => left.part = part,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        // A copy: a slice would keep the whole part alive.
        let piece = left.part.len().min(ANSWER_PIECE_BYTES);
        let copy = Bytes::copy_from_slice(&left.part[..piece]);
        left.part.advance(piece);
        Poll::Ready(Some(Ok(Frame::data(copy))))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.answer).as_ref().is_some_and(|left| left.part.is_empty() && left.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use conclave_core::SessionId;
    use futures::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::budget::Budget;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_gives_back_its_share_of_the_budget() {
        let metrics = Metrics::new("n1", "test");
        let (budget, answers) = (Budget::new(&metrics.clients), Answers::default());
        let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let answer = || Response::new(Body::new(http_body_util::Full::new(Bytes::from(content.clone()))));
        let place = || budget.answer_places.admit(SessionId(1)).unwrap();
        let read = answers.hold(answer(), budget.answer().await.unwrap(), place());
        let unread = answers.hold(answer(), budget.answer().await.unwrap(), place());
        assert_eq!(read.into_body().collect().await.unwrap().to_bytes(), content);
        let one = metrics.clients.answers_held.get();
        assert!(one > 0);
        // What the transport takes of an unread answer is small and no part of the whole.
        let mut unread = unread.into_body();
        let piece = unread.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len(), ANSWER_PIECE_BYTES);
        assert!(piece.is_unique());
        tokio::time::advance(ANSWER_UNREAD_MAX - Duration::from_millis(1)).await;
        answers.drop_unread();
        assert_eq!(metrics.clients.answers_held.get(), one);
        tokio::time::advance(Duration::from_millis(1)).await;
        answers.drop_unread();
        assert_eq!(metrics.clients.answers_held.get(), 0);
        assert!(unread.collect().await.is_err());
        assert!(lock(&answers.0).open.is_empty());
    }
}
