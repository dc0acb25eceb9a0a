//! Rights in rooms: who may do what, and who may see which events.
//!
//! [`may`] is the only function that decides about a deed. The state machine calls it before it decides an action, and
//! gateways call it before they read. The table of [`Role`] and deed in `docs/rights.md` is compared with it by a
//! test.
//!
//! What somebody may see depends on the position in the log and on nothing else ([`Member::visible`]): every replica
//! can decide it for the events that it has, also one that is cut off from the others.

use crate::id::{Seq, UserId};
use crate::limits::PAST_SPANS_MAX;
use crate::refusal::Refusal;

/// What a caller may do in every room, by the caller's account. Gateways state it; data shards know no accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Powers {
    /// The caller is an admin of the cluster, who may moderate every room, except for direct conversations.
    pub admin: bool,
    /// The caller is a guest, who sees only the rooms that somebody added the guest to.
    pub guest: bool,
}

/// Who finds and reads a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoomKind {
    /// Every user lists, reads and joins the room.
    #[default]
    Open,
    /// Only members list and read the room, and members add others.
    Private,
    /// A conversation between people who never change.
    Direct,
}

impl RoomKind {
    /// The number on the wire, in the log and in digests, which never changes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Private => 2,
            Self::Direct => 3,
        }
    }

    /// The value with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Private),
            3 => Some(Self::Direct),
            _ => None,
        }
    }
}

/// Who writes in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Posting {
    /// All members.
    #[default]
    All,
    /// Owners and moderators.
    Moderators,
}

impl Posting {
    /// The number on the wire, in the log and in digests, which never changes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::All => 1,
            Self::Moderators => 2,
        }
    }

    /// The value with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::All),
            2 => Some(Self::Moderators),
            _ => None,
        }
    }
}

/// The part of a room's past that somebody sees who becomes a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// All events.
    #[default]
    All,
    /// The events from the one on that made the user a member.
    SinceJoin,
}

impl Past {
    /// The number on the wire, in the log and in digests, which never changes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::All => 1,
            Self::SinceJoin => 2,
        }
    }

    /// The value with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::All),
            2 => Some(Self::SinceJoin),
            _ => None,
        }
    }
}

/// The policy of a room. Small, because it is copied with the room's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomPolicy {
    /// Who finds and reads the room.
    pub kind: RoomKind,
    /// Who writes in the room.
    pub posting: Posting,
    /// What newcomers see.
    pub past: Past,
    /// Nobody writes in the room any more.
    pub archived: bool,
}

/// A change of a room's policy; `None` leaves a part as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// [`RoomPolicy::kind`].
    pub kind: Option<RoomKind>,
    /// [`RoomPolicy::posting`].
    pub posting: Option<Posting>,
    /// [`RoomPolicy::past`].
    pub past: Option<Past>,
    /// [`RoomPolicy::archived`].
    pub archived: Option<bool>,
}

impl PolicyChange {
    /// The policy after the change.
    #[must_use]
    pub fn of(self, policy: RoomPolicy) -> RoomPolicy {
        RoomPolicy {
            kind: self.kind.unwrap_or(policy.kind),
            posting: self.posting.unwrap_or(policy.posting),
            past: self.past.unwrap_or(policy.past),
            archived: self.archived.unwrap_or(policy.archived),
        }
    }
}

/// The role of a member in a room. A higher role may do everything that a lower one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads and writes.
    Guest,
    /// Adds others, sets the topic, pins.
    Member,
    /// Removes, bans and mutes guests and members.
    Moderator,
    /// Gives roles and changes the room's policy.
    Owner,
}

impl Role {
    /// The number on the wire, in the log and in digests, which never changes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Guest => 1,
            Self::Member => 2,
            Self::Moderator => 3,
            Self::Owner => 4,
        }
    }

    /// The value with this number.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Guest),
            2 => Some(Self::Member),
            3 => Some(Self::Moderator),
            4 => Some(Self::Owner),
            _ => None,
        }
    }
}

/// Consecutive events, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first event.
    pub from: Seq,
    /// The last event.
    pub upto: Seq,
}

/// What a room knows of a user who is, was or must not be a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The role. `None` from the first feature level: a member, or the owner if the user created the room.
    pub role: Option<Role>,
    /// The first event that the member may see; `None` for somebody who is no member now.
    pub sees_from: Option<Seq>,
    /// The events that the user may see from earlier memberships, ascending; at most [`PAST_SPANS_MAX`].
    pub past: Vec<Span>,
    /// The member may not write before this time, milliseconds since 1970.
    pub muted_until_ms: i64,
    /// The user may not join.
    pub banned: bool,
    /// The member has read the events up to this one; 0 for none.
    pub read: Seq,
}

impl Member {
    /// A member as the first feature level knew one: no role, and all events are visible.
    #[must_use]
    pub fn of_first_level() -> Self {
        Self { sees_from: Some(Seq(1)), ..Self::default() }
    }

    /// Whether the user is a member now.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.sees_from.is_some()
    }

    /// The role in force; `None` for somebody who is no member.
    #[must_use]
    pub fn role_in_force(&self, user: UserId, creator: UserId) -> Option<Role> {
        self.sees_from?;
        Some(self.role.unwrap_or(if user == creator { Role::Owner } else { Role::Member }))
    }

    /// The record after the user became a member with the event at `seq`.
    pub(crate) fn joined(self, role: Role, seq: Seq, past: Past) -> Self {
        let (from, past) = match past {
            Past::All => (Seq(1), Vec::new()),
            Past::SinceJoin => (seq, self.past),
        };
        Self {
            role: Some(role),
            sees_from: Some(from),
            past,
            muted_until_ms: self.muted_until_ms,
            banned: false,
            read: self.read,
        }
    }

    /// The record after the membership ended with the event at `seq`, which the user may still see.
    pub(crate) fn ended(mut self, seq: Seq, banned: bool) -> Self {
        if let Some(from) = self.sees_from.take() {
            if self.past.len() == PAST_SPANS_MAX {
                self.past.remove(0);
            }
            self.past.push(Span { from, upto: seq });
        }
        Self { role: None, banned, ..self }
    }

    /// The last visible span that does not begin behind `seq`, and where it ends, at most at `seq`.
    #[must_use]
    pub fn visible_back(&self, seq: Seq) -> Option<Span> {
        let now = self.sees_from.filter(|from| *from <= seq).map(|from| Span { from, upto: seq });
        let past = || {
            let span = self.past.iter().rev().find(|span| span.from <= seq)?;
            Some(Span { from: span.from, upto: span.upto.min(seq) })
        };
        now.or_else(past)
    }

    /// The first visible span that does not end before `seq`; its end is `None` where it is open. `None` if the user may
    /// see nothing from `seq` on.
    #[must_use]
    pub fn visible(&self, seq: Seq) -> Option<(Seq, Option<Seq>)> {
        let past = self.past.iter().find(|span| span.upto >= seq).map(|span| (span.from, Some(span.upto)));
        past.or(self.sees_from.map(|from| (from, None)))
    }
}

/// The events of a room that a caller may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All events.
    All,
    /// The events that the record says.
    Of(Member),
    /// None.
    Nothing,
}

impl Sight {
    /// Whether the event at `seq` can be seen.
    #[must_use]
    pub fn shows(&self, seq: Seq) -> bool {
        self.visible(seq).is_some_and(|(from, _)| from <= seq)
    }

    /// What somebody may see of a room.
    #[must_use]
    pub fn of(powers: Powers, policy: RoomPolicy, member: Option<Member>) -> Self {
        match (policy.kind, member) {
            (RoomKind::Open, member)
                if !powers.guest && member.as_ref().is_none_or(|member| !member.banned) =>
            {
                Self::All
            }
            (_, Some(member)) => Self::Of(member),
            (_, None) => Self::Nothing,
        }
    }

    /// As [`Member::visible`].
    #[must_use]
    pub fn visible(&self, seq: Seq) -> Option<(Seq, Option<Seq>)> {
        match self {
            Self::All => Some((Seq(1), None)),
            Self::Of(member) => member.visible(seq),
            Self::Nothing => None,
        }
    }

    /// As [`Member::visible_back`].
    #[must_use]
    pub fn visible_back(&self, seq: Seq) -> Option<Span> {
        match self {
            Self::All => Some(Span { from: Seq(1), upto: seq }),
            Self::Of(member) => member.visible_back(seq),
            Self::Nothing => None,
        }
    }

    /// The first event from which on everything can be seen, also what happens later; `None` for somebody who is no member
    /// where one has to be.
    #[must_use]
    pub fn from_here_on(&self) -> Option<Seq> {
        match self {
            Self::All => Some(Seq(1)),
            Self::Of(member) => member.sees_from,
            Self::Nothing => None,
        }
    }

    /// The refusal for somebody who may see nothing.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Of(Member { banned: true, .. }) => Refusal::Banned,
            _ => Refusal::NotAMember,
        }
    }
}

/// Something that somebody wants to do in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Find the room in lists, and read what happens in it from now on.
    Read,
    /// Become a member.
    Join,
    /// Stop being a member.
    Leave,
    /// Post a message.
    Post,
    /// React to a message, or take a reaction back.
    React,
    /// Delete an own message.
    Retract,
    /// Delete somebody else's message.
    Erase,
    /// Set the topic, or pin an event.
    Arrange,
    /// Make somebody a member.
    Add {
        /// The role that the new member gets.
        role: Role,
        /// The user is banned.
        banned: bool,
    },
    /// Remove, ban or mute somebody.
    Restrain {
        /// The role of the other; `None` for somebody who is no member.
        of: Option<Role>,
    },
    /// Give a member another role, or change the room's policy.
    Govern,
}

/// Who wants to do something in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actor {
    /// By the account.
    pub powers: Powers,
    /// The role in the room; `None` for somebody who is no member.
    pub role: Option<Role>,
    /// The user is banned from the room.
    pub banned: bool,
    /// The user is muted now.
    pub muted: bool,
}

/// Decides whether somebody may do something in a room with this policy.
///
/// # Errors
/// The refusal.
pub fn may(actor: Actor, policy: RoomPolicy, deed: Deed) -> Result<(), Refusal> {
    let Actor { powers, role, banned, muted } = actor;
    let open = policy.kind == RoomKind::Open;
    let direct = policy.kind == RoomKind::Direct;
    let moderates = powers.admin || role >= Some(Role::Moderator);
    let allowed = |allowed: bool| match (allowed, role) {
        (true, _) => Ok(()),
        (false, Some(_)) => Err(Refusal::NotAllowed),
        (false, None) if banned => Err(Refusal::Banned),
        (false, None) => Err(Refusal::NotAMember),
    };
    if policy.archived && !matches!(deed, Deed::Read | Deed::Leave | Deed::Govern) {
        // Somebody who may not even read the room does not learn that it is archived.
        return may(actor, policy, Deed::Read).and(Err(Refusal::RoomArchived));
    }
    match deed {
        Deed::Read | Deed::Join => allowed(role.is_some() || open && !powers.guest && !banned),
        Deed::Leave if direct => Err(Refusal::NotAllowed),
        Deed::Leave => Ok(()),
        Deed::Post if role.is_none() => allowed(false),
        Deed::Post if muted && !moderates => Err(Refusal::Muted),
        Deed::Post => allowed(policy.posting == Posting::All || role >= Some(Role::Moderator)),
        Deed::React if muted && !moderates => Err(Refusal::Muted),
        Deed::React | Deed::Retract => allowed(role.is_some()),
        Deed::Erase => allowed(!direct && moderates),
        Deed::Arrange => {
            let enough = if policy.posting == Posting::All { Role::Member } else { Role::Moderator };
            allowed(role >= Some(enough) || powers.admin && !direct)
        }
        Deed::Add { .. } | Deed::Restrain { .. } | Deed::Govern if direct => {
            Err(role.map_or(Refusal::NotAMember, |_| Refusal::NotAllowed))
        }
        Deed::Add { role: given, banned } => {
            let enough = if given > Role::Member {
                Role::Owner
            } else if banned {
                Role::Moderator
            } else {
                Role::Member
            };
            allowed(powers.admin || role >= Some(enough))
        }
        Deed::Restrain { of } => allowed(powers.admin || moderates && of < role),
        Deed::Govern => allowed(powers.admin || role == Some(Role::Owner)),
    }
}
