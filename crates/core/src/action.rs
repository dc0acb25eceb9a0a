//! The actions of a session in a room, and every rule about them: the feature level that an action needs, the inputs
//! that are never valid, the digest that tells a repeat from another request, and the changes that an action makes.
//!
//! A new action is a variant of [`Action`] and an arm in each function here; its event is a variant of
//! [`EventKind`].

use crate::event::EventKind;
use crate::id::{RoomId, Seq, UserId};
use crate::level;
use crate::name::{check_text, check_topic};
use crate::outcome::Change;
use crate::record::RoomHead;
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
    /// A request that a gateway refused. It is in the log so that it uses up its number like every other refused
    /// request. Only the digest of its content is stored.
    Void {
        /// The reason for the refusal.
        refusal: Refusal,
        /// [`Action::digest`] of the refused action.
        digest: u64,
    },
}

impl Action {
    /// The lowest feature level of a cluster that allows this action.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Post(_) | Self::SetTopic(_) | Self::Join | Self::Leave | Self::Void { .. } => level::FIRST,
            Self::Pin { .. } => 2,
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
            Self::Join | Self::Leave | Self::Pin { .. } => Ok(()),
        }
    }

    /// Whether the action may come without a request number, because repeating it has no effect.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Self::Join)
    }

    /// A hash that tells a repeat from a number that was used for another action. The hash covers the client's input,
    /// in one form for all versions, and nothing that a gateway adds: a repeat may come through another gateway. With
    /// 64 bits it detects a client that damages its own state by accident; it is no defence against deliberate
    /// collisions.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let pin;
        let (kind, body) = match self {
            Self::Post(text) => (1, text.as_bytes()),
            Self::SetTopic(topic) => (2, topic.as_bytes()),
            Self::Join => (3, &[][..]),
            Self::Leave => (4, &[][..]),
            Self::Pin { target, off } => {
                pin = [&target.0.to_le_bytes()[..], &[u8::from(*off)]].concat();
                (5, &pin[..])
            }
            Self::Void { digest, .. } => return *digest,
        };
        xxhash_rust::xxh3::xxh3_64_with_seed(body, kind)
    }

    /// Decides the action in its room. `head` is the room's current head.
    ///
    /// # Errors
    /// Only errors of the view.
    pub(crate) fn decide<V: View>(
        &self,
        view: &V,
        room: RoomId,
        head: RoomHead,
        author: UserId,
    ) -> Result<Decision, V::Error> {
        if let Err(refusal) = self.check() {
            return Ok(Decision::Refused(refusal));
        }
        let event = |kind| Effect { kind, change: None, members: head.members };
        Ok(Decision::Event(match self {
            Self::Post(text) => event(EventKind::Message(text.clone())),
            Self::SetTopic(topic) => Effect {
                change: Some(Change::Topic(room, topic.clone())),
                ..event(EventKind::TopicChanged(topic.clone()))
            },
            Self::Join | Self::Leave => {
                let joins = *self == Self::Join;
                if view.member(room, author)? == joins {
                    return Ok(Decision::Unchanged);
                }
                let change = Some(Change::Member { room, user: author, present: joins });
                if joins {
                    Effect { kind: EventKind::Joined, change, members: head.members.saturating_add(1) }
                } else {
                    Effect { kind: EventKind::Left, change, members: head.members.saturating_sub(1) }
                }
            }
            Self::Pin { target, .. } if *target > head.last => {
                return Ok(Decision::Refused(Refusal::TargetUnknown));
            }
            Self::Pin { target, off } => event(EventKind::Pinned { target: *target, off: *off }),
            Self::Void { refusal, .. } => return Ok(Decision::Refused(*refusal)),
        }))
    }
}

/// The decision about an action.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It becomes an event.
    Event(Effect),
    /// There is nothing to change.
    Unchanged,
    /// A final no.
    Refused(Refusal),
}

/// The effect of an accepted action, besides moving the room's head.
#[derive(Debug)]
pub(crate) struct Effect {
    /// The event that the action becomes.
    pub(crate) kind: EventKind,
    /// The row that the action changes, if any.
    pub(crate) change: Option<Change>,
    /// The number of the room's members afterwards.
    pub(crate) members: u32,
}
