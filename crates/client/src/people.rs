//! Accounts and sessions: the calls of `PeopleService`, and the sessions that they open.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use conclave_client::Client;
//! use conclave_client::people::api;
//!
//! let people = Client::builder().servers(["127.0.0.1:7400"]).observe().await?.people();
//! let request = api::LogInRequest { name: "ana".into(), password: "correct horse".into(), ..Default::default() };
//! let login = people.log_in(request).await?;
//! let client = Client::builder().servers(["127.0.0.1:7400"]).user("ana").login(login.token).connect().await?;
//! client.send("general", "hello").await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use conclave_proto::chat;
use conclave_proto::people::people_service_client::PeopleServiceClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::calls::{Caller, How};
use crate::error::CallError;
use crate::handle::Handle;
use crate::nodes::{Chat, bearer};
use crate::shared::SharedState;
use crate::state::Identity;
use crate::types::Session;

/// The protobuf messages of these calls.
pub use conclave_proto::people as api;

/// The generated client of the calls.
pub type Service = PeopleServiceClient<Channel>;

/// The token of a session. Never printed by [`fmt::Debug`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn new(token: String) -> Self {
        Self(token)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A session that a call has opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenedSession {
    /// The session.
    pub session: Session,
    /// The secret with which it is used. Callers must not log it.
    pub token: String,
}

impl fmt::Debug for OpenedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedSession").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Who a client is when it opens a session for its requests.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    pub(crate) user: String,
    /// Name and version of the program.
    pub(crate) client: String,
    /// The log-in that opens the session; without it the name alone does.
    pub(crate) login: Option<Token>,
}

impl Caller {
    /// Opens a session. If two raced nodes both open one, the second session stays unused. A session of another cluster than
    /// the expected one is refused, and so is one of another user.
    pub(crate) async fn open_session(
        &self,
        opener: &Opener,
        patience: Duration,
    ) -> Result<Identity, CallError> {
        let Opener { user, client, login } = opener;
        let answer = if let Some(login) = login {
            let how = How { authorization: bearer(login.reveal()), ..How::one_by_one(patience) };
            let question =
                api::CreateTokenRequest { label: format!("outbox of {client}"), ..Default::default() };
            let call = |mut people: Service, request| async move { people.create_token(request).await };
            self.call_as(how, question, call).await?.session.unwrap_or_default()
        } else {
            let (user, client) = (user.clone(), client.clone());
            let question = chat::OpenSessionRequest { user, client, reads_only: false };
            let call = |mut chat: Chat, request| async move { chat.open_session(request).await };
            self.call(patience, question, call).await?
        };
        if answer.user != *user {
            let message = format!("the log-in is of the user {}, not of {user}", answer.user);
            return Err(CallError::Refused { code: OTHER_USER.to_owned(), message });
        }
        let OpenedSession { session, token } = self.opened(answer)?;
        Ok(Identity { session, token, authority: self.shared.nodes.authority() })
    }

    /// Whether the cluster says that the session with this token has ended.
    pub(crate) async fn has_ended(&self, token: &str, patience: Duration) -> bool {
        let how = How { authorization: bearer(token), ..How::raced(patience) };
        let call = |mut people: Service, request| async move { people.who_am_i(request).await };
        matches!(self.call_as(how, api::WhoAmIRequest {}, call).await, Err(CallError::Auth(_)))
    }

    /// Takes the answer of a call that opens a session.
    fn opened(&self, answer: chat::OpenSessionResponse) -> Result<OpenedSession, CallError> {
        let nodes = &self.shared.nodes;
        nodes.check_session(&answer.cluster_id)?;
        nodes.observe_level(answer.feature_level);
        if let Some(view) = &answer.cluster {
            nodes.observe_view(view);
        }
        let session = Session {
            id: answer.session_id,
            user_id: answer.user_id,
            user: answer.user,
            cluster_id: answer.cluster_id,
        };
        Ok(OpenedSession { session, token: answer.token })
    }
}

/// The code of a session of another user than the client's.
const OTHER_USER: &str = "other_user";

/// The calls about accounts and sessions. A call is repeated at other nodes until one has answered, as all calls are, but
/// only after the one before has failed. Where the repeat of a call that took effect is refused, the refusal is not
/// reported.
#[derive(Clone, Debug)]
pub struct People {
    pub(crate) handle: Arc<Handle>,
}

impl People {
    /// Makes any call.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<Q: Clone, A, F>(
        &self,
        question: Q,
        call: impl Fn(Service, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_as(How::one_by_one(self.handle.patience), question, call).await
    }

    async fn call_as<Q: Clone, A, F>(
        &self,
        how: How,
        question: Q,
        call: impl Fn(Service, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        Box::pin(self.handle.caller.call_as(how, question, call)).await
    }

    /// Makes a call that only reads.
    async fn read<Q: Clone, A, F>(
        &self,
        question: Q,
        call: impl Fn(Service, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_as(How::raced(self.handle.patience), question, call).await
    }

    fn shared(&self) -> &SharedState {
        &self.handle.shared
    }

    /// Takes the answer of a call that opens a session.
    fn opened(&self, answer: api::SessionOpened) -> Result<OpenedSession, CallError> {
        self.handle.caller.opened(answer.session.unwrap_or_default())
    }

    /// Who may make accounts, and which cluster answers.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn registration(&self) -> Result<api::GetRegistrationResponse, CallError> {
        let question = api::GetRegistrationRequest {};
        self.read(question, |mut people, request| async move { people.get_registration(request).await }).await
    }

    /// Makes an account with a password, and opens a session.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn register(&self, question: api::RegisterRequest) -> Result<OpenedSession, CallError> {
        let again = log_in_request(&question.name, &question.password, &question.client, &question.label);
        let tries = AtomicU32::new(0);
        let answer = self.call(question, |mut people, request| {
            tries.fetch_add(1, Ordering::Relaxed);
            async move { people.register(request).await }
        });
        let answer = answer.await;
        self.opened_or_repeated(answer, tries.into_inner(), again).await
    }

    /// Makes or claims an account by an invite, and opens a session. Check [`People::registration`] before: the invite is
    /// a secret of one cluster.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn accept_invite(
        &self,
        question: api::AcceptInviteRequest,
    ) -> Result<OpenedSession, CallError> {
        let again = log_in_request(&question.name, &question.password, &question.client, &question.label);
        let tries = AtomicU32::new(0);
        let answer = self.call(question, |mut people, request| {
            tries.fetch_add(1, Ordering::Relaxed);
            async move { people.accept_invite(request).await }
        });
        let answer = answer.await;
        self.opened_or_repeated(answer, tries.into_inner(), again).await
    }

    /// The session of a call that makes an account. If it was tried more than once, an earlier try may have made the account:
    /// then the password opens it.
    async fn opened_or_repeated(
        &self,
        answer: Result<api::SessionOpened, CallError>,
        tries: u32,
        again: api::LogInRequest,
    ) -> Result<OpenedSession, CallError> {
        match answer {
            Err(refused @ CallError::Refused { .. }) if tries > 1 && !again.name.is_empty() => {
                self.log_in(again).await.map_err(|_| refused)
            }
            answer => self.opened(answer?),
        }
    }

    /// Opens a session of an account with its password.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn log_in(&self, question: api::LogInRequest) -> Result<OpenedSession, CallError> {
        let call = |mut people: Service, request| async move { people.log_in(request).await };
        self.opened(self.call(question, call).await?)
    }

    /// Ends the session that authorizes this client.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn log_out(&self) -> Result<(), CallError> {
        let call = |mut people: Service, request| async move { people.log_out(request).await };
        self.call(api::LogOutRequest {}, call).await.map(|_| ())
    }

    /// Sets a password.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn change_password(&self, question: api::ChangePasswordRequest) -> Result<(), CallError> {
        let (user, password) = (question.user.clone(), question.new_password.clone());
        let tries = AtomicU32::new(0);
        let answer = self.call(question, |mut people: Service, request| {
            tries.fetch_add(1, Ordering::Relaxed);
            async move { people.change_password(request).await }
        });
        match answer.await {
            // An earlier try may have set the password: then the new one opens a session, which is not needed.
            Err(refused @ CallError::Refused { .. }) if tries.into_inner() > 1 => {
                let named = if user.is_empty() { self.shared_user().await? } else { user };
                let request = log_in_request(&named, &password, "", "");
                let Ok(opened) = self.log_in(request).await else { return Err(refused) };
                let how = How::one_by_one(self.handle.patience);
                let how = How { authorization: bearer(&opened.token), ..how };
                let call = |mut people: Service, request| async move { people.log_out(request).await };
                self.call_as(how, api::LogOutRequest {}, call).await.map(|_| ())
            }
            answer => answer.map(|_| ()),
        }
    }

    /// The name of the user of this client.
    async fn shared_user(&self) -> Result<String, CallError> {
        let known = self.shared().lock().session.clone().map(|identity| identity.session.user.clone());
        match known {
            Some(user) => Ok(user),
            None => Ok(self.who_am_i().await?.user.unwrap_or_default().name),
        }
    }

    /// The user and the session that authorize this client.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn who_am_i(&self) -> Result<api::WhoAmIResponse, CallError> {
        let question = api::WhoAmIRequest {};
        self.read(question, |mut people, request| async move { people.who_am_i(request).await }).await
    }

    /// The open sessions of a user; of the own one if the name is empty.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn sessions(&self, user: &str) -> Result<Vec<api::Session>, CallError> {
        let question = api::ListSessionsRequest { user: user.to_owned() };
        let call = |mut people: Service, request| async move { people.list_sessions(request).await };
        self.read(question, call).await.map(|listed| listed.sessions)
    }

    /// Ends sessions.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn close_sessions(&self, which: api::close_sessions_request::Which) -> Result<(), CallError> {
        let question = api::CloseSessionsRequest { which: Some(which) };
        let call = |mut people: Service, request| async move { people.close_sessions(request).await };
        self.call(question, call).await.map(|_| ())
    }

    /// Opens a session for a program. If an answer is lost and the call repeated, one more session is left that nobody uses.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn create_token(&self, question: api::CreateTokenRequest) -> Result<OpenedSession, CallError> {
        let call = |mut people: Service, request| async move { people.create_token(request).await };
        self.opened(self.call(question, call).await?)
    }

    /// A page of the users whose names begin with `prefix` and come after `after`, at most `limit` of them (0: the server's
    /// default).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn users(
        &self,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<api::ListUsersResponse, CallError> {
        let (prefix, after_name) = (prefix.to_owned(), after.to_owned());
        let question = api::ListUsersRequest { prefix, after_name, limit };
        self.read(question, |mut people, request| async move { people.list_users(request).await }).await
    }

    /// Makes an invite. If an answer is lost and the call repeated, one more invite is left that nobody knows.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn create_invite(
        &self,
        question: api::CreateInviteRequest,
    ) -> Result<api::CreateInviteResponse, CallError> {
        self.call(question, |mut people, request| async move { people.create_invite(request).await }).await
    }

    /// Makes or changes an account. Returns the user's id.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn set_account(&self, question: api::SetAccountRequest) -> Result<u64, CallError> {
        let call = |mut people: Service, request| async move { people.set_account(request).await };
        self.call(question, call).await.map(|answer| answer.user_id)
    }

    /// Sets who may make accounts.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn set_registration(&self, registration: api::Registration) -> Result<(), CallError> {
        let question = api::SetRegistrationRequest { registration: registration.into() };
        let call = |mut people: Service, request| async move { people.set_registration(request).await };
        self.call(question, call).await.map(|_| ())
    }
}

fn log_in_request(name: &str, password: &str, client: &str, label: &str) -> api::LogInRequest {
    api::LogInRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        client: client.to_owned(),
        label: label.to_owned(),
        expires_in_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_printed() {
        let opened = OpenedSession { session: Session::default(), token: "cnv1_secret".to_owned() };
        let opener = Opener {
            user: "ana".to_owned(),
            client: String::new(),
            login: Some(Token::new("cnv1_secret".to_owned())),
        };
        let builder = crate::Client::builder().login("cnv1_secret");
        let printed = format!("{opened:?} {opener:?} {builder:?}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}
