//! Fault injection that repeats calls to other nodes later, on a separate connection.
//!
//! Within one connection TCP neither duplicates nor reorders. But a caller without an answer may repeat its call, and
//! messages on two connections may overtake each other: a vote, an append or a proposal may arrive twice, the second
//! time after later messages. Raft and the request numbers have to tolerate that, and this module makes it happen
//! often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conclave_proto::fault::PeerFault;
use conclave_proto::raft;
use futures::stream::{self, FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::limits::ECHOES_MAX;
use crate::peer::PeerClient;

/// Deadline of a repeated call. No caller waits for the outcome.
const DEADLINE: Duration = Duration::from_secs(2);

/// A call that can be repeated.
#[derive(Debug)]
pub(crate) enum Call {
    /// A vote, or a pre-vote.
    Vote(raft::RequestVoteRequest),
    /// An append of entries.
    Append(raft::AppendEntriesRequest),
    /// Proposals for shards that the other node leads.
    Propose(raft::LinkRequest),
}

/// Observes the calls to one other node.
#[derive(Clone, Debug)]
pub(crate) struct Echo {
    rule: watch::Receiver<PeerFault>,
    calls: mpsc::Sender<Call>,
}

/// Repeats the observed calls.
#[derive(Debug)]
pub(crate) struct EchoTask {
    rule: watch::Receiver<PeerFault>,
    calls: mpsc::Receiver<Call>,
    client: PeerClient,
    /// Counts the repeated calls that were answered.
    answered: Arc<AtomicU64>,
}

/// Both halves, for a node that `client` reaches on a separate connection.
pub(crate) fn echo(
    rule: watch::Receiver<PeerFault>,
    client: PeerClient,
    answered: Arc<AtomicU64>,
) -> (Arc<Echo>, EchoTask) {
    let (sender, calls) = mpsc::channel(ECHOES_MAX);
    (Arc::new(Echo { rule: rule.clone(), calls: sender }), EchoTask { rule, calls, client, answered })
}

impl Echo {
    /// Observes a call that is about to be made. The call may be repeated once, unless too many wait already.
    pub(crate) fn observe(&self, call: impl FnOnce() -> Call) {
        let percent = self.rule.borrow().repeat_percent;
        if percent > 0 && rand::random_range(0..100) < percent {
            // A full queue only makes repeats less frequent.
            let _ = self.calls.try_send(call());
        }
    }
}

impl EchoTask {
    /// Repeats calls until the node stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut waiting = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(answered) = waiting.next(), if !waiting.is_empty() => {
                    self.answered.fetch_add(u64::from(answered), Ordering::Relaxed);
                }
                Some(call) = self.calls.recv(), if waiting.len() < ECHOES_MAX => {
                    let most = self.rule.borrow().repeat_delay_ms;
                    let after = Duration::from_millis(rand::random_range(0..=most).into());
                    waiting.push(again(self.client.clone(), call, after, self.rule.clone()));
                }
                else => return,
            }
        }
    }
}

/// Repeats a call and returns whether it was answered. The original caller has its own answer, or has given up.
async fn again(
    client: PeerClient,
    call: Call,
    after: Duration,
    mut rule: watch::Receiver<PeerFault>,
) -> bool {
    // Once the fault is healed, waiting calls are not repeated any more.
    let healed = rule.wait_for(|rule| rule.repeat_percent == 0);
    if tokio::time::timeout(after, healed).await.is_ok() {
        return false;
    }
    matches!(tokio::time::timeout(DEADLINE, make(client, call)).await, Ok(Ok(())))
}

async fn make(mut client: PeerClient, call: Call) -> Result<(), Status> {
    match call {
        Call::Vote(request) => client.request_vote(request).await.map(drop),
        Call::Append(request) => {
            let answers = client.append_entries(stream::iter([request])).await?;
            answers.into_inner().message().await.map(drop)
        }
        Call::Propose(request) => {
            let answers = client.link(stream::iter([request])).await?;
            answers.into_inner().message().await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_repeated_as_often_as_the_rule_says_up_to_the_queue_bound() {
        let rule = watch::Sender::new(PeerFault::default());
        let (calls, mut heard) = mpsc::channel(3);
        let echo = Echo { rule: rule.subscribe(), calls };
        let call = || Call::Propose(raft::LinkRequest::default());
        echo.observe(call);
        assert!(heard.try_recv().is_err(), "nothing is repeated without a fault");
        rule.send_replace(PeerFault { repeat_percent: 100, ..PeerFault::default() });
        for _ in 0..5 {
            echo.observe(call);
        }
        assert_eq!(std::iter::from_fn(|| heard.try_recv().ok()).count(), 3);
    }
}
