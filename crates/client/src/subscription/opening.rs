//! Opens a stream: at one node and, if that one is slow to answer, at a second one at the same time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use conclave_core::limits::CLIENT_MESSAGE_BYTES_MAX;
use conclave_proto::chat::{Certainty, JoinChatRequest};
use conclave_proto::status::from_status;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::handle::Handle;
use crate::limits::{CALL_RACE_AFTER, CLIENT_OPEN_TIMEOUT};
use crate::raw::Frame;
use crate::sender::sleep_until;

/// The node's address, and the opened stream or the failure.
pub(super) type Opened = (Arc<str>, Result<Streaming<Frame>, Status>);

/// One attempt at one node.
pub(super) type OpenAttempt = Pin<Box<dyn Future<Output = Opened> + Send>>;

/// A stream that is being opened. The subscription takes one of the attempts; the others are dropped, which ends them.
pub(super) struct Opening {
    request: JoinChatRequest,
    first: Arc<str>,
    racers: FuturesUnordered<OpenAttempt>,
    /// When a second node is tried. Only one more, so that a slow cluster is not loaded further.
    race_at: Option<Instant>,
}

impl Opening {
    pub(super) fn begin(handle: &Handle, address: &Arc<str>, request: JoinChatRequest) -> Self {
        let racers = FuturesUnordered::from_iter([open(handle, address, request.clone())]);
        let race_at = Some(Instant::now() + CALL_RACE_AFTER);
        Self { request, first: Arc::clone(address), racers, race_at }
    }

    /// The first stream that opens, or the last failure. Cancel safe.
    pub(super) async fn first(&mut self, handle: &Handle) -> Opened {
        loop {
            tokio::select! {
                biased;
                Some((address, opened)) = self.racers.next() => {
                    let Err(status) = &opened else { return (address, opened) };
                    let failure = from_status(status);
                    if self.racers.is_empty() || failure.certainty() == Certainty::Refused {
                        return (address, opened);
                    }
                    if handle.shared.nodes.redirected(&address, &failure).is_none() {
                        handle.shared.nodes.mark_failed(&address);
                    }
                }
                () = sleep_until(self.race_at), if self.race_at.is_some() => {
                    self.race_at = None;
                    let other = handle.shared.nodes.pick(&[Arc::clone(&self.first)]);
                    if let Some(other) = other.filter(|pick| pick.at.is_none()) {
                        self.racers.push(open(handle, &other.address, self.request.clone()));
                    }
                }
            }
        }
    }
}

/// `ChatService.JoinChat`, called by path because its frames keep their events undecoded.
const JOIN_CHAT: &str = "/conclave.chat.v1.ChatService/JoinChat";

/// Begins an attempt at one node.
pub(super) fn open(handle: &Handle, address: &Arc<str>, request: JoinChatRequest) -> OpenAttempt {
    let shared = Arc::clone(&handle.shared);
    let address = Arc::clone(address);
    let node = Arc::clone(&address);
    let opening = async move {
        let authorized = async |request| {
            let mut request = Request::new(request);
            if let Some(authorization) = shared.admit(&node).await? {
                request.metadata_mut().insert("authorization", authorization);
            }
            let channel = shared.nodes.channel(&node)?;
            let mut grpc = Grpc::new(channel).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX);
            let codec = ProstCodec::<JoinChatRequest, Frame>::default();
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let opened = grpc.server_streaming(request, PathAndQuery::from_static(JOIN_CHAT), codec).await;
            opened.map(tonic::Response::into_inner)
        };
        match authorized(request.clone()).await {
            // It has restarted, and does not know a client that only reads any more.
            Err(status) if shared.nodes.forget_reading(&node, &status) => authorized(request).await,
            opened => opened,
        }
    };
    Box::pin(async move {
        let opened = tokio::time::timeout(CLIENT_OPEN_TIMEOUT, opening).await;
        (address, opened.unwrap_or_else(|_| Err(Status::unavailable("the node did not answer"))))
    })
}
