//! Calls that are not sends. All of them are idempotent: a call is repeated at another node when one fails, and raced
//! at a second node when the first is slow.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use conclave_proto::chat::{self, Certainty};
use conclave_proto::status::from_status;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};

use crate::error::{CallError, is_auth};
use crate::limits::{CALL_RACE_AFTER, CALL_RACERS_MAX};
use crate::nodes::{Chat, Nodes, Service};
use crate::retry;
use crate::shared::SharedState;
use crate::types::Pong;

/// Makes calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) shared: Arc<SharedState>,
}

/// How a call is made.
#[derive(Clone, Debug)]
pub(crate) struct How {
    /// Timeout over all attempts.
    pub(crate) patience: Duration,
    /// Nodes at which the call is made at the same time; 1 for a call whose second copy does not have the effect of the first.
    pub(crate) racers: usize,
    /// The `authorization` metadata, in place of what authorizes the client.
    pub(crate) authorization: Option<MetadataValue<Ascii>>,
}

impl How {
    /// A call that is made at a second node when the first one is slow.
    pub(crate) fn raced(patience: Duration) -> Self {
        Self { patience, racers: CALL_RACERS_MAX, authorization: None }
    }

    /// A call that is made at one node after the other.
    pub(crate) fn one_by_one(patience: Duration) -> Self {
        Self { patience, racers: 1, authorization: None }
    }
}

/// Nodes that must refuse a session before the call fails: a single node may not know a new session yet.
const AUTH_TRIES: u32 = 3;

impl Caller {
    /// Calls nodes until one answers, or `patience` is over.
    pub(crate) async fn call<S, Q, A, F>(
        &self,
        patience: Duration,
        question: Q,
        call: impl Fn(S, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        S: Service,
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_as(How::raced(patience), question, call).await
    }

    /// Calls nodes in this way until one answers, or the patience is over.
    pub(crate) async fn call_as<S, Q, A, F>(
        &self,
        how: How,
        question: Q,
        call: impl Fn(S, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        S: Service,
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let How { patience, racers: racers_max, authorization } = how;
        let begun = Instant::now();
        let deadline = begun + patience;
        let nodes = &self.shared.nodes;
        let mut racers = FuturesUnordered::new();
        let mut running: Vec<Arc<str>> = Vec::new();
        let mut tried: Vec<Arc<str>> = Vec::new();
        // Nodes that a full or leaving node has named.
        let mut suggested: VecDeque<Arc<str>> = VecDeque::new();
        let mut last: Option<chat::Failure> = None;
        let mut failures = 0_u32;
        let mut refusals = 0_u32;
        let mut next_try = begun;
        loop {
            let now = Instant::now();
            if next_try <= now
                && racers.len() < racers_max
                && let Some(address) = next_node(nodes, &mut suggested, &tried, &running)
            {
                running.push(Arc::clone(&address));
                tried.push(Arc::clone(&address));
                let (call, question, authorization) = (&call, question.clone(), authorization.clone());
                racers.push(async move {
                    let answer = self.call_once(&address, authorization, question, call).await;
                    (address, answer)
                });
                next_try = now + CALL_RACE_AFTER;
            } else if next_try <= now {
                next_try = now + CALL_RACE_AFTER;
            }
            tokio::select! {
                biased;
                Some((address, answer)) = racers.next(), if !racers.is_empty() => {
                    running.retain(|other| *other != address);
                    let status = match answer {
                        Ok(answer) => {
                            nodes.mark_worked(&address);
                            return Ok(answer.into_inner());
                        }
                        Err(status) => status,
                    };
                    let mut failure = from_status(&status);
                    let awaits_session = authorization.is_none() && self.shared.awaits_session();
                    if is_auth(&failure.code) && awaits_session {
                        NO_SESSION_YET.clone_into(&mut failure.message);
                    } else if failure.certainty() == Certainty::Refused {
                        refusals += 1;
                        if !is_auth(&failure.code) || refusals >= AUTH_TRIES {
                            return Err(CallError::last_word(failure));
                        }
                    }
                    if let Some(hint) = &failure.leader {
                        nodes.learn_leader(hint);
                    }
                    if failure.code == CONNECTION {
                        nodes.mark_failed(&address);
                    }
                    if let Some(others) = nodes.redirected(&address, &failure) {
                        suggested = others.into();
                    }
                    if tried.len() >= nodes.count() {
                        tried.clear();
                    }
                    let asked_for = Duration::from_millis(failure.retry_after_ms.into());
                    let all = u32::try_from(nodes.count()).unwrap_or(u32::MAX);
                    // Each node is tried once without delay.
                    let wait = retry::delay((failures + 1).saturating_sub(all), rand::random());
                    failures = failures.saturating_add(1);
                    next_try = Instant::now() + if failures < all { Duration::ZERO } else { wait.max(asked_for) };
                    keep_most_telling(&mut last, failure);
                }
                () = tokio::time::sleep_until(next_try) => {}
                () = tokio::time::sleep_until(deadline) => return Err(failed_after(last, patience)),
                () = self.shared.cancel.cancelled() => return Err(CallError::Closed),
            }
        }
    }

    /// Calls one node, with what authorizes this client there, or with the given authorization. A node that has restarted does
    /// not know a client that only reads any more, and is asked anew.
    async fn call_once<S, Q, A, F>(
        &self,
        address: &str,
        given: Option<MetadataValue<Ascii>>,
        question: Q,
        call: impl Fn(S, Request<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        S: Service,
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let nodes = &self.shared.nodes;
        let authorized = async |question| {
            let service = S::over(nodes.channel(address)?);
            let mut request = Request::new(question);
            let authorization = match given.clone() {
                Some(given) => nodes.admit(address).await.map(|()| Some(given))?,
                None => self.shared.admit(address).await?,
            };
            if let Some(authorization) = authorization {
                request.metadata_mut().insert("authorization", authorization);
            }
            call(service, request).await
        };
        match authorized(question.clone()).await {
            Err(status) if nodes.forget_reading(address, &status) => authorized(question).await,
            answer => answer,
        }
    }

    /// The status of one node, or of the whole cluster as one node sees it.
    pub(crate) async fn status(
        &self,
        local_only: bool,
        patience: Duration,
    ) -> Result<chat::GetServerStatusResponse, CallError> {
        let question = chat::GetServerStatusRequest { local_only };
        // The node gives the others a part of this time for their answers.
        self.call(patience, question, |mut chat: Chat, mut request| async move {
            request.set_timeout(patience);
            chat.get_server_status(request).await
        })
        .await
    }

    /// Calls one node, once.
    pub(crate) async fn call_node<S, Q, A, F>(
        &self,
        address: &str,
        patience: Duration,
        question: Q,
        call: impl Fn(S, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        S: Service,
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let call = self.call_once(address, None, question, call);
        let answer = tokio::select! {
            answer = tokio::time::timeout(patience, call) => answer,
            () = self.shared.cancel.cancelled() => return Err(CallError::Closed),
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                let failure = from_status(&status);
                if failure.certainty() == Certainty::Refused {
                    return Err(CallError::last_word(failure));
                }
                Err(failed_after(Some(failure), patience))
            }
            Err(_) => Err(failed_after(None, patience)),
        }
    }

    /// Pings one node.
    pub(crate) async fn ping(&self, address: &str, patience: Duration) -> Result<Pong, CallError> {
        let begun = Instant::now();
        let question = chat::PingRequest { payload: Vec::new() };
        let answer = self
            .call_node(address, patience, question, |mut chat: Chat, request| async move {
                chat.ping(request).await
            })
            .await?;
        Ok(Pong {
            address: address.to_owned(),
            node_id: answer.node_id,
            version: answer.version,
            time_ms: answer.time_ms,
            took: begun.elapsed(),
        })
    }
}

/// The next node to call: one that was named, or one not tried yet, or any without a running call.
fn next_node(
    nodes: &Nodes,
    suggested: &mut VecDeque<Arc<str>>,
    tried: &[Arc<str>],
    running: &[Arc<str>],
) -> Option<Arc<str>> {
    let suggested = std::iter::from_fn(|| suggested.pop_front())
        .find(|address| !tried.contains(address) && !nodes.refuses_clients(address));
    let pick = |but| nodes.pick(but).map(|pick| pick.address);
    suggested.or_else(|| pick(tried)).or_else(|| pick(running))
}

fn failed_after(last: Option<chat::Failure>, after: Duration) -> CallError {
    match last {
        Some(failure) if failure.code != CONNECTION => {
            CallError::Unavailable { code: failure.code, message: failure.message, after }
        }
        Some(failure) => CallError::NoServer { after, last: failure.message },
        None => CallError::NoServer { after, last: "no answer".to_owned() },
    }
}

/// Keeps the failure that tells more: the answer of a server outweighs a connection that failed later.
fn keep_most_telling(last: &mut Option<chat::Failure>, failure: chat::Failure) {
    let is_answer = |failure: &chat::Failure| failure.code != CONNECTION;
    if is_answer(&failure) || !last.as_ref().is_some_and(is_answer) {
        *last = Some(failure);
    }
}

/// Why a call of a client that still has to open its first session was not completed.
const NO_SESSION_YET: &str = "there is no session yet, which takes a majority of the servers";
/// The code of failures of the connection, which no conclave server has sent.
const CONNECTION: &str = "connection";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_server_outweighs_a_connection_that_failed_later() {
        let failure = |code: &str| chat::Failure { code: code.to_owned(), ..chat::Failure::default() };
        let mut last = None;
        keep_most_telling(&mut last, failure(CONNECTION));
        assert!(matches!(failed_after(last.clone(), Duration::ZERO), CallError::NoServer { .. }));
        keep_most_telling(&mut last, failure("busy"));
        keep_most_telling(&mut last, failure("no_quorum"));
        keep_most_telling(&mut last, failure(CONNECTION));
        let error = failed_after(last, Duration::ZERO);
        assert!(matches!(&error, CallError::Unavailable { code, .. } if code == "no_quorum"), "{error:?}");
    }
}
