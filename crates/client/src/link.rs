//! One `SendMessages` stream: sends requests as fast as the connection accepts them, and applies the results.
//!
//! The stream of batches is pulled: whenever HTTP/2 can send a frame, all waiting requests go into it. So no request
//! waits for a timer, and requests that arrive while the connection is busy share a frame.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use conclave_core::limits::SEND_BATCH_MAX;
use conclave_proto::chat::{Certainty, SendBatch};
use conclave_proto::status::{TOO_MANY_CONNECTIONS, from_status};
use futures::Stream;
use tonic::{Request, Status};

use crate::error::is_auth;
use crate::shared::SharedState;
use crate::state::{LinkId, Wakes};

/// The requests of one stream, as tonic pulls them.
struct RequestStream {
    shared: Arc<SharedState>,
    link: LinkId,
}

impl Stream for RequestStream {
    type Item = SendBatch;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SendBatch>> {
        let mut sends = Vec::new();
        let mut wakes = Wakes::default();
        let mut state = self.shared.lock();
        let exists = state.fill_batch(self.link, &mut sends, &mut wakes);
        if sends.is_empty() && exists {
            state.wait_for_more(self.link, context.waker());
        }
        drop(state);
        self.shared.wake(wakes);
        debug_assert!(sends.len() <= SEND_BATCH_MAX, "a frame stays within its bound");
        match (exists, sends.is_empty()) {
            (false, _) => Poll::Ready(None),
            (true, true) => Poll::Pending,
            (true, false) => Poll::Ready(Some(SendBatch { sends })),
        }
    }
}

/// Runs a stream until it ends, then removes its link from the state.
pub(crate) async fn run(shared: Arc<SharedState>, link: LinkId) {
    let Some((address, cancel)) = shared.lock().link(link) else { return };
    let ended = tokio::select! {
        () = cancel.cancelled() => None,
        () = shared.cancel.cancelled() => None,
        ended = run_until_end(&shared, link, &address) => Some(ended),
    };
    let mut wakes = Wakes::default();
    let mut state = shared.lock();
    if let Some(status) = ended {
        tracing::debug!(node = %address, %status, "send stream ended");
        let failure = from_status(&status);
        shared.nodes.redirected(&address, &failure);
        // A node that is leaving counts as failed too, so that it is not retried at once.
        if failure.code != TOO_MANY_CONNECTIONS {
            shared.nodes.mark_failed(&address);
        }
        if let Some(hint) = &failure.leader {
            shared.nodes.learn_leader(hint);
        }
        if failure.certainty() == Certainty::Refused && is_auth(&failure.code) {
            state.session_refused(failure.message, &mut wakes);
        }
    }
    state.remove_link(link, &mut wakes);
    drop(state);
    shared.wake(wakes);
}

async fn run_until_end(shared: &Arc<SharedState>, link: LinkId, address: &str) -> Status {
    match exchange(shared, link, address).await {
        Ok(()) => Status::unavailable("the node ended the stream"),
        Err(status) => status,
    }
}

async fn exchange(shared: &Arc<SharedState>, link: LinkId, address: &str) -> Result<(), Status> {
    shared.nodes.admit(address).await?;
    let mut chat = shared.nodes.chat(address)?;
    let mut request = Request::new(RequestStream { shared: Arc::clone(shared), link });
    let authorization =
        shared.authorization().ok_or_else(|| Status::unauthenticated("there is no session"))?;
    request.metadata_mut().insert("authorization", authorization);
    let mut results = chat.send_messages(request).await?.into_inner();
    let mut worked = false;
    while let Some(frame) = results.message().await? {
        if !worked {
            worked = true;
            shared.nodes.mark_worked(address);
        }
        let mut wakes = Wakes::default();
        shared.lock().apply_results(link, frame.results, &mut wakes);
        shared.wake(wakes);
    }
    Ok(())
}
