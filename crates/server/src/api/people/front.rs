//! The checks of a call about accounts that come before its body is read: who calls, and how large the body may be. As
//! [`crate::api::front`] for the other calls of clients.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use conclave_proto::people::people_service_server::PeopleServiceServer;
use conclave_proto::status::Failure;
use conclave_telemetry::operators::Operators;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tower::Service;

use super::{Actor, People};
use crate::api::auth::{self, Token};
use crate::api::front::{counted, in_time, public};
use crate::api::gateway::Gateway;
use crate::limits::PUBLIC_CALL_BYTES_MAX;

/// The calls of sessions and admins. All others are public.
const OF_ACTORS: [&str; 10] = [
    "LogOut",
    "ChangePassword",
    "WhoAmI",
    "ListSessions",
    "CloseSessions",
    "CreateToken",
    "ListUsers",
    "CreateInvite",
    "SetAccount",
    "SetRegistration",
];

/// The service for accounts with these checks in front.
#[derive(Clone, Debug)]
pub(crate) struct PeopleFront {
    gateway: Gateway,
    operators: Operators,
    service: PeopleServiceServer<People>,
}

impl PeopleFront {
    pub(crate) fn new(gateway: Gateway, operators: Operators) -> Self {
        let people = People { gateway: gateway.clone() };
        let service = PeopleServiceServer::new(people).max_decoding_message_size(PUBLIC_CALL_BYTES_MAX);
        Self { gateway, operators, service }
    }
}

impl NamedService for PeopleFront {
    const NAME: &'static str = <PeopleServiceServer<People> as NamedService>::NAME;
}

impl Service<Request<Body>> for PeopleFront {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The service behind is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        let Some(method) = OF_ACTORS.into_iter().find(|method| *method == name) else {
            let call = self.service.call(request);
            return public(call);
        };
        let Self { gateway, operators, mut service } = self.clone();
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let operator = operators.check(&metadata, request.extensions());
        let token = Token::read(request.headers());
        Box::pin(async move {
            let answered = async {
                let actor = actor(&gateway, token, operator).await?;
                let place = match &actor {
                    Actor::Session(caller) => Some(gateway.budget.call_places.admit(caller.session)?),
                    Actor::Operator => None,
                };
                request.extensions_mut().insert(actor);
                let _share = gateway.budget.call().await?;
                let answer = in_time(service.call(request)).await;
                drop(place);
                answer
            };
            Ok(counted(&gateway, method, answered.await))
        })
    }
}

/// Who makes the call: the session whose token it has, or else an operator.
async fn actor(
    gateway: &Gateway,
    token: Result<Token, Failure>,
    operator: Result<(), Failure>,
) -> Result<Actor, Failure> {
    match (token, operator) {
        (Ok(token), _) => {
            let caller = auth::caller(gateway, token).await?;
            if caller.reads_only { Err(auth::reads_only()) } else { Ok(Actor::Session(caller)) }
        }
        (Err(_), Ok(())) => Ok(Actor::Operator),
        // Of a call with neither, most miss a session.
        (Err(missing), Err(_)) => Err(missing),
    }
}
