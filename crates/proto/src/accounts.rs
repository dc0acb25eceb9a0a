//! Accounts, sessions and invites in their stored form: commands about them, and their rows.

use std::fmt;

use conclave_core::people::{AccountChange, Closing, LogIn};
use conclave_core::record::{
    ClusterRole, Credential, Invite, OpenSession, Phc, Registration, SessionKind, SessionRecord, UserKind,
    UserRecord,
};
use conclave_core::{SessionId, UserId};

use crate::{FormatError, log, people};

/// A value of an enumeration that this version does not know.
fn unknown(field: &'static str) -> FormatError {
    FormatError::UnknownKind(field)
}

macro_rules! enumeration {
    ($(#[$doc:meta])* $to:ident $(#[$from_doc:meta])* $from:ident $core:ident $log:ident $name:literal { $($variant:ident)* }) => {
        $(#[$doc])*
        #[must_use]
        pub fn $to(value: $core) -> people::$log {
            match value {
                $($core::$variant => people::$log::$variant,)*
            }
        }

        $(#[$from_doc])*
        ///
        /// # Errors
        /// If the value is of a newer version.
        pub fn $from(value: i32) -> Result<$core, FormatError> {
            match people::$log::try_from(value).map_err(|_| unknown($name))? {
                $(people::$log::$variant => Ok($core::$variant),)*
            }
        }
    };
}

enumeration! {
    /// What a user is, in its form on the wire and on disk.
    kind_to_log
    /// What a user is, from its stored form.
    kind_from_log UserKind UserKind "the kind of a user" { Person Bot Guest }
}
enumeration! {
    /// A role in its stored form.
    role_to_log
    /// A role from its stored form.
    role_from_log ClusterRole ClusterRole "the role of a user" { None Auditor Operator Admin }
}
enumeration! {
    /// Who may make accounts, in its stored form.
    registration_to_log
    /// Who may make accounts, from its stored form.
    registration_from_log Registration Registration "the registration mode" { Open Invite Closed }
}
enumeration! {
    /// What a session is for, in its stored form.
    session_kind_to_log
    /// What a session is for, from its stored form.
    session_kind_from_log SessionKind SessionKind "the kind of a session" { Login Access Bot }
}

pub(crate) fn account_to_log(change: &AccountChange) -> log::SetAccount {
    log::SetAccount {
        name: change.name.clone(),
        kind: change.kind.map(|kind| kind_to_log(kind).into()),
        role: change.role.map(|role| role_to_log(role).into()),
        disabled: change.disabled,
    }
}

pub(crate) fn account_from_log(change: log::SetAccount) -> Result<AccountChange, FormatError> {
    Ok(AccountChange {
        name: change.name,
        kind: change.kind.map(kind_from_log).transpose()?,
        role: change.role.map(role_from_log).transpose()?,
        disabled: change.disabled,
    })
}

pub(crate) fn log_in_to_log(log_in: &LogIn) -> log::LogIn {
    log::LogIn {
        user_id: log_in.user.0,
        credential_revision: log_in.credential_revision,
        secret_digest: log_in.secret_digest.to_vec(),
        kind: session_kind_to_log(log_in.kind).into(),
        label: log_in.label.clone(),
        client: log_in.client.clone(),
        expires_ms: log_in.expires_ms,
    }
}

pub(crate) fn log_in_from_log(log_in: log::LogIn) -> Result<LogIn, FormatError> {
    Ok(LogIn {
        user: UserId(log_in.user_id),
        credential_revision: log_in.credential_revision,
        secret_digest: digest(&log_in.secret_digest, "LogIn.secret_digest")?,
        kind: session_kind_from_log(log_in.kind)?,
        label: log_in.label,
        client: log_in.client,
        expires_ms: log_in.expires_ms,
    })
}

pub(crate) fn closing_to_log(closing: Closing) -> log::CloseSessions {
    use log::close_sessions::{AllBut, Which};
    let which = match closing {
        Closing::One(session) => Which::One(session.0),
        Closing::Of(user) => Which::OfUser(user.0),
        Closing::AllBut(user, session) => Which::AllBut(AllBut { user_id: user.0, session_id: session.0 }),
    };
    log::CloseSessions { which: Some(which) }
}

pub(crate) fn closing_from_log(closing: log::CloseSessions) -> Result<Closing, FormatError> {
    use log::close_sessions::{AllBut, Which};
    Ok(match closing.which.ok_or_else(|| unknown("which sessions to close"))? {
        Which::One(session) => Closing::One(SessionId(session)),
        Which::OfUser(user) => Closing::Of(UserId(user)),
        Which::AllBut(AllBut { user_id, session_id }) => {
            Closing::AllBut(UserId(user_id), SessionId(session_id))
        }
    })
}

/// An invite in its stored form.
#[must_use]
pub fn invite_to_log(invite: &Invite) -> log::InviteRow {
    log::InviteRow {
        digest: invite.digest.to_vec(),
        name: invite.name.clone(),
        kind: kind_to_log(invite.kind).into(),
        role: role_to_log(invite.role).into(),
        uses: invite.uses,
        expires_ms: invite.expires_ms,
        by_id: invite.by.0,
    }
}

/// An invite from its stored form.
///
/// # Errors
/// If it is damaged, or of a newer version.
pub fn invite_from_log(row: log::InviteRow) -> Result<Invite, FormatError> {
    Ok(Invite {
        digest: digest(&row.digest, "InviteRow.digest")?,
        name: row.name,
        kind: kind_from_log(row.kind)?,
        role: role_from_log(row.role)?,
        uses: row.uses,
        expires_ms: row.expires_ms,
        by: UserId(row.by_id),
    })
}

/// A user in its stored form.
#[must_use]
pub fn user_to_log(user: &UserRecord) -> log::UserRow {
    log::UserRow {
        user_id: user.user.0,
        name: user.name.clone(),
        sessions: user.sessions,
        kind: kind_to_log(user.kind).into(),
        role: role_to_log(user.role).into(),
        disabled: user.disabled,
        credential_revision: user.credential_revision,
        sessions_open: user.sessions_open,
        created_ms: user.created_ms,
        unlisted_ended: user.unlisted_ended,
    }
}

/// A user from its stored form.
///
/// # Errors
/// If it is of a newer version.
pub fn user_from_log(row: log::UserRow) -> Result<UserRecord, FormatError> {
    Ok(UserRecord {
        user: UserId(row.user_id),
        name: row.name,
        sessions: row.sessions,
        kind: kind_from_log(row.kind)?,
        role: role_from_log(row.role)?,
        disabled: row.disabled,
        credential_revision: row.credential_revision,
        sessions_open: row.sessions_open,
        created_ms: row.created_ms,
        unlisted_ended: row.unlisted_ended,
    })
}

/// A password in its stored form.
#[must_use]
pub fn credential_to_log(credential: &Credential) -> log::CredentialRow {
    log::CredentialRow {
        user_id: credential.user.0,
        phc: credential.phc.0.clone(),
        changed_ms: credential.changed_ms,
    }
}

/// A password from its stored form.
#[must_use]
pub fn credential_from_log(row: log::CredentialRow) -> Credential {
    Credential { user: UserId(row.user_id), phc: Phc(row.phc), changed_ms: row.changed_ms }
}

/// A list of open sessions in its stored form.
#[must_use]
pub fn open_sessions_to_log(list: &[OpenSession]) -> log::OpenSessionsRow {
    let seen =
        |open: &OpenSession| log::seen_sessions::Seen { session_id: open.session.0, day: open.seen_day };
    log::OpenSessionsRow { sessions: list.iter().map(seen).collect() }
}

/// A list of open sessions from its stored form.
#[must_use]
pub fn open_sessions_from_log(row: log::OpenSessionsRow) -> Vec<OpenSession> {
    let open = |seen: log::seen_sessions::Seen| OpenSession {
        session: SessionId(seen.session_id),
        seen_day: seen.day,
    };
    row.sessions.into_iter().map(open).collect()
}

/// A session in its stored form.
#[must_use]
pub fn session_to_log(session: &SessionRecord) -> log::SessionRow {
    log::SessionRow {
        session_id: session.session.0,
        user_id: session.user.0,
        secret_digest: session.secret_digest.to_vec(),
        client: session.client.clone(),
        opened_ms: session.opened_ms,
        user: session.user_name.clone(),
        kind: session_kind_to_log(session.kind).into(),
        label: session.label.clone(),
        expires_ms: session.expires_ms,
        seen_day: session.seen_day,
        listed: session.listed,
        closed: session.closed,
    }
}

/// A session from its stored form.
///
/// # Errors
/// If it is damaged, or of a newer version.
pub fn session_from_log(row: log::SessionRow) -> Result<SessionRecord, FormatError> {
    Ok(SessionRecord {
        session: SessionId(row.session_id),
        user: UserId(row.user_id),
        user_name: row.user,
        secret_digest: digest(&row.secret_digest, "SessionRow.secret_digest")?,
        client: row.client,
        opened_ms: row.opened_ms,
        kind: session_kind_from_log(row.kind)?,
        label: row.label,
        expires_ms: row.expires_ms,
        seen_day: row.seen_day,
        listed: row.listed,
        closed: row.closed,
    })
}

pub(crate) fn digest(bytes: &[u8], field: &'static str) -> Result<[u8; 16], FormatError> {
    bytes.try_into().map_err(|_| FormatError::Invalid(field))
}

/// Prints a message without its passwords.
macro_rules! secret {
    ($($message:path: $name:literal { $($field:ident)* };)*) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        })*
    };
}

secret! {
    people::RegisterRequest: "RegisterRequest" { name client };
    people::AcceptInviteRequest: "AcceptInviteRequest" { name client };
    people::LogInRequest: "LogInRequest" { name client };
    people::ChangePasswordRequest: "ChangePasswordRequest" { user close_others };
    people::CreateInviteResponse: "CreateInviteResponse" { expires_ms };
    log::SetPassword: "SetPassword" { user_id expects_revision };
    log::Register: "Register" { name };
    log::CredentialRow: "CredentialRow" { user_id changed_ms };
}
