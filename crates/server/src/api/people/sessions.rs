//! Opening, listing and closing sessions.

use conclave_core::name::check_user_name;
use conclave_core::people::{Closing, LogIn, is_open};
use conclave_core::record::{SessionKind, SessionRecord, UserKind, UserRecord};
use conclave_core::{Command, Refusal, SessionId, ShardId, UserId};
use conclave_proto::accounts;
use conclave_proto::people as api;
use conclave_proto::status::Failure;
use tokio::time::Instant;
use tonic::Extensions;
use zeroize::Zeroizing;

use super::{Actor, People, address, described};
use crate::api::auth;

/// How long a token for a program is valid if nobody says otherwise, milliseconds.
const TOKEN_VALID_MS: u64 = 365 * 86_400_000;

/// What a client says about the session that it opens.
#[derive(Debug, Default)]
pub(super) struct Opening {
    pub(super) kind: SessionKind,
    pub(super) client: String,
    pub(super) label: String,
    /// 0: the session does not expire.
    pub(super) expires_in_ms: u64,
}

impl People {
    /// Opens a session of a user whose password was checked, or need not be.
    pub(super) async fn open_session(
        &self,
        user: UserId,
        name: &str,
        credential_revision: u32,
        opening: Opening,
    ) -> Result<api::SessionOpened, Failure> {
        let secret: u128 = rand::random();
        let expires_ms = match opening.expires_in_ms {
            0 => 0,
            valid_ms => self.gateway.clock.now_ms().saturating_add_unsigned(valid_ms),
        };
        let command = Command::LogIn(LogIn {
            user,
            credential_revision,
            secret_digest: auth::digest(secret),
            kind: opening.kind,
            label: opening.label,
            client: opening.client,
            expires_ms,
        });
        let session = auth::opened(&self.gateway, name, secret, &command).await?;
        Ok(api::SessionOpened { session: Some(session) })
    }

    pub(super) async fn open_with_password(
        &self,
        extensions: &Extensions,
        request: api::LogInRequest,
    ) -> Result<api::SessionOpened, Failure> {
        let api::LogInRequest { name, password, client, label, expires_in_ms } = request;
        let password = Zeroizing::new(password);
        check_user_name(&name).map_err(Failure::Refused)?;
        // Before the cluster is asked: who waits costs nothing more.
        self.gateway.attempts.check(address(extensions), &name, Instant::now())?;
        // The password that was set last counts, wherever.
        self.gateway.router.barrier(ShardId::META).await?;
        let meta = self.meta()?;
        let user = meta.user_named(&name).await?;
        let credential = match &user {
            Some(user) => meta.credential(user.user).await?,
            None => None,
        };
        let phc = credential.map(|credential| credential.phc);
        self.check_password(extensions, &name, password, phc).await?;
        let user = user.ok_or(Failure::Refused(Refusal::UserUnknown))?;
        let opening = Opening { kind: SessionKind::Login, client, label, expires_in_ms };
        self.open_session(user.user, &name, user.credential_revision, opening).await
    }

    pub(super) async fn make_token(
        &self,
        extensions: &Extensions,
        request: api::CreateTokenRequest,
    ) -> Result<api::SessionOpened, Failure> {
        let actor = Actor::of(extensions)?;
        let user = self.subject(&actor, &request.user).await?;
        let is_own = matches!(&actor, Actor::Session(caller) if caller.user == user.user);
        // An admin has no need to act as another person.
        if !is_own && user.kind != UserKind::Bot {
            return Err(Failure::invalid("not_a_bot", "admins make tokens for bots; people make their own"));
        }
        let expires_in_ms = if request.expires_in_ms == 0 { TOKEN_VALID_MS } else { request.expires_in_ms };
        let kind = if user.kind == UserKind::Bot { SessionKind::Bot } else { SessionKind::Access };
        let opening = Opening { kind, client: "token".to_owned(), label: request.label, expires_in_ms };
        self.open_session(user.user, &user.name, user.credential_revision, opening).await
    }

    pub(super) async fn close_own(
        &self,
        extensions: &Extensions,
        _: api::LogOutRequest,
    ) -> Result<api::LogOutResponse, Failure> {
        let session = Actor::of(extensions)?.session()?.session;
        self.decide(&Command::CloseSessions(Closing::One(session))).await?;
        Ok(api::LogOutResponse {})
    }

    pub(super) async fn describe_caller(
        &self,
        extensions: &Extensions,
        _: api::WhoAmIRequest,
    ) -> Result<api::WhoAmIResponse, Failure> {
        let Actor::Session(caller) = Actor::of(extensions)? else {
            return Ok(api::WhoAmIResponse::default());
        };
        let meta = self.meta()?;
        let user = meta.user_named(&caller.name).await?.map(described);
        let session = meta.session(caller.session).await?;
        let session = session.map(|session| described_session(session, Some(caller.session)));
        Ok(api::WhoAmIResponse { user, session })
    }

    /// The open sessions of a user, with the one of the call even if it is not listed.
    async fn open_sessions(
        &self,
        user: &UserRecord,
        current: Option<SessionId>,
    ) -> Result<Vec<SessionRecord>, Failure> {
        let meta = self.meta()?;
        let now_ms = self.gateway.clock.now_ms();
        let mut sessions = meta.sessions_of(user.user).await?;
        if let Some(current) =
            current.filter(|current| sessions.iter().all(|known| known.session != *current))
        {
            sessions.extend(meta.session(current).await?.filter(|session| session.user == user.user));
        }
        sessions.retain(|session| is_open(session, user, now_ms));
        Ok(sessions)
    }

    pub(super) async fn read_sessions(
        &self,
        extensions: &Extensions,
        request: api::ListSessionsRequest,
    ) -> Result<api::ListSessionsResponse, Failure> {
        let actor = Actor::of(extensions)?;
        let user = self.subject(&actor, &request.user).await?;
        let current = match &actor {
            Actor::Session(caller) => Some(caller.session),
            Actor::Operator => None,
        };
        let sessions = self.open_sessions(&user, current).await?;
        let sessions = sessions.into_iter().map(|session| described_session(session, current));
        Ok(api::ListSessionsResponse { sessions: sessions.collect() })
    }

    pub(super) async fn close(
        &self,
        extensions: &Extensions,
        request: api::CloseSessionsRequest,
    ) -> Result<api::CloseSessionsResponse, Failure> {
        use api::close_sessions_request::Which;
        let actor = Actor::of(extensions)?;
        let nothing =
            || Failure::invalid("sessions_missing", "the call does not say which sessions to close");
        let closing = match request.which.ok_or_else(nothing)? {
            Which::SessionId(session) => {
                self.gateway.router.barrier(ShardId::META).await?;
                let record = self.meta()?.session(SessionId(session)).await?;
                let owns = |record: &SessionRecord| {
                    actor.is_admin() || actor.session().is_ok_and(|caller| caller.user == record.user)
                };
                // Nobody learns of the sessions of others.
                let record = record.filter(owns).ok_or(Failure::Refused(Refusal::SessionUnknown))?;
                Closing::One(record.session)
            }
            Which::Others(_) => {
                let caller = actor.session()?;
                Closing::AllBut(caller.user, caller.session)
            }
            Which::All(_) => Closing::Of(actor.session()?.user),
            Which::User(name) => Closing::Of(self.subject(&actor, &name).await?.user),
        };
        self.decide(&Command::CloseSessions(closing)).await?;
        Ok(api::CloseSessionsResponse {})
    }
}

fn described_session(session: SessionRecord, current: Option<SessionId>) -> api::Session {
    api::Session {
        session_id: session.session.0,
        kind: accounts::session_kind_to_log(session.kind).into(),
        label: session.label,
        client: session.client,
        opened_ms: session.opened_ms,
        expires_ms: session.expires_ms,
        seen_day: session.seen_day,
        current: current == Some(session.session),
    }
}
