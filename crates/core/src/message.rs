//! What a room knows of a message beside the event itself: edits, deletion, reactions, answers.
//!
//! A room's timeline is a fold of its events, and [`MessageState`] is the part of the fold that decisions need. It exists
//! for every message; the store keeps a row only where something refers to the message, and makes the others from
//! their events ([`MessageState::of`]).

use crate::event::{EventKind, RoomEvent};
use crate::id::{Seq, UserId};
use crate::limits::{EMOJI_BYTES_MAX, REACTION_KINDS_MAX, REACTIONS_MAX};
use crate::refusal::Refusal;

/// A message that refers to an earlier one: it quotes it, or belongs to its thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The text; see [`crate::name::check_text`].
    pub text: String,
    /// The message that is quoted; 0 for none.
    pub reply_to: Seq,
    /// The message that the thread is about; 0 for a message outside of threads.
    pub thread: Seq,
    /// The message is shown in the room, too, and not in its thread alone.
    pub also_in_room: bool,
}

/// What people have made of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageState {
    /// The user who posted the message.
    pub author: UserId,
    /// The message that the thread of this one is about; 0 outside of threads.
    pub thread: Seq,
    /// The edits of the message, ascending; at most [`crate::limits::EDITS_MAX`]. The last one counts. They stay when the
    /// message is deleted.
    pub edits: Vec<Seq>,
    /// The event that deleted the message; 0 for a message that is there.
    pub deleted: Seq,
    /// The reactions, in the order in which each was first given.
    pub reactions: Vec<Reaction>,
    /// How many messages the thread about this one has, deleted ones included.
    pub answers: u64,
    /// The last message of the thread about this one; 0 for none.
    pub last_answer: Seq,
}

/// One reaction to a message, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// An emoji, or a name of one; see [`check_emoji`].
    pub emoji: String,
    /// The users, in the order in which they reacted. Never empty.
    pub users: Vec<UserId>,
}

impl MessageState {
    /// The state of a message to which nothing refers yet; `None` for an event that is no message.
    #[must_use]
    pub fn of(event: &RoomEvent) -> Option<Self> {
        let thread = match &event.kind {
            EventKind::Message(_) => Seq(0),
            EventKind::Answer(answer) => answer.thread,
            _ => return None,
        };
        Some(Self { author: event.author, thread, ..Self::default() })
    }

    /// Whether anything refers to the message.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self { author: self.author, thread: self.thread, ..Self::default() }
    }

    /// Adds the user's reaction. `false` if the user has given it already.
    ///
    /// # Errors
    /// [`Refusal::TooManyReactions`].
    pub(crate) fn react(&mut self, user: UserId, emoji: &str) -> Result<bool, Refusal> {
        let given: usize = self.reactions.iter().map(|reaction| reaction.users.len()).sum();
        let kinds = self.reactions.len();
        match self.reactions.iter_mut().find(|reaction| reaction.emoji == emoji) {
            Some(reaction) if reaction.users.contains(&user) => return Ok(false),
            _ if given >= REACTIONS_MAX => return Err(Refusal::TooManyReactions),
            Some(reaction) => reaction.users.push(user),
            None if kinds >= REACTION_KINDS_MAX => return Err(Refusal::TooManyReactions),
            None => self.reactions.push(Reaction { emoji: emoji.to_owned(), users: vec![user] }),
        }
        Ok(true)
    }

    /// Takes the user's reaction back. `false` if the user has not given it.
    pub(crate) fn unreact(&mut self, user: UserId, emoji: &str) -> bool {
        let Some(at) = self.reactions.iter().position(|reaction| reaction.emoji == emoji) else {
            return false;
        };
        let users = &mut self.reactions[at].users;
        let before = users.len();
        users.retain(|other| *other != user);
        let given = users.len() < before;
        if users.is_empty() {
            self.reactions.remove(at);
        }
        given
    }
}

/// Accepts 1 to [`EMOJI_BYTES_MAX`] bytes without spaces and control characters. Which of them are emoji is for those who show
/// them: that list changes, and every replica must decide alike.
///
/// # Errors
/// [`Refusal::EmojiInvalid`].
pub fn check_emoji(emoji: &str) -> Result<(), Refusal> {
    let plain = |c: char| !c.is_control() && c != ' ';
    if (1..=EMOJI_BYTES_MAX).contains(&emoji.len()) && emoji.chars().all(plain) {
        Ok(())
    } else {
        Err(Refusal::EmojiInvalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reactions_are_a_set_of_users_for_each_emoji() {
        let mut state = MessageState::default();
        assert_eq!(state.react(UserId(1), "👍"), Ok(true));
        assert_eq!(state.react(UserId(1), "👍"), Ok(false));
        assert_eq!(state.react(UserId(2), "👍"), Ok(true));
        assert_eq!(state.react(UserId(2), ":tada:"), Ok(true));
        assert!(!state.unreact(UserId(1), ":tada:"));
        assert!(state.unreact(UserId(2), ":tada:"));
        assert_eq!(state.reactions, [Reaction { emoji: "👍".into(), users: vec![UserId(1), UserId(2)] }]);
    }

    #[test]
    fn a_message_has_a_bounded_number_of_reactions() {
        let mut state = MessageState::default();
        for kind in 0..REACTION_KINDS_MAX {
            assert_eq!(state.react(UserId(1), &kind.to_string()), Ok(true));
        }
        assert_eq!(state.react(UserId(1), "one more"), Err(Refusal::TooManyReactions));
        for user in 2.. {
            let given: usize = state.reactions.iter().map(|reaction| reaction.users.len()).sum();
            let expected = if given < REACTIONS_MAX { Ok(true) } else { Err(Refusal::TooManyReactions) };
            assert_eq!(state.react(UserId(user), "0"), expected);
            if expected.is_err() {
                break;
            }
        }
    }

    #[test]
    fn emoji_are_short_and_show_themselves() {
        for good in ["👍", ":+1:", "é", &"x".repeat(64)] {
            assert_eq!(check_emoji(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a\n", "\u{1b}[2J", "\u{85}", &"x".repeat(65)] {
            assert_eq!(check_emoji(bad), Err(Refusal::EmojiInvalid), "{bad:?}");
        }
    }
}
