//! The rules of accounts, passwords and invites.

use super::{AccountChange, Closing, Decided, Work, decided};
use crate::id::UserId;
use crate::limits::{INVITE_USES_MAX, INVITES_MAX, PHC_BYTES_MAX};
use crate::name::check_user_name;
use crate::outcome::{Change, Outcome, Reply};
use crate::record::{ClusterRole, Invite, Phc, Registration, UserKind, UserRecord};
use crate::refusal::Refusal;
use crate::view::View;

/// Accepts what may be a hashed password: the PHC string format in visible ASCII.
fn check_phc(Phc(phc): &Phc) -> Result<(), Refusal> {
    let sound = phc.len() <= PHC_BYTES_MAX
        && phc.starts_with("$argon2id$")
        && phc.bytes().all(|byte| byte.is_ascii_graphic());
    if sound { Ok(()) } else { Err(Refusal::CredentialInvalid) }
}

fn outcome<E>(decided: Decided<Outcome, E>) -> Result<Outcome, E> {
    Ok(decided?.unwrap_or_else(Outcome::refused))
}

fn account(user: &UserRecord) -> Reply {
    Reply::Account { user: user.user, credential_revision: user.credential_revision }
}

/// Makes an account, or changes one.
pub(crate) fn set_account<V: View>(
    view: &V,
    time_ms: i64,
    change: &AccountChange,
) -> Result<Outcome, V::Error> {
    let decide = || -> Decided<Outcome, V::Error> {
        let mut work = Work::new(view, time_ms)?;
        let before = view.user_named(&change.name)?;
        let mut user = match &before {
            Some(user) => user.clone(),
            None => decided!(work.make_user(&change.name)?),
        };
        user.kind = change.kind.unwrap_or(user.kind);
        user.role = change.role.unwrap_or(user.role);
        user.disabled = change.disabled.unwrap_or(user.disabled);
        let was_admin = before.as_ref().is_some_and(UserRecord::is_active_admin);
        if was_admin && !user.is_active_admin() && work.head.admins <= 1 {
            return Ok(Err(Refusal::LastAdmin));
        }
        // Streams that are open go on with what the account was when they began, so they end.
        let lost = |before: &UserRecord| {
            user.role < before.role || (user.kind == UserKind::Guest && before.kind != UserKind::Guest)
        };
        let loses = before.as_ref().is_some_and(lost);
        if loses || (user.disabled && before.as_ref().is_none_or(|before| !before.disabled)) {
            work.close_all(&mut user, None)?;
        }
        // Somebody who opened the name without a password gets no power from it.
        let has_power = |user: &UserRecord| user.role != ClusterRole::None || user.kind != UserKind::Person;
        if before.as_ref().is_some_and(|before| !before.is_claimed() && !has_power(before))
            && has_power(&user)
        {
            work.close_all(&mut user, None)?;
        }
        Ok(Ok(work.finish(account(&user), before.as_ref(), user)))
    };
    outcome(decide())
}

/// Sets a user's password.
pub(crate) fn set_password<V: View>(
    view: &V,
    time_ms: i64,
    user: UserId,
    phc: &Phc,
    expects_revision: u32,
    closing: Option<Closing>,
) -> Result<Outcome, V::Error> {
    let decide = || -> Decided<Outcome, V::Error> {
        decided!(check_phc(phc));
        let Some(before) = view.user(user)? else { return Ok(Err(Refusal::UserUnknown)) };
        let mut work = Work::new(view, time_ms)?;
        if before.credential_revision != expects_revision {
            if work.has_password(&before, phc)? {
                return Ok(Ok(Outcome::reply(account(&before))));
            }
            return Ok(Err(Refusal::CredentialsChanged));
        }
        if before.disabled {
            return Ok(Err(Refusal::UserDisabled));
        }
        let mut user = before.clone();
        work.set_password(&mut user, phc)?;
        match closing {
            Some(Closing::Of(_)) => work.close_of(&mut user, None)?,
            Some(Closing::AllBut(_, keeps)) => work.close_of(&mut user, Some(keeps))?,
            Some(Closing::One(_)) | None => {}
        }
        Ok(Ok(work.finish(account(&user), Some(&before), user)))
    };
    outcome(decide())
}

/// Makes an account with a password, by the invite with this digest, or, without one, where everybody may.
pub(crate) fn register<V: View>(
    view: &V,
    time_ms: i64,
    digest: Option<[u8; 16]>,
    name: &str,
    phc: &Phc,
) -> Result<Outcome, V::Error> {
    let decide = || -> Decided<Outcome, V::Error> {
        decided!(check_phc(phc));
        let mut work = Work::new(view, time_ms)?;
        let before = view.user_named(name)?;
        if let Some(user) = &before
            && work.has_password(user, phc)?
        {
            return Ok(Ok(Outcome::reply(account(user))));
        }
        let invite = match digest {
            Some(digest) => {
                let usable = |invite: &Invite| {
                    (invite.expires_ms == 0 || time_ms < invite.expires_ms)
                        && (invite.name.is_empty() || invite.name == name)
                };
                match view.invite(digest)?.filter(usable) {
                    Some(invite) => Some(invite),
                    None => return Ok(Err(Refusal::InviteInvalid)),
                }
            }
            None if work.head.settings.registration == Registration::Open => None,
            None => return Ok(Err(Refusal::RegistrationClosed)),
        };
        let mut user = match &before {
            Some(user) if user.disabled => return Ok(Err(Refusal::UserDisabled)),
            // Only an invite for exactly this name claims a name that others use already.
            Some(user) if !user.is_claimed() && invite.as_ref().is_some_and(|invite| invite.name == name) => {
                let mut user = user.clone();
                work.close_all(&mut user, None)?;
                user
            }
            Some(_) => return Ok(Err(Refusal::NameTaken)),
            None => decided!(work.make_user(name)?),
        };
        if let Some(invite) = invite {
            user.role = user.role.max(invite.role);
            if invite.kind != UserKind::Person {
                user.kind = invite.kind;
            }
            let uses = invite.uses.saturating_sub(1);
            if uses == 0 {
                work.head.invites = work.head.invites.saturating_sub(1);
            }
            work.changes.push(Change::Invite(Invite { uses, ..invite }));
        }
        work.set_password(&mut user, phc)?;
        Ok(Ok(work.finish(account(&user), before.as_ref(), user)))
    };
    outcome(decide())
}

/// Adds an invite; one without uses withdraws the invite of the same digest.
pub(crate) fn put_invite<V: View>(view: &V, time_ms: i64, invite: &Invite) -> Result<Outcome, V::Error> {
    if !invite.name.is_empty()
        && let Err(refusal) = check_user_name(&invite.name)
    {
        return Ok(Outcome::refused(refusal));
    }
    let mut work = Work::new(view, time_ms)?;
    let known = view.invite(invite.digest)?;
    match (&known, invite.uses) {
        (None, 0) => return Ok(Outcome::reply(Reply::Done)),
        (Some(_), 0) => work.head.invites = work.head.invites.saturating_sub(1),
        // A retry: uses that are gone meanwhile stay gone.
        (Some(_), _) => return Ok(Outcome::reply(Reply::Done)),
        (None, _) if work.head.invites >= INVITES_MAX => {
            return Ok(Outcome::refused(Refusal::TooManyInvites));
        }
        (None, _) => work.head.invites += 1,
    }
    // An invite for one name makes one account.
    let uses_max = if invite.name.is_empty() { INVITE_USES_MAX } else { 1 };
    work.changes.push(Change::Invite(Invite { uses: invite.uses.min(uses_max), ..invite.clone() }));
    Ok(work.end(Reply::Done))
}

/// Sets who may make accounts.
pub(crate) fn set_registration<V: View>(view: &V, mode: Registration) -> Result<Outcome, V::Error> {
    let mut head = view.meta()?;
    if head.settings.registration == mode {
        return Ok(Outcome::reply(Reply::Done));
    }
    head.settings.registration = mode;
    Ok(Outcome { reply: Reply::Done, changes: vec![Change::Meta(head)], event: None })
}
