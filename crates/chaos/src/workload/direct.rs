//! Clients that speak with one server and no other, whatever it is cut off from. What a leader without followers says to those
//! who still reach it is what a partition is about: the ordinary clients would have gone elsewhere.
//!
//! They use the API as it is, without the client library, whose art is to go elsewhere.

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

/// One try of one call. A frozen server answers nothing for longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A session is opened before anything is broken, on a machine that may be busy: one try, and all of them.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
const OPEN_DEADLINE: Duration = Duration::from_secs(40);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// One server, and a session there.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    pub(super) node: String,
    pub(super) session: u64,
    token: MetadataValue<Ascii>,
    chat: ChatServiceClient<Channel>,
}

/// Why a call failed.
#[derive(Debug)]
enum Failed {
    /// No answer in time.
    Silent,
    /// The answer was a failure.
    Said(Failure),
}

impl Direct {
    /// Opens a session at the server, which has to be well.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub(super) async fn open(server: &Server, user: &str, dial: &Dial) -> Result<Self, WorkloadError> {
        let failed =
            |why: String| WorkloadError::Stuck(format!("{} does not serve {user}: {why}", server.name));
        let channel = dial(&server.client).map_err(&failed)?;
        let mut chat = ChatServiceClient::new(channel);
        let question = OpenSessionRequest { user: user.to_owned(), client: "conclave-chaos".to_owned() };
        let mut last = "no answer".to_owned();
        let deadline = Instant::now() + OPEN_DEADLINE;
        // A node that was just started hands sessions out once it hears from a leader.
        while Instant::now() < deadline {
            match tokio::time::timeout(OPEN_PATIENCE, chat.open_session(question.clone())).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    let token = format!("Bearer {}", answer.token).parse();
                    let token = token.map_err(|_| failed("its token is no text".to_owned()))?;
                    return Ok(Self { node: server.name.clone(), session: answer.session_id, token, chat });
                }
                Ok(Err(status)) => last = status.message().to_owned(),
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(failed(last))
    }

    /// One call, once.
    async fn call<'a, Q, A>(
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

/// Waits, unless told to stop. Whether to go on.
async fn pause(stop: &CancellationToken, time: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}
