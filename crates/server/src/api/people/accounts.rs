//! Making accounts, passwords, invites and settings.

use conclave_core::limits::{LIST_ROOMS_DEFAULT, LIST_ROOMS_MAX};
use conclave_core::name::check_user_name;
use conclave_core::people::{AccountChange, Closing};
use conclave_core::record::{Invite, Phc, Registration, UserKind};
use conclave_core::{Command, Refusal, Reply, ShardId, UserId};
use conclave_proto::accounts;
use conclave_proto::people as api;
use conclave_proto::status::Failure;
use tokio::time::Instant;
use tonic::{Code, Extensions};
use zeroize::Zeroizing;

use super::sessions::Opening;
use super::{Actor, People, address, described};
use crate::api::auth;
use crate::people::password::{Password, check_length};

/// The beginning of every invite.
const INVITE_PREFIX: &str = "cni1_";
/// How long an invite is valid if nobody says otherwise, milliseconds.
const INVITE_VALID_MS: u64 = 7 * 86_400_000;

impl People {
    pub(super) fn read_registration(
        &self,
        _: &Extensions,
        _: api::GetRegistrationRequest,
    ) -> impl Future<Output = Result<api::GetRegistrationResponse, Failure>> + Send {
        let registration = self.meta().map(|meta| accounts::registration_to_log(meta.registration()).into());
        let cluster_id = self.cluster_id();
        std::future::ready(
            registration.map(|registration| api::GetRegistrationResponse { registration, cluster_id }),
        )
    }

    pub(super) async fn make_account(
        &self,
        extensions: &Extensions,
        request: api::RegisterRequest,
    ) -> Result<api::SessionOpened, Failure> {
        let api::RegisterRequest { name, password, client, label } = request;
        let password = Zeroizing::new(password);
        // Refused before the password is hashed, where that is certain.
        if self.meta()?.registration() != Registration::Open {
            return Err(Failure::Refused(Refusal::RegistrationClosed));
        }
        self.account_and_session(
            extensions,
            None,
            &name,
            password,
            Opening { client, label, ..Opening::default() },
        )
        .await
    }

    pub(super) async fn use_invite(
        &self,
        extensions: &Extensions,
        request: api::AcceptInviteRequest,
    ) -> Result<api::SessionOpened, Failure> {
        let api::AcceptInviteRequest { invite, name, password, client, label } = request;
        let (invite, password) = (Zeroizing::new(invite), Zeroizing::new(password));
        let invalid = || Failure::Refused(Refusal::InviteInvalid);
        let digest = auth::digest(parse_invite(&invite).ok_or_else(invalid)?);
        self.gateway.router.barrier(ShardId::META).await?;
        // A retry whose first try took effect finds its account in place of the invite: only the command knows.
        let known = self.meta()?.invite(digest).await?;
        let name = match known {
            Some(invite) if name.is_empty() => invite.name,
            _ => name,
        };
        let opening = Opening { client, label, ..Opening::default() };
        self.account_and_session(extensions, Some(digest), &name, password, opening).await
    }

    /// Makes an account with a password, and opens its first session.
    async fn account_and_session(
        &self,
        extensions: &Extensions,
        invite: Option<[u8; 16]>,
        name: &str,
        password: Password,
        opening: Opening,
    ) -> Result<api::SessionOpened, Failure> {
        check_user_name(name).map_err(Failure::Refused)?;
        check_length(&password)?;
        let (from, now) = (address(extensions), Instant::now());
        self.gateway.attempts.check(from, name, now)?;
        let phc = self.gateway.passwords.hash(password).await?;
        let command = Command::Register { invite, name: name.to_owned(), phc };
        match self.decide(&command).await {
            Ok(Reply::Account { user, credential_revision }) => {
                self.open_session(user, name, credential_revision, opening).await
            }
            Ok(other) => Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}"))),
            Err(failure) => {
                // Trying invites, or names, costs the same as trying passwords.
                if matches!(failure, Failure::Refused(_)) {
                    self.gateway.attempts.failed(from, name, now);
                }
                Err(failure)
            }
        }
    }

    /// Checks a user's password. Counts wrong ones.
    pub(super) async fn check_password(
        &self,
        extensions: &Extensions,
        name: &str,
        password: Password,
        phc: Option<Phc>,
    ) -> Result<(), Failure> {
        let (from, now) = (address(extensions), Instant::now());
        self.gateway.attempts.check(from, name, now)?;
        if self.gateway.passwords.check(password, phc).await? {
            self.gateway.attempts.succeeded(from, name);
            return Ok(());
        }
        self.gateway.attempts.failed(from, name, now);
        let message = "wrong name or password".to_owned();
        Err(Failure::Denied { code: "wrong_password", status: Code::Unauthenticated, message })
    }

    pub(super) async fn replace_password(
        &self,
        extensions: &Extensions,
        request: api::ChangePasswordRequest,
    ) -> Result<api::ChangePasswordResponse, Failure> {
        let api::ChangePasswordRequest { old_password, new_password, close_others, user } = request;
        let (old, new) = (Zeroizing::new(old_password), Zeroizing::new(new_password));
        let actor = Actor::of(extensions)?;
        check_length(&new)?;
        let named = !user.is_empty();
        let user = self.subject(&actor, &user).await?;
        if user.kind == UserKind::Bot {
            return Err(Failure::invalid("bot_password", "a bot has tokens and no password"));
        }
        let own = match &actor {
            Actor::Session(caller) if caller.user == user.user && !(named && old.is_empty()) => {
                Some(caller.session)
            }
            _ => None,
        };
        if own.is_some() && user.is_claimed() {
            let phc = self.meta()?.credential(user.user).await?.map(|credential| credential.phc);
            self.check_password(extensions, &user.name, old, phc).await?;
        } else if own.is_none() {
            actor.check_admin()?;
        }
        let phc = self.gateway.passwords.hash(new).await?;
        let expects_revision = user.credential_revision;
        // Nobody who opened the name without a password stays.
        let closing = match own {
            Some(session) if close_others || !user.is_claimed() => Some(Closing::AllBut(user.user, session)),
            Some(_) => None,
            None => Some(Closing::Of(user.user)),
        };
        let command = Command::SetPassword { user: user.user, phc, expects_revision, closing };
        self.decide(&command).await.map(|_| api::ChangePasswordResponse {})
    }

    pub(super) async fn read_users(
        &self,
        extensions: &Extensions,
        request: api::ListUsersRequest,
    ) -> Result<api::ListUsersResponse, Failure> {
        Actor::of(extensions)?;
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => LIST_ROOMS_DEFAULT,
            limit => limit.min(LIST_ROOMS_MAX),
        };
        let mut users = self.meta()?.users_page(&request.prefix, &request.after_name, limit + 1).await?;
        let more = users.len() > limit;
        users.truncate(limit);
        Ok(api::ListUsersResponse { users: users.into_iter().map(described).collect(), more })
    }

    pub(super) async fn make_invite(
        &self,
        extensions: &Extensions,
        request: api::CreateInviteRequest,
    ) -> Result<api::CreateInviteResponse, Failure> {
        let actor = Actor::of(extensions)?;
        actor.check_admin()?;
        let api::CreateInviteRequest { name, kind, role, uses, expires_in_ms } = request;
        let secret: u128 = rand::random();
        let valid_ms = if expires_in_ms == 0 { INVITE_VALID_MS } else { expires_in_ms };
        let expires_ms = self.gateway.clock.now_ms().saturating_add_unsigned(valid_ms);
        let invite = Invite {
            digest: auth::digest(secret),
            name,
            kind: accounts::kind_from_log(kind).map_err(|error| unknown_value(&error))?,
            role: accounts::role_from_log(role).map_err(|error| unknown_value(&error))?,
            uses: uses.max(1),
            expires_ms,
            by: match &actor {
                Actor::Session(caller) => caller.user,
                Actor::Operator => UserId(0),
            },
        };
        self.decide(&Command::PutInvite(invite)).await?;
        Ok(api::CreateInviteResponse {
            invite: format_invite(secret),
            expires_ms,
            cluster_id: self.cluster_id(),
        })
    }

    pub(super) async fn change_account(
        &self,
        extensions: &Extensions,
        request: api::SetAccountRequest,
    ) -> Result<api::SetAccountResponse, Failure> {
        Actor::of(extensions)?.check_admin()?;
        let api::SetAccountRequest { name, kind, role, disabled } = request;
        let kind = kind.map(accounts::kind_from_log).transpose().map_err(|error| unknown_value(&error))?;
        let role = role.map(accounts::role_from_log).transpose().map_err(|error| unknown_value(&error))?;
        match self.decide(&Command::SetAccount(AccountChange { name, kind, role, disabled })).await? {
            Reply::Account { user, .. } => Ok(api::SetAccountResponse { user_id: user.0 }),
            other => Err(Failure::unknown("undecided", format!("unexpected reply: {other:?}"))),
        }
    }

    pub(super) async fn change_registration(
        &self,
        extensions: &Extensions,
        request: api::SetRegistrationRequest,
    ) -> Result<api::SetRegistrationResponse, Failure> {
        Actor::of(extensions)?.check_admin()?;
        let mode =
            accounts::registration_from_log(request.registration).map_err(|error| unknown_value(&error))?;
        self.decide(&Command::SetRegistration(mode)).await?;
        Ok(api::SetRegistrationResponse {})
    }
}

fn unknown_value(error: &conclave_proto::FormatError) -> Failure {
    Failure::invalid("value_unknown", error.to_string())
}

/// An invite with this secret. The checksum finds typing errors, and lets scanners recognize one.
fn format_invite(secret: u128) -> String {
    let digits = format!("{secret:032x}");
    format!("{INVITE_PREFIX}{digits}{:08x}", crc32fast::hash(digits.as_bytes()))
}

fn parse_invite(invite: &str) -> Option<u128> {
    let (digits, checksum) = invite.strip_prefix(INVITE_PREFIX)?.split_at_checked(32)?;
    if checksum.len() != 8 || !invite[INVITE_PREFIX.len()..].bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let right = u32::from_str_radix(checksum, 16).ok()? == crc32fast::hash(digits.as_bytes());
    u128::from_str_radix(digits, 16).ok().filter(|_| right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_invite_is_noticed() {
        let good = format_invite(7);
        assert_eq!(parse_invite(&good), Some(7));
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'5' { b'6' } else { b'5' };
            assert_eq!(parse_invite(std::str::from_utf8(&bad).unwrap()), None, "{at}");
        }
        for bad in ["", "cni1_", &good[..good.len() - 1], &format!("{good}0"), &good.replace('7', "ä")] {
            assert_eq!(parse_invite(bad), None, "{bad}");
        }
    }
}
