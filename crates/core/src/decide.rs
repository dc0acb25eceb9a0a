//! The decisions about actions in a room: what an action changes, and who may do it.

mod messages;

use crate::access::{Actor, Deed, Member, PolicyChange, Powers, Role, RoomKind, RoomPolicy, may};
use crate::event::EventKind;
use crate::id::{RoomId, Seq, UserId};
use crate::limits::{MEMBERS_MAX, MUTE_MAX_MS};
use crate::outcome::Change;
use crate::record::{Person, RoomHead};
use crate::refusal::Refusal;
use crate::stamp::Stamp;
use crate::view::View;

/// The decision about an action.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It becomes an event.
    Event(Effect),
    /// There is nothing to change.
    Unchanged,
    /// A row changes, and nobody else needs to hear of it.
    Quiet(Change),
    /// A final no.
    Refused(Refusal),
}

/// The effect of an accepted action, besides moving the room's head.
#[derive(Debug)]
pub(crate) struct Effect {
    /// The event that the action becomes.
    pub(crate) kind: EventKind,
    /// The rows that the action changes.
    pub(crate) changes: Vec<Change>,
    /// The room's head before the event, with the members and the policy after it.
    pub(crate) head: RoomHead,
}

impl Decision {
    /// The decision with a row that its event changes.
    pub(crate) fn with(self, change: Change) -> Self {
        match self {
            Self::Event(effect) => Self::Event(Effect { changes: vec![change], ..effect }),
            other => other,
        }
    }
}

/// The situation in which an action is decided.
pub(crate) struct Moment<'a, V> {
    /// The state of the shard.
    pub(crate) view: &'a V,
    /// The leader's stamp.
    pub(crate) stamp: Stamp,
    /// The room of the action.
    pub(crate) room: RoomId,
    /// The room's head.
    pub(crate) head: RoomHead,
    /// The user who acts.
    pub(crate) author: UserId,
    /// What the author may do by the account.
    pub(crate) powers: Powers,
}

impl<V: View> Moment<'_, V> {
    /// Whether rights are checked. In a batch of the first level they are checked where a later level has left something
    /// of them, in the room or in what it knows of the author: the leader may not know yet that the cluster's level has risen.
    fn has_rights(&self, author: &Member) -> bool {
        let known = *author != Member::default() && *author != Member::of_first_level();
        self.stamp.has_rights() || self.head.policy != RoomPolicy::default() || known
    }

    /// The seq of the event that the action becomes.
    fn seq(&self) -> Seq {
        self.head.last.next()
    }

    /// What the room knows of a user, and the user's role.
    fn member(&self, user: UserId) -> Result<(Member, Option<Role>), V::Error> {
        let member = self.view.member(self.room, user)?.unwrap_or_default();
        // Only a member without a role can have it from having created the room.
        let creator = match (member.is_present(), member.role) {
            (true, None) => self.view.creator(self.room)?,
            _ => UserId(0),
        };
        let role = member.role_in_force(user, creator);
        Ok((member, role))
    }

    fn may(&self, member: &Member, role: Option<Role>, deed: Deed) -> Result<(), Refusal> {
        // A clock may say any time, also one before 1970.
        let muted =
            member.muted_until_ms != 0 && member.muted_until_ms > self.stamp.after(self.head.last_time_ms);
        let actor = Actor { powers: self.powers, role, banned: member.banned, muted };
        may(actor, self.head.policy, deed)
    }

    /// Checks whether the author may do it.
    fn check(&self, deed: Deed) -> Result<Result<(), Refusal>, V::Error> {
        let (member, role) = self.member(self.author)?;
        Ok(self.may(&member, role, deed))
    }

    fn event(&self, kind: EventKind) -> Decision {
        Decision::Event(Effect { kind, changes: Vec::new(), head: self.head })
    }

    /// The decision for an event about a user.
    fn about(&self, kind: EventKind, user: UserId, member: Option<Member>, members: u32) -> Decision {
        let change = Change::Member { room: self.room, user, member };
        let head = RoomHead { members, ..self.head };
        Decision::Event(Effect { kind, changes: vec![change], head })
    }

    /// An action that changes no rights.
    pub(crate) fn plain(&self, deed: Deed, kind: impl FnOnce() -> EventKind) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if self.has_rights(&member)
            && let Err(refusal) = self.may(&member, role, deed)
        {
            return Ok(Decision::Refused(refusal));
        }
        Ok(self.event(kind()))
    }

    pub(crate) fn join(&self) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if member.is_present() {
            return Ok(Decision::Unchanged);
        }
        let record = if self.has_rights(&member) {
            if let Err(refusal) = self.may(&member, role, Deed::Join) {
                return Ok(Decision::Refused(refusal));
            }
            if self.head.members >= MEMBERS_MAX {
                return Ok(Decision::Refused(Refusal::TooManyMembers));
            }
            // The creator of a room of the first level owns it.
            let role = if self.view.creator(self.room)? == self.author { Role::Owner } else { Role::Member };
            member.joined(role, self.seq(), self.head.policy.past)
        } else {
            Member::of_first_level()
        };
        let members = self.head.members.saturating_add(1);
        Ok(self.about(EventKind::Joined, self.author, Some(record), members))
    }

    pub(crate) fn leave(&self) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if !member.is_present() {
            return Ok(Decision::Unchanged);
        }
        let record = if self.has_rights(&member) {
            if let Err(refusal) = self.may(&member, role, Deed::Leave) {
                return Ok(Decision::Refused(refusal));
            }
            Some(member.ended(self.seq(), false))
        } else {
            None
        };
        let members = self.head.members.saturating_sub(1);
        Ok(self.about(EventKind::Left, self.author, record, members))
    }

    pub(crate) fn add(&self, who: Person, role: Role) -> Result<Decision, V::Error> {
        let (member, _) = self.member(who.user)?;
        if let Err(refusal) = self.check(Deed::Add { role, banned: member.banned })? {
            return Ok(Decision::Refused(refusal));
        }
        if who.user == UserId(0) {
            return Ok(Decision::Refused(Refusal::UserUnknown));
        }
        if member.is_present() {
            return Ok(Decision::Unchanged);
        }
        if self.head.members >= MEMBERS_MAX {
            return Ok(Decision::Refused(Refusal::TooManyMembers));
        }
        let record = member.joined(role, self.seq(), self.head.policy.past);
        let members = self.head.members.saturating_add(1);
        let user = who.user;
        Ok(self.about(EventKind::MemberAdded { who, role }, user, Some(record), members))
    }

    pub(crate) fn remove(&self, who: Person, ban: bool, reason: &str) -> Result<Decision, V::Error> {
        let (member, role) = self.member(who.user)?;
        if let Err(refusal) = self.check(Deed::Restrain { of: role })? {
            return Ok(Decision::Refused(refusal));
        }
        if who.user == UserId(0) {
            return Ok(Decision::Refused(Refusal::UserUnknown));
        }
        if !member.is_present() && !ban {
            return Ok(Decision::Refused(Refusal::NoSuchMember));
        }
        if !member.is_present() && member.banned {
            return Ok(Decision::Unchanged);
        }
        let left = u32::from(member.is_present());
        let record = member.ended(self.seq(), ban);
        let members = self.head.members.saturating_sub(left);
        let user = who.user;
        let kind = EventKind::MemberRemoved { who, banned: ban, reason: reason.to_owned() };
        Ok(self.about(kind, user, Some(record), members))
    }

    pub(crate) fn set_role(&self, who: Person, role: Role) -> Result<Decision, V::Error> {
        let (member, known) = self.member(who.user)?;
        if let Err(refusal) = self.check(Deed::Govern)? {
            return Ok(Decision::Refused(refusal));
        }
        match known {
            None => return Ok(Decision::Refused(Refusal::NoSuchMember)),
            Some(known) if known == role => return Ok(Decision::Unchanged),
            Some(_) => {}
        }
        let user = who.user;
        let record = Member { role: Some(role), ..member };
        Ok(self.about(EventKind::RoleChanged { who, role }, user, Some(record), self.head.members))
    }

    pub(crate) fn mute(&self, who: Person, for_ms: u64) -> Result<Decision, V::Error> {
        let (member, role) = self.member(who.user)?;
        if let Err(refusal) = self.check(Deed::Restrain { of: role })? {
            return Ok(Decision::Refused(refusal));
        }
        if !member.is_present() {
            return Ok(Decision::Refused(Refusal::NoSuchMember));
        }
        let now_ms = self.stamp.after(self.head.last_time_ms);
        let until_ms = match for_ms.min(MUTE_MAX_MS) {
            0 => 0,
            for_ms => now_ms.saturating_add_unsigned(for_ms),
        };
        let user = who.user;
        let record = Member { muted_until_ms: until_ms, ..member };
        Ok(self.about(EventKind::Muted { who, until_ms }, user, Some(record), self.head.members))
    }

    pub(crate) fn set_policy(&self, change: PolicyChange) -> Result<Decision, V::Error> {
        if let Err(refusal) = self.check(Deed::Govern)? {
            return Ok(Decision::Refused(refusal));
        }
        let policy = change.of(self.head.policy);
        if policy == self.head.policy {
            return Ok(Decision::Unchanged);
        }
        // A direct conversation is made by its people and by nothing else.
        if policy.kind == RoomKind::Direct {
            return Ok(Decision::Refused(Refusal::NotAllowed));
        }
        let head = RoomHead { policy, ..self.head };
        Ok(Decision::Event(Effect { kind: EventKind::PolicyChanged(policy), changes: Vec::new(), head }))
    }
}
