//! The actions of a session in a room, and every rule about them: the feature level that an action needs, the inputs
//! that are never valid, the digest that tells a repeat from another request, and the changes that an action makes.
//!
//! A new action is a variant of [`Action`] and an arm in each function here; its event is a variant of
//! [`EventKind`].

use crate::access::{Deed, Past, PolicyChange, Posting, Role, RoomKind};
use crate::decide::{Decision, Moment};
use crate::event::EventKind;
use crate::id::{Seq, UserId};
use crate::level;
use crate::message::{Answer, check_emoji};
use crate::name::{check_reason, check_text, check_topic, check_user_name};
use crate::outcome::Change;
use crate::record::Person;
use crate::refusal::Refusal;
use crate::view::View;

/// An action of a session in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Post a message.
    Post(String),
    /// Set the room's topic.
    SetTopic(String),
    /// Become a member.
    Join,
    /// Stop being a member.
    Leave,
    /// Pin or unpin an event for all members of the room. Feature level 2.
    Pin {
        /// The seq of the event.
        target: Seq,
        /// Unpin instead of pin.
        off: bool,
    },
    /// Post a message that refers to an earlier one. Feature level 2.
    Answer(Answer),
    /// Give an own message another text. Feature level 2.
    Edit {
        /// The seq of the message.
        target: Seq,
        /// The new text.
        text: String,
    },
    /// Delete a message for good: its text and those of its edits are erased. Feature level 2.
    Delete {
        /// The seq of the message.
        target: Seq,
        /// Why; see [`check_reason`].
        reason: String,
    },
    /// React to a message, or take a reaction back. Feature level 2.
    React {
        /// The seq of the message.
        target: Seq,
        /// The reaction; see [`check_emoji`].
        emoji: String,
        /// Take it back.
        off: bool,
    },
    /// Say that the author has read the events up to one. Makes no event. Feature level 2.
    Read {
        /// The event; one that is not there yet counts as the last one.
        upto: Seq,
    },
    /// Make somebody a member; ends a ban. Feature level 2.
    AddMember {
        /// The new member.
        who: Target,
        /// The new member's role.
        role: Role,
    },
    /// End somebody's membership. Feature level 2.
    RemoveMember {
        /// The member; with `ban`, any user.
        who: Target,
        /// The user may not join again.
        ban: bool,
        /// Why; see [`check_reason`].
        reason: String,
    },
    /// Give a member another role. Feature level 2.
    SetRole {
        /// The member.
        who: Target,
        /// The role from now on.
        role: Role,
    },
    /// Let a member write nothing for a while. Feature level 2.
    Mute {
        /// The member.
        who: Target,
        /// How long, milliseconds; at most [`crate::limits::MUTE_MAX_MS`]. 0 ends it.
        for_ms: u64,
    },
    /// Change the room's policy. Feature level 2.
    SetPolicy(PolicyChange),
    /// A request that a gateway refused. It is in the log so that it uses up its number like every other refused
    /// request. Only the digest of its content is stored.
    Void {
        /// The reason for the refusal.
        refusal: Refusal,
        /// [`Action::digest`] of the refused action.
        digest: u64,
    },
}

/// The user whom an action concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The name that the client gave.
    pub name: String,
    /// The user of this name; 0 if there is none. Stamped by the gateway, and no part of the digest.
    pub user: UserId,
}

impl Target {
    fn person(&self) -> Person {
        Person { user: self.user, name: self.name.clone() }
    }
}

impl Action {
    /// The lowest feature level of a cluster that allows this action.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Post(_) | Self::SetTopic(_) | Self::Join | Self::Leave | Self::Void { .. } => level::FIRST,
            Self::Pin { .. }
            | Self::AddMember { .. }
            | Self::RemoveMember { .. }
            | Self::SetRole { .. }
            | Self::Mute { .. }
            | Self::SetPolicy(_) => level::RIGHTS,
            Self::Answer(_)
            | Self::Edit { .. }
            | Self::Delete { .. }
            | Self::React { .. }
            | Self::Read { .. } => level::MESSAGES,
        }
    }

    /// The user whom the action concerns.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::AddMember { who, .. }
            | Self::RemoveMember { who, .. }
            | Self::SetRole { who, .. }
            | Self::Mute { who, .. } => Some(who),
            Self::Post(_)
            | Self::SetTopic(_)
            | Self::Join
            | Self::Leave
            | Self::Pin { .. }
            | Self::Answer(_)
            | Self::Edit { .. }
            | Self::Delete { .. }
            | Self::React { .. }
            | Self::Read { .. }
            | Self::SetPolicy(_)
            | Self::Void { .. } => None,
        }
    }

    /// The messages whose state decides the action; 0 for none.
    #[must_use]
    pub fn messages(&self) -> [Seq; 2] {
        match self {
            Self::Answer(answer) => [answer.reply_to, answer.thread],
            Self::Edit { target, .. } | Self::Delete { target, .. } | Self::React { target, .. } => {
                [*target, Seq(0)]
            }
            _ => [Seq(0); 2],
        }
    }

    /// Sets the user whom the action concerns, by [`Action::target`]'s name; nothing for an action that concerns nobody.
    pub fn stamp_target(&mut self, user: UserId) {
        if let Self::AddMember { who, .. }
        | Self::RemoveMember { who, .. }
        | Self::SetRole { who, .. }
        | Self::Mute { who, .. } = self
        {
            who.user = user;
        }
    }

    /// Refuses an action that is invalid in every state. Gateways check before they make a command, and every replica
    /// checks again.
    ///
    /// # Errors
    /// The reason why the action is never valid.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Post(text) => check_text(text),
            Self::SetTopic(topic) => check_topic(topic),
            Self::Void { refusal, .. } => Err(*refusal),
            Self::Pin { target: Seq(0), .. } => Err(Refusal::TargetUnknown),
            Self::Answer(Answer { reply_to: Seq(0), thread: Seq(0), .. }) => Err(Refusal::TargetUnknown),
            Self::Answer(Answer { text, .. }) | Self::Edit { text, .. } => check_text(text),
            Self::Delete { reason, .. } => check_reason(reason),
            Self::React { emoji, .. } => check_emoji(emoji),
            Self::AddMember { who, .. } | Self::SetRole { who, .. } | Self::Mute { who, .. } => {
                check_target(who)
            }
            Self::RemoveMember { who, reason, .. } => {
                check_target(who)?;
                check_reason(reason)
            }
            Self::Join | Self::Leave | Self::Pin { .. } | Self::Read { .. } | Self::SetPolicy(_) => Ok(()),
        }
    }

    /// Whether the action may come without a request number, because repeating it has no effect.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Join | Self::Read { .. })
    }

    /// A hash that tells a repeat from a number that was used for another action. The hash covers the client's input,
    /// in one form for all versions, and nothing that a gateway adds: a repeat may come through another gateway. With
    /// 64 bits it detects a client that damages its own state by accident; it is no defence against deliberate
    /// collisions.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let built;
        let (kind, body) = match self {
            Self::Post(text) => (1, text.as_bytes()),
            Self::SetTopic(topic) => (2, topic.as_bytes()),
            Self::Join => (3, &[][..]),
            Self::Leave => (4, &[][..]),
            Self::Pin { target, off } => {
                built = [&target.0.to_le_bytes()[..], &[u8::from(*off)]].concat();
                (5, &built[..])
            }
            Self::AddMember { who, role } => {
                built = [&[role.code()], who.name.as_bytes()].concat();
                (6, &built[..])
            }
            Self::RemoveMember { who, ban, reason } => {
                // No name contains a zero byte that passes the check, so the parts cannot run into each other.
                built = [&[u8::from(*ban)], who.name.as_bytes(), &[0], reason.as_bytes()].concat();
                (7, &built[..])
            }
            Self::SetRole { who, role } => {
                built = [&[role.code()], who.name.as_bytes()].concat();
                (8, &built[..])
            }
            Self::Mute { who, for_ms } => {
                built = [&for_ms.to_le_bytes()[..], who.name.as_bytes()].concat();
                (9, &built[..])
            }
            Self::SetPolicy(change) => {
                let PolicyChange { kind, posting, past, archived } = *change;
                built = vec![
                    kind.map_or(0, RoomKind::code),
                    posting.map_or(0, Posting::code),
                    past.map_or(0, Past::code),
                    archived.map_or(0, |archived| 1 + u8::from(archived)),
                ];
                (10, &built[..])
            }
            Self::Answer(Answer { text, reply_to, thread, also_in_room }) => {
                let numbers = [reply_to.0.to_le_bytes(), thread.0.to_le_bytes()].concat();
                built = [&numbers, &[u8::from(*also_in_room)][..], text.as_bytes()].concat();
                (11, &built[..])
            }
            Self::Edit { target, text } => {
                built = [&target.0.to_le_bytes()[..], text.as_bytes()].concat();
                (12, &built[..])
            }
            Self::Delete { target, reason } => {
                built = [&target.0.to_le_bytes()[..], reason.as_bytes()].concat();
                (13, &built[..])
            }
            Self::React { target, emoji, off } => {
                built = [&target.0.to_le_bytes()[..], &[u8::from(*off)], emoji.as_bytes()].concat();
                (14, &built[..])
            }
            Self::Read { upto } => {
                built = upto.0.to_le_bytes().to_vec();
                (15, &built[..])
            }
            Self::Void { digest, .. } => return *digest,
        };
        xxhash_rust::xxh3::xxh3_64_with_seed(body, kind)
    }

    /// Decides the action in its room.
    ///
    /// # Errors
    /// Only errors of the view.
    pub(crate) fn decide<V: View>(&self, moment: &Moment<'_, V>) -> Result<Decision, V::Error> {
        if let Err(refusal) = self.check() {
            return Ok(Decision::Refused(refusal));
        }
        match self {
            Self::Post(text) => moment.plain(Deed::Post, || EventKind::Message(text.clone())),
            Self::SetTopic(topic) => {
                let change = Change::Topic(moment.room, topic.clone());
                let decision = moment.plain(Deed::Arrange, || EventKind::TopicChanged(topic.clone()))?;
                Ok(decision.with(change))
            }
            Self::Join => moment.join(),
            Self::Leave => moment.leave(),
            Self::Pin { target, off } => {
                let kind = || EventKind::Pinned { target: *target, off: *off };
                match moment.plain(Deed::Arrange, kind)? {
                    // Only somebody who may pin learns where the room ends.
                    Decision::Event(_) if *target > moment.head.last => {
                        Ok(Decision::Refused(Refusal::TargetUnknown))
                    }
                    decision => Ok(decision),
                }
            }
            Self::Answer(answer) => moment.answer(answer),
            Self::Edit { target, text } => moment.edit(*target, text),
            Self::Delete { target, reason } => moment.delete(*target, reason),
            Self::React { target, emoji, off } => moment.react(*target, emoji, *off),
            Self::Read { upto } => moment.read(*upto),
            Self::AddMember { who, role } => moment.add(who.person(), *role),
            Self::RemoveMember { who, ban, reason } => moment.remove(who.person(), *ban, reason),
            Self::SetRole { who, role } => moment.set_role(who.person(), *role),
            Self::Mute { who, for_ms } => moment.mute(who.person(), *for_ms),
            Self::SetPolicy(change) => moment.set_policy(*change),
            Self::Void { refusal, .. } => Ok(Decision::Refused(*refusal)),
        }
    }
}

/// A name that nobody can have is the name of nobody: this refusal uses up the request's number, as a name's own does not.
fn check_target(who: &Target) -> Result<(), Refusal> {
    check_user_name(&who.name).map_err(|_| Refusal::UserUnknown)
}
