//! Rights in rooms to protobuf and back.

use conclave_core::access::{Past, PolicyChange, Posting, Powers, Role, RoomKind, RoomPolicy};
use conclave_core::record::{Founding, Person};
use conclave_core::{UserId, action::Target};

use crate::chat::{self, MemberRole};
use crate::{FormatError, log};

const ADMIN: u32 = 1;
const GUEST: u32 = 2;

pub(crate) fn powers_to_bits(powers: Powers) -> u32 {
    let Powers { admin, guest } = powers;
    (if admin { ADMIN } else { 0 }) | (if guest { GUEST } else { 0 })
}

pub(crate) fn powers_from_bits(bits: u32) -> Result<Powers, FormatError> {
    if bits & !(ADMIN | GUEST) != 0 {
        return Err(FormatError::UnknownKind("the author's powers"));
    }
    Ok(Powers { admin: bits & ADMIN != 0, guest: bits & GUEST != 0 })
}

/// The value with the number of an enum on the wire; `None` for the unspecified one.
fn known<T>(
    number: i32,
    from_code: fn(u8) -> Option<T>,
    what: &'static str,
) -> Result<Option<T>, FormatError> {
    if number == 0 {
        return Ok(None);
    }
    let value = u8::try_from(number).ok().and_then(from_code);
    value.map(Some).ok_or(FormatError::UnknownKind(what))
}

/// The kind of a room; `None` if it is not specified.
///
/// # Errors
/// If this version does not know the kind.
pub fn kind_from_proto(number: i32) -> Result<Option<RoomKind>, FormatError> {
    known(number, RoomKind::from_code, "the kind of room")
}

/// A member's role; `None` if it is not specified.
///
/// # Errors
/// If this version does not know the role.
pub fn role_from_proto(number: i32) -> Result<Option<Role>, FormatError> {
    known(number, Role::from_code, "the role")
}

/// A member's role.
#[must_use]
pub fn role_to_proto(role: Option<Role>) -> MemberRole {
    match role {
        None => MemberRole::Unspecified,
        Some(Role::Guest) => MemberRole::Guest,
        Some(Role::Member) => MemberRole::Member,
        Some(Role::Moderator) => MemberRole::Moderator,
        Some(Role::Owner) => MemberRole::Owner,
    }
}

/// A room's policy in the form in which it is sent and stored.
#[must_use]
pub fn policy_to_proto(policy: RoomPolicy) -> chat::RoomPolicy {
    let RoomPolicy { kind, posting, past, archived } = policy;
    chat::RoomPolicy {
        kind: kind.code().into(),
        posting: posting.code().into(),
        past: past.code().into(),
        archived,
    }
}

/// A room's policy from the form in which it is sent and stored.
///
/// # Errors
/// If this version does not know one of its values.
pub fn policy_from_proto(policy: chat::RoomPolicy) -> Result<RoomPolicy, FormatError> {
    let chat::RoomPolicy { kind, posting, past, archived } = policy;
    let change = change_from_proto(chat::SetPolicy { kind, posting, past, archived: Some(archived) })?;
    Ok(change.of(RoomPolicy::default()))
}

pub(crate) fn change_to_proto(change: PolicyChange) -> chat::SetPolicy {
    let PolicyChange { kind, posting, past, archived } = change;
    chat::SetPolicy {
        kind: kind.map_or(0, RoomKind::code).into(),
        posting: posting.map_or(0, Posting::code).into(),
        past: past.map_or(0, Past::code).into(),
        archived,
    }
}

pub(crate) fn change_from_proto(change: chat::SetPolicy) -> Result<PolicyChange, FormatError> {
    Ok(PolicyChange {
        kind: kind_from_proto(change.kind)?,
        posting: known(change.posting, Posting::from_code, "who writes in the room")?,
        past: known(change.past, Past::from_code, "what newcomers see")?,
        archived: change.archived,
    })
}

/// A user by id and name.
#[must_use]
pub fn person_to_proto(person: &Person) -> chat::Person {
    chat::Person { user_id: person.user.0, name: person.name.clone() }
}

pub(crate) fn person_from_proto(person: chat::Person) -> Person {
    Person { user: UserId(person.user_id), name: person.name }
}

/// The rights with which a room begins, in their stored form.
#[must_use]
pub fn founding_to_proto(founding: &Founding) -> log::Founding {
    let people = founding.people.iter().map(person_to_proto).collect();
    log::Founding { kind: founding.kind.code().into(), people }
}

/// The rights with which a room begins, from their stored form.
///
/// # Errors
/// If this version does not know the kind of room.
pub fn founding_from_proto(founding: log::Founding) -> Result<Founding, FormatError> {
    let kind = kind_from_proto(founding.kind)?.ok_or(FormatError::Missing("Founding.kind"))?;
    Ok(Founding { kind, people: founding.people.into_iter().map(person_from_proto).collect() })
}

pub(crate) fn target_to_proto(target: Target) -> chat::Target {
    chat::Target { name: target.name, user_id: target.user.0 }
}

pub(crate) fn target_from_proto(target: Option<chat::Target>) -> Target {
    let target = target.unwrap_or_default();
    Target { name: target.name, user: UserId(target.user_id) }
}
