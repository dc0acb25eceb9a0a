//! Clients that are pinned to one server, also while it is cut off. They test what an isolated leader answers to clients that
//! still reach it; ordinary clients would move to another server.
//!
//! They use the gRPC API directly, because the client library moves to another server by itself.

mod follower;
mod prober;
mod sender;

use std::time::Duration;

use conclave_client::api::OpenSessionRequest;
use conclave_proto::chat::Failure;
use conclave_proto::chat::chat_service_client::ChatServiceClient;
use conclave_proto::status::from_status;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::workload::{Dial, Server, WorkloadError};

pub(super) use follower::Follower;
pub(super) use prober::Prober;
pub(super) use sender::Sender;

/// Timeout of one call.
const PATIENCE: Duration = Duration::from_secs(2);
/// Timeout of one try to open a session. Sessions are opened before the first fault, on a machine that may be busy.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// Timeout over all tries to open a session.
const OPEN_DEADLINE: Duration = Duration::from_secs(40);
/// Pause between two tries.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// A session at one server.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    pub(super) node: String,
    pub(super) session: u64,
    /// The user's id.
    pub(super) user: u64,
    token: MetadataValue<Ascii>,
    chat: ChatServiceClient<Channel>,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// No answer in time.
    Silent,
    /// The server answered with a failure.
    Said(Failure),
}

impl Direct {
    /// Opens a session at a healthy server.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub(super) async fn open(server: &Server, user: &str, dial: &Dial) -> Result<Self, WorkloadError> {
        let failed =
            |why: String| WorkloadError::Stuck(format!("{} does not serve {user}: {why}", server.name));
        let channel = dial(&server.client).map_err(&failed)?;
        let mut chat = ChatServiceClient::new(channel);
        let question = OpenSessionRequest {
            user: user.to_owned(),
            client: "conclave-chaos".to_owned(),
            reads_only: false,
        };
        let mut last = "no answer".to_owned();
        let deadline = Instant::now() + OPEN_DEADLINE;
        // A node that has just started opens sessions once it hears from a leader.
        while Instant::now() < deadline {
            match tokio::time::timeout(OPEN_PATIENCE, chat.open_session(question.clone())).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    let token = format!("Bearer {}", answer.token).parse();
                    let token = token.map_err(|_| failed("its token is not ASCII".to_owned()))?;
                    let (node, session, user) = (server.name.clone(), answer.session_id, answer.user_id);
                    return Ok(Self { node, session, user, token, chat });
                }
                Ok(Err(status)) => last = status.message().to_owned(),
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(failed(last))
    }

    /// Makes one call, without a retry.
    pub(super) async fn call<'a, Q, A>(
        &'a mut self,
        question: Q,
        call: impl FnOnce(
            &'a mut ChatServiceClient<Channel>,
            Request<Q>,
        ) -> BoxFuture<'a, Result<Response<A>, Status>>,
    ) -> Result<A, Failed> {
        let mut request = Request::new(question);
        request.metadata_mut().insert("authorization", self.token.clone());
        match tokio::time::timeout(PATIENCE, call(&mut self.chat, request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failed::Said(from_status(&status))),
            Err(_) => Err(Failed::Silent),
        }
    }
}

/// Waits this long, or until `stop`. Returns whether to continue.
pub(super) async fn wait_unless_stopped(stop: &CancellationToken, time: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}
