//! The checks of a client's call that come before its body is read: who calls, and how large the body may be.
//!
//! A body is decoded into structures that may be fifty times as large, so a stranger's is not read at all.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use conclave_proto::chat::chat_service_server::ChatServiceServer;
use conclave_proto::status::Failure;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::Service;

use crate::api::auth::{self, Token};
use crate::api::gateway::Gateway;
use crate::limits::{CALL_BYTES_MAX, CALL_DEADLINE, PUBLIC_CALL_BYTES_MAX, SENDS_FRAME_BYTES_MAX};

/// The calls of a session. All others are public.
const OF_SESSIONS: [&str; 10] = [
    SUBSCRIPTION,
    SENDS,
    "SendMessage",
    "History",
    "ListRooms",
    "CreateRoom",
    "LeaveRoom",
    "OpenDirect",
    "Members",
    "Unread",
];
/// The call whose messages may be large.
const SENDS: &str = "SendMessages";
/// The calls of a session that may only read.
const READS: [&str; 5] = [SUBSCRIPTION, "History", "ListRooms", "Members", "Unread"];
/// The call that a node refuses when it is full.
const SUBSCRIPTION: &str = "JoinChat";

/// The calls whose answer may be a large page, or that read as much as such a page.
const PAGES: [&str; 4] = ["History", "ListRooms", "Members", "Unread"];

/// The chat service with these checks in front. A handler finds its caller in the extensions of its request.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    gateway: Gateway,
    public: ChatServiceServer<Gateway>,
    calls: ChatServiceServer<Gateway>,
    sends: ChatServiceServer<Gateway>,
}

impl Front {
    pub(crate) fn new(gateway: Gateway) -> Self {
        let service = |bytes| ChatServiceServer::new(gateway.clone()).max_decoding_message_size(bytes);
        Self {
            public: service(PUBLIC_CALL_BYTES_MAX),
            calls: service(CALL_BYTES_MAX),
            sends: service(SENDS_FRAME_BYTES_MAX),
            gateway,
        }
    }
}

impl NamedService for Front {
    const NAME: &'static str = <ChatServiceServer<Gateway> as NamedService>::NAME;
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The services behind are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let Some(method) = OF_SESSIONS.into_iter().find(|method| *method == name) else {
            let call = self.public.call(request);
            return public(call);
        };
        let mut service = if method == SENDS { self.sends.clone() } else { self.calls.clone() };
        let gateway = self.gateway.clone();
        let token = Token::read(request.headers());
        Box::pin(async move {
            let answered = async {
                let caller = admit(&gateway, method, token).await?;
                let session = caller.session;
                request.extensions_mut().insert(caller);
                match method {
                    SENDS => service.call(request).await.map_err(|never| match never {}),
                    _ if PAGES.contains(&method) => {
                        let place = gateway.budget.answer_places.admit(session)?;
                        let share = gateway.budget.answer().await?;
                        let answer = in_time(service.call(request)).await?;
                        Ok(gateway.answers.hold(answer, share, place))
                    }
                    _ => {
                        // Held from before the body is read until the request is decided, or the subscription is open.
                        let _place = gateway.budget.call_places.admit(session)?;
                        let _share = gateway.budget.call().await?;
                        in_time(service.call(request)).await
                    }
                }
            };
            Ok(counted(&gateway, method, answered.await))
        })
    }
}

/// The answer to a public call.
pub(crate) fn public(
    call: impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>> {
    Box::pin(async move { in_time(call).await.or_else(|failure| Ok(Status::from(failure).into_http())) })
}

/// The answer to a call, or its failure, which is counted.
pub(crate) fn counted(
    gateway: &Gateway,
    method: &str,
    answered: Result<Response<Body>, Failure>,
) -> Response<Body> {
    answered.unwrap_or_else(|failure| {
        gateway.metrics.call_failures.with_label_values(&[method, failure.code()]).inc();
        Status::from(failure).into_http()
    })
}

/// Runs a call with one answer, for no longer than it may take: a client may send its body slowly, or never.
pub(super) async fn in_time(
    call: impl Future<Output = Result<Response<Body>, Infallible>>,
) -> Result<Response<Body>, Failure> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Err(_) => {
            let why = format!("the call took longer than {} s", CALL_DEADLINE.as_secs());
            Err(Failure::unknown("timeout", why))
        }
    }
}

async fn admit(
    gateway: &Gateway,
    method: &str,
    token: Result<Token, Failure>,
) -> Result<auth::Caller, Failure> {
    // Checked first: a refused client should get its answer at once, and a full node has no time to spare.
    if method == SUBSCRIPTION
        && let Some(why) = gateway.node.sessions.refusal_for(token.as_ref().ok().map(Token::claimed))
    {
        return Err(gateway.placement.refused(why));
    }
    let caller = auth::caller(gateway, token?).await?;
    if caller.reads_only && !READS.contains(&method) {
        return Err(auth::reads_only());
    }
    Ok(caller)
}
