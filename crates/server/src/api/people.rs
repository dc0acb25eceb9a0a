//! `PeopleService`: accounts and sessions.
//!
//! * [`front`]: the checks of a call that come before its body is read.
//! * [`accounts`]: making accounts, passwords, invites, settings.
//! * [`sessions`]: opening, listing and closing sessions.

mod accounts;
pub(crate) mod front;
mod sessions;

use std::net::{IpAddr, Ipv6Addr};

use conclave_core::record::{ClusterRole, UserRecord};
use conclave_core::{Command, Refusal, Reply, ShardId, level};
use conclave_net::Peer;
use conclave_proto::people::people_service_server::PeopleService;
use conclave_proto::people::{self as api};
use conclave_proto::status::Failure;
use tonic::{Code, Extensions, Request, Response, Status};

use crate::api::auth::{self, Caller};
use crate::api::gateway::Gateway;
use crate::shard::ShardReader;

/// The code of a call that only admins may make.
const NOT_ADMIN: &str = "not_admin";
/// The code of a call that an operator makes, but takes a session of its own.
const SESSION_NEEDED: &str = "session_needed";

/// The API for accounts and sessions of one node.
#[derive(Clone, Debug)]
pub(crate) struct People {
    pub(crate) gateway: Gateway,
}

/// Who makes a call.
#[derive(Clone, Debug)]
enum Actor {
    Session(Caller),
    /// Whoever may make the calls of operators: has the power of an admin, and no account.
    Operator,
}

impl Actor {
    /// The actor of a call, whom [`front`] has authenticated.
    fn of(extensions: &Extensions) -> Result<Self, Failure> {
        extensions.get::<Self>().cloned().ok_or_else(auth::token_missing)
    }

    fn is_admin(&self) -> bool {
        match self {
            Self::Session(caller) => caller.role == ClusterRole::Admin,
            Self::Operator => true,
        }
    }

    fn check_admin(&self) -> Result<(), Failure> {
        if self.is_admin() {
            return Ok(());
        }
        let message = "only admins of the cluster may do this".to_owned();
        Err(Failure::Denied { code: NOT_ADMIN, status: Code::PermissionDenied, message })
    }

    fn session(&self) -> Result<&Caller, Failure> {
        match self {
            Self::Session(caller) => Ok(caller),
            Self::Operator => {
                let message =
                    "the call is about a session, and needs one: log in first, or name a user".to_owned();
                Err(Failure::Denied { code: SESSION_NEEDED, status: Code::Unauthenticated, message })
            }
        }
    }
}

/// The address of a call; the /64 of it for IPv6, which one party has.
fn address(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| match peer.address.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip @ IpAddr::V4(_) => ip,
    })
}

impl People {
    /// Answers a call, and counts a failure by its code.
    async fn answer<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Response<T>, Status> {
        let answered = async {
            self.gateway.router.check_level(level::ACCOUNTS)?;
            work.await
        };
        answered.await.map(Response::new).map_err(|failure| {
            self.gateway.metrics.call_failures.with_label_values(&[method, failure.code()]).inc();
            Status::from(failure)
        })
    }

    fn meta(&self) -> Result<ShardReader, Failure> {
        self.gateway.router.reader(ShardId::META)
    }

    /// Gets a command of the meta shard decided.
    async fn decide(&self, command: &Command) -> Result<Reply, Failure> {
        match self.gateway.router.decide(ShardId::META, command).await? {
            Reply::Refused(refusal) => Err(Failure::Refused(refusal)),
            reply => Ok(reply),
        }
    }

    /// The user whom a call is about: the session's own, or for admins the one that it names.
    async fn subject(&self, actor: &Actor, named: &str) -> Result<UserRecord, Failure> {
        let own = match actor {
            Actor::Session(caller) => Some(caller.name.as_str()),
            Actor::Operator => None,
        };
        let name = if named.is_empty() { actor.session()?.name.as_str() } else { named };
        if own != Some(name) {
            actor.check_admin()?;
        }
        self.gateway.router.barrier(ShardId::META).await?;
        let user = self.meta()?.user_named(name).await?;
        user.ok_or(Failure::Refused(Refusal::UserUnknown))
    }

    fn cluster_id(&self) -> String {
        format!("{:032x}", self.gateway.node.cluster)
    }
}

/// A user as the API describes one.
fn described(user: UserRecord) -> api::User {
    let claimed = user.is_claimed();
    api::User {
        user_id: user.user.0,
        name: user.name,
        kind: conclave_proto::accounts::kind_to_log(user.kind).into(),
        role: conclave_proto::accounts::role_to_log(user.role).into(),
        disabled: user.disabled,
        claimed,
        sessions_open: user.sessions_open,
        created_ms: user.created_ms,
    }
}

macro_rules! calls {
    ($($call:ident $request:ident $response:ident $name:literal $handler:ident;)*) => {
        #[tonic::async_trait]
        impl PeopleService for People {
            $(async fn $call(
                &self,
                request: Request<api::$request>,
            ) -> Result<Response<api::$response>, Status> {
                let (_, extensions, request) = request.into_parts();
                self.answer($name, self.$handler(&extensions, request)).await
            })*
        }
    };
}

calls! {
    get_registration GetRegistrationRequest GetRegistrationResponse "GetRegistration" read_registration;
    register RegisterRequest SessionOpened "Register" make_account;
    accept_invite AcceptInviteRequest SessionOpened "AcceptInvite" use_invite;
    log_in LogInRequest SessionOpened "LogIn" open_with_password;
    log_out LogOutRequest LogOutResponse "LogOut" close_own;
    change_password ChangePasswordRequest ChangePasswordResponse "ChangePassword" replace_password;
    who_am_i WhoAmIRequest WhoAmIResponse "WhoAmI" describe_caller;
    list_sessions ListSessionsRequest ListSessionsResponse "ListSessions" read_sessions;
    close_sessions CloseSessionsRequest CloseSessionsResponse "CloseSessions" close;
    create_token CreateTokenRequest SessionOpened "CreateToken" make_token;
    list_users ListUsersRequest ListUsersResponse "ListUsers" read_users;
    create_invite CreateInviteRequest CreateInviteResponse "CreateInvite" make_invite;
    set_account SetAccountRequest SetAccountResponse "SetAccount" change_account;
    set_registration SetRegistrationRequest SetRegistrationResponse "SetRegistration" change_registration;
}
