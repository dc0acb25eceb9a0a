//! Accounts and sessions: who is who, and until when. The rules of the meta shard's commands about them, and the one rule
//! of data shards: what a session that has ended sends is refused.
//!
//! Passwords are hashed by gateways: a command has the hash, and [`UserRecord::credential_revision`] tells a log-in whose
//! password was checked before a change from one that was checked after it. A name without a password is *unclaimed*; so
//! is every name of a cluster of feature level 1.
//!
//! How a session ends, so that no request is decided twice:
//!
//! 1. Its row is marked as closed, and it is listed among the ended sessions ([`Change::Ending`]). Gateways take nothing
//!    from it any more.
//! 2. Every data shard decides [`crate::Command::EndSession`]: what a gateway that has not heard of 1 passes on is refused.
//! 3. [`crate::Command::ForgetSessions`] removes the row.
//!
//! [`accounts`] has the rules of accounts, passwords and invites; those of sessions are here.
//!
//! Each command is idempotent, and every retry of one gets the answer of the first.

mod accounts;

use crate::access::Powers;
use crate::id::{SessionId, UserId};
use crate::limits::{LABEL_BYTES_MAX, SESSION_UNSEEN_DAYS_MAX, SESSIONS_OPEN_MAX, SESSIONS_PER_COMMAND_MAX};
use crate::meta::{displayed_client_name, truncated};
use crate::name::{check_user_name, folded, is_reserved};
use crate::outcome::{Change, Outcome, Reply};
use crate::record::{
    ClusterRole, Credential, MetaHead, OpenSession, Phc, Registration, SessionKind, SessionRecord, UserKind,
    UserRecord,
};
use crate::refusal::Refusal;
use crate::stamp::Stamp;
use crate::view::View;

pub(crate) use accounts::{put_invite, register, set_account, set_password, set_registration};

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// A change of an account; absent fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// The account's name. The account is made if there is none.
    pub name: String,
    /// What the user is.
    pub kind: Option<UserKind>,
    /// What the user may do in the whole cluster.
    pub role: Option<ClusterRole>,
    /// Whether the user's sessions end, and no new one can be opened.
    pub disabled: Option<bool>,
}

/// The sessions to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// This session.
    One(SessionId),
    /// All sessions of the user.
    Of(UserId),
    /// All sessions of the user but this one.
    AllBut(UserId, SessionId),
}

/// The session that a user opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIn {
    /// The user.
    pub user: UserId,
    /// [`UserRecord::credential_revision`] of the password that was checked.
    pub credential_revision: u32,
    /// Digest of the secret half of the session's token.
    pub secret_digest: [u8; 16],
    /// What the session is for.
    pub kind: SessionKind,
    /// The user's name for the session; truncated to [`LABEL_BYTES_MAX`].
    pub label: String,
    /// The client's description of itself; truncated to [`crate::limits::CLIENT_NAME_BYTES_MAX`].
    pub client: String,
    /// When the session expires, milliseconds since 1970; 0: never.
    pub expires_ms: i64,
}

/// What a user with this role and of this kind may do in every room.
#[must_use]
pub fn powers_of(role: ClusterRole, kind: UserKind) -> Powers {
    Powers { admin: role == ClusterRole::Admin, guest: kind == UserKind::Guest }
}

/// The day of a time, days since 1970.
#[must_use]
pub fn day_of(time_ms: i64) -> u32 {
    u32::try_from(time_ms.div_euclid(DAY_MS)).unwrap_or(0)
}

/// Whether the session may be used at this time.
#[must_use]
pub fn is_open(session: &SessionRecord, user: &UserRecord, time_ms: i64) -> bool {
    !session.closed
        && !user.disabled
        && (session.listed || !user.unlisted_ended)
        && (session.expires_ms == 0 || time_ms < session.expires_ms)
}

/// Whether time has ended the session: it has expired, or was not seen for [`SESSION_UNSEEN_DAYS_MAX`] days. A session of
/// feature level 1 that was not seen since has no day on which it was seen, and stays.
#[must_use]
pub fn is_over(session: &SessionRecord, time_ms: i64) -> bool {
    let expired = session.expires_ms != 0 && time_ms >= session.expires_ms;
    let unseen_days = day_of(time_ms).saturating_sub(session.seen_day);
    expired || (session.seen_day != 0 && unseen_days > SESSION_UNSEEN_DAYS_MAX)
}

/// Why a name cannot be used without a password, if it cannot. `None` for a name without an account.
///
/// # Errors
/// [`Refusal::LoginRequired`] or [`Refusal::UserDisabled`].
pub fn check_without_password(registration: Registration, user: Option<&UserRecord>) -> Result<(), Refusal> {
    if user.is_some_and(|user| user.disabled) {
        return Err(Refusal::UserDisabled);
    }
    // Nobody becomes an admin or a bot by naming one that has no password yet.
    let is_plain = |user: &UserRecord| {
        !user.is_claimed() && user.kind == UserKind::Person && user.role == ClusterRole::None
    };
    if registration != Registration::Open || user.is_some_and(|user| !is_plain(user)) {
        return Err(Refusal::LoginRequired);
    }
    Ok(())
}

/// What a command changes: the counters, the user of the command, and its other changes.
struct Work<'a, V> {
    view: &'a V,
    time_ms: i64,
    head: MetaHead,
    changes: Vec<Change>,
}

/// A decision, or why there is none.
type Decided<T, E> = Result<Result<T, Refusal>, E>;

/// Returns from a decision with its refusal.
macro_rules! decided {
    ($decided:expr) => {
        match $decided {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

use decided;

impl<'a, V: View> Work<'a, V> {
    fn new(view: &'a V, time_ms: i64) -> Result<Self, V::Error> {
        Ok(Self { view, time_ms, head: view.meta()?, changes: Vec::new() })
    }

    /// The outcome. `before` is the user's row before the command; `None` for a new user.
    fn finish(mut self, reply: Reply, before: Option<&UserRecord>, user: UserRecord) -> Outcome {
        match (before.is_some_and(UserRecord::is_active_admin), user.is_active_admin()) {
            (false, true) => self.head.admins = self.head.admins.saturating_add(1),
            (true, false) => self.head.admins = self.head.admins.saturating_sub(1),
            _ => {}
        }
        if before != Some(&user) {
            self.changes.push(Change::User(user));
        }
        self.end(reply)
    }

    fn end(mut self, reply: Reply) -> Outcome {
        self.changes.push(Change::Meta(self.head));
        Outcome { reply, changes: self.changes, event: None }
    }

    /// A new user of this name.
    fn make_user(&mut self, name: &str) -> Decided<UserRecord, V::Error> {
        decided!(check_user_name(name));
        if is_reserved(name) {
            return Ok(Err(Refusal::NameReserved));
        }
        if self.view.folded(&folded(name))?.is_some_and(|taken| taken != name) {
            return Ok(Err(Refusal::NameLooksAlike));
        }
        self.take_folded(name)?;
        self.head.last_user = UserId(self.head.last_user.0 + 1);
        Ok(Ok(UserRecord { created_ms: self.time_ms, ..UserRecord::new(self.head.last_user, name) }))
    }

    /// From now on no new account can have a name that looks like this one. Only accounts take names from others: a
    /// session opened under some name would otherwise keep others from theirs.
    fn take_folded(&mut self, name: &str) -> Result<(), V::Error> {
        let folded = folded(name);
        if self.view.folded(&folded)?.is_none() {
            self.changes.push(Change::Folded { folded, name: name.to_owned() });
        }
        Ok(())
    }

    fn set_password(&mut self, user: &mut UserRecord, phc: &Phc) -> Result<(), V::Error> {
        self.take_folded(&user.name)?;
        user.credential_revision = user.credential_revision.saturating_add(1);
        let credential = Credential { user: user.user, phc: phc.clone(), changed_ms: self.time_ms };
        self.changes.push(Change::Credential(credential));
        Ok(())
    }

    /// Whether the user's password is this one, salt and all: then a command that sets it was decided before.
    fn has_password(&self, user: &UserRecord, phc: &Phc) -> Result<bool, V::Error> {
        Ok(self.view.credential(user.user)?.is_some_and(|credential| credential.phc == *phc))
    }

    /// Marks a session as closed, unless it is closed already.
    fn close(&mut self, session: SessionId) -> Result<(), V::Error> {
        if let Some(record) = self.view.session(session)?.filter(|record| !record.closed) {
            self.changes.push(Change::Session(SessionRecord { closed: true, ..record }));
            self.changes.push(Change::Ending(session));
        }
        Ok(())
    }

    /// Closes all sessions of the user but one.
    fn close_all(&mut self, user: &mut UserRecord, keeps: Option<SessionId>) -> Result<(), V::Error> {
        let (kept, ended): (Vec<_>, Vec<_>) =
            self.view.open_sessions(user.user)?.into_iter().partition(|open| Some(open.session) == keeps);
        for open in &ended {
            self.close(open.session)?;
        }
        user.unlisted_ended = true;
        self.replace_list(user, kept);
        Ok(())
    }

    /// Closes all sessions of the user but one, which may be one that is not listed yet.
    fn close_of(&mut self, user: &mut UserRecord, keeps: Option<SessionId>) -> Result<(), V::Error> {
        // A session that is not listed would end with the others that are not.
        let kept = keeps.map(|keeps| self.view.session(keeps)).transpose()?.flatten();
        let kept = kept
            .filter(|kept| !kept.listed && !kept.closed && kept.user == user.user && !user.unlisted_ended);
        self.close_all(user, keeps)?;
        if let Some(kept) = kept {
            let open = OpenSession { session: kept.session, seen_day: kept.seen_day };
            self.changes.push(Change::Session(SessionRecord { listed: true, ..kept }));
            self.replace_list(user, vec![open]);
        }
        Ok(())
    }

    /// Adds a session to the list of the user's open ones. At the bound, the one that was not seen for longest ends.
    fn list(&mut self, user: &mut UserRecord, open: OpenSession) -> Result<(), V::Error> {
        let mut list = self.view.open_sessions(user.user)?;
        while list.len() >= SESSIONS_OPEN_MAX {
            let longest = (0..list.len()).min_by_key(|at| (list[*at].seen_day, list[*at].session));
            let Some(longest) = longest else { break };
            let ended = list.remove(longest);
            self.close(ended.session)?;
        }
        let at = list.partition_point(|other| other.session < open.session);
        list.insert(at, open);
        self.replace_list(user, list);
        Ok(())
    }

    fn replace_list(&mut self, user: &mut UserRecord, list: Vec<OpenSession>) {
        user.sessions_open = u32::try_from(list.len()).unwrap_or(u32::MAX);
        self.changes.push(Change::OpenSessions(user.user, list));
    }

    /// Opens a session of the user.
    fn open(&mut self, user: &mut UserRecord, log_in: &LogIn) -> Result<SessionId, V::Error> {
        self.head.last_session = SessionId(self.head.last_session.0 + 1);
        let session = self.head.last_session;
        user.sessions = user.sessions.saturating_add(1);
        let seen_day = day_of(self.time_ms);
        self.list(user, OpenSession { session, seen_day })?;
        self.changes.push(Change::Session(SessionRecord {
            session,
            user: user.user,
            user_name: user.name.clone(),
            secret_digest: log_in.secret_digest,
            client: displayed_client_name(&log_in.client),
            opened_ms: self.time_ms,
            kind: log_in.kind,
            label: truncated(&log_in.label, LABEL_BYTES_MAX),
            expires_ms: log_in.expires_ms,
            seen_day,
            listed: true,
            closed: false,
        }));
        Ok(session)
    }
}

/// Opens a session for a user whose password, if any, a gateway has checked.
pub(crate) fn log_in<V: View>(view: &V, time_ms: i64, log_in: &LogIn) -> Result<Outcome, V::Error> {
    let Some(before) = view.user(log_in.user)? else { return Ok(Outcome::refused(Refusal::UserUnknown)) };
    if before.disabled {
        return Ok(Outcome::refused(Refusal::UserDisabled));
    }
    if before.credential_revision != log_in.credential_revision {
        return Ok(Outcome::refused(Refusal::CredentialsChanged));
    }
    // A retry: the secret is random.
    if let Some(last) = view.open_sessions(log_in.user)?.last()
        && let Some(known) = view.session(last.session)?
        && known.secret_digest == log_in.secret_digest
    {
        return Ok(Outcome::reply(Reply::SessionOpened { session: known.session, user: log_in.user }));
    }
    let mut work = Work::new(view, time_ms)?;
    let mut user = before.clone();
    let session = work.open(&mut user, log_in)?;
    let reply = Reply::SessionOpened { session, user: user.user };
    Ok(work.finish(reply, Some(&before), user))
}

/// Opens a session for a user by name alone, at a level that lists sessions.
pub(crate) fn open_session<V: View>(
    view: &V,
    time_ms: i64,
    name: &str,
    secret_digest: [u8; 16],
    client: &str,
) -> Result<Outcome, V::Error> {
    let mut work = Work::new(view, time_ms)?;
    let before = view.user_named(name)?;
    let mut user = match &before {
        Some(user) => user.clone(),
        None => {
            work.head.last_user = UserId(work.head.last_user.0 + 1);
            UserRecord { created_ms: time_ms, ..UserRecord::new(work.head.last_user, name) }
        }
    };
    let log_in = LogIn {
        user: user.user,
        credential_revision: 0,
        secret_digest,
        kind: SessionKind::Login,
        label: String::new(),
        client: client.to_owned(),
        expires_ms: 0,
    };
    let session = work.open(&mut user, &log_in)?;
    let reply = Reply::SessionOpened { session, user: user.user };
    Ok(work.finish(reply, before.as_ref(), user))
}

/// Closes sessions. A session or user that does not exist has none to close.
pub(crate) fn close_sessions<V: View>(view: &V, stamp: Stamp, closing: Closing) -> Result<Outcome, V::Error> {
    let mut work = Work::new(view, stamp.time_ms)?;
    let (user, keeps) = match closing {
        Closing::One(session) => {
            let Some(record) = view.session(session)?.filter(|record| !record.closed) else {
                return Ok(Outcome::reply(Reply::Done));
            };
            let Some(before) = view.user(record.user)? else { return Ok(Outcome::reply(Reply::Done)) };
            let mut user = before.clone();
            let mut list = view.open_sessions(user.user)?;
            list.retain(|open| open.session != session);
            work.close(session)?;
            work.replace_list(&mut user, list);
            return Ok(work.finish(Reply::Done, Some(&before), user));
        }
        Closing::Of(user) => (user, None),
        Closing::AllBut(user, keeps) => (user, Some(keeps)),
    };
    let Some(before) = view.user(user)? else { return Ok(Outcome::reply(Reply::Done)) };
    let mut user = before.clone();
    work.close_of(&mut user, keeps)?;
    Ok(work.finish(Reply::Done, Some(&before), user))
}

/// Removes the rows of sessions that have ended, once every shard knows.
pub(crate) fn forget_sessions<V: View>(view: &V, sessions: &[SessionId]) -> Result<Outcome, V::Error> {
    let mut outcome = Outcome::reply(Reply::Done);
    for session in sessions.iter().take(SESSIONS_PER_COMMAND_MAX) {
        if view.session(*session)?.is_none_or(|record| record.closed) {
            outcome.changes.push(Change::SessionForgotten(*session));
        }
    }
    Ok(outcome)
}

/// Notes the days on which sessions were seen, and lists sessions of feature level 1.
pub(crate) fn seen_sessions<V: View>(
    view: &V,
    time_ms: i64,
    seen: &[(SessionId, u32)],
) -> Result<Outcome, V::Error> {
    // A gateway's clock may be far ahead; a session that was seen years from now would never end for being unseen.
    let last_day = day_of(time_ms).saturating_add(1);
    let mut outcome = Outcome::reply(Reply::Done);
    // One list of a user for all of its sessions in the command.
    let mut lists: Vec<(UserRecord, Vec<OpenSession>)> = Vec::new();
    for (session, day) in seen.iter().take(SESSIONS_PER_COMMAND_MAX) {
        let Some(record) = view.session(*session)? else { continue };
        let Some(user) = view.user(record.user)? else { continue };
        if record.closed || user.disabled || (!record.listed && user.unlisted_ended) {
            continue;
        }
        let at = match lists.iter().position(|(known, _)| known.user == user.user) {
            Some(at) => at,
            None => {
                let list = view.open_sessions(user.user)?;
                lists.push((user, list));
                lists.len() - 1
            }
        };
        let list = &mut lists[at].1;
        let mut seen_day = record.seen_day.max((*day).min(last_day));
        let mut listed = record.listed;
        match list.iter().position(|open| open.session == *session) {
            Some(at) => {
                // The command may name a session twice.
                seen_day = seen_day.max(list[at].seen_day);
                list[at].seen_day = seen_day;
                listed = true;
            }
            None if list.len() < SESSIONS_OPEN_MAX => {
                let at = list.partition_point(|open| open.session < *session);
                list.insert(at, OpenSession { session: *session, seen_day });
                listed = true;
            }
            None => {}
        }
        outcome.changes.push(Change::Session(SessionRecord { seen_day, listed, ..record }));
    }
    for (mut user, list) in lists {
        let sessions_open = u32::try_from(list.len()).unwrap_or(u32::MAX);
        outcome.changes.push(Change::OpenSessions(user.user, list));
        if user.sessions_open != sessions_open {
            user.sessions_open = sessions_open;
            outcome.changes.push(Change::User(user));
        }
    }
    Ok(outcome)
}

/// Data shard: from now on nothing of the session is decided.
pub(crate) fn end_session(session: SessionId) -> Outcome {
    Outcome { reply: Reply::Done, changes: vec![Change::SessionEnded(session)], event: None }
}
