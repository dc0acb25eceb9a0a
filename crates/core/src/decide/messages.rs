//! The decisions about messages that refer to others: answers, edits, deletions, reactions.

use super::{Decision, Effect, Moment};
use crate::access::{Deed, Member, Sight};
use crate::event::EventKind;
use crate::id::Seq;
use crate::limits::EDITS_MAX;
use crate::message::{Answer, MessageState};
use crate::outcome::Change;
use crate::refusal::Refusal;
use crate::view::View;

impl<V: View> Moment<'_, V> {
    pub(crate) fn answer(&self, answer: &Answer) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if let Err(refusal) = self.may(&member, role, Deed::Post) {
            return Ok(Decision::Refused(refusal));
        }
        if answer.reply_to != Seq(0)
            && let Err(refusal) = self.message(&member, answer.reply_to)?
        {
            return Ok(Decision::Refused(refusal));
        }
        let mut changes = Vec::new();
        if answer.thread != Seq(0) {
            let root = match self.message(&member, answer.thread)? {
                Ok(root) if root.thread != Seq(0) => return Ok(Decision::Refused(Refusal::ThreadInvalid)),
                Ok(root) => root,
                Err(refusal) => return Ok(Decision::Refused(refusal)),
            };
            let answers = root.answers.saturating_add(1);
            let state = MessageState { answers, last_answer: self.seq(), ..root };
            changes.push(self.of_message(answer.thread, state));
        }
        Ok(self.with_changes(EventKind::Answer(answer.clone()), changes))
    }

    pub(crate) fn edit(&self, target: Seq, text: &str) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if let Err(refusal) = self.may(&member, role, Deed::Post) {
            return Ok(Decision::Refused(refusal));
        }
        let mut state = match self.message(&member, target)? {
            Ok(state) if state.author != self.author => return Ok(Decision::Refused(Refusal::NotYours)),
            Ok(state) if state.edits.len() >= EDITS_MAX => {
                return Ok(Decision::Refused(Refusal::TooManyEdits));
            }
            Ok(state) => state,
            Err(refusal) => return Ok(Decision::Refused(refusal)),
        };
        state.edits.push(self.seq());
        let kind = EventKind::Edited { target, text: text.to_owned() };
        Ok(self.with_changes(kind, vec![self.of_message(target, state)]))
    }

    pub(crate) fn delete(&self, target: Seq, reason: &str) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        // Somebody who may delete nothing at all learns nothing about the target.
        if let Err(refusal) = self.may(&member, role, Deed::Retract) {
            let Ok(()) = self.may(&member, role, Deed::Erase) else {
                return Ok(Decision::Refused(refusal));
            };
        }
        let state = match self.message(&member, target)? {
            Ok(state) => state,
            Err(refusal) => return Ok(Decision::Refused(refusal)),
        };
        let is_own = state.author == self.author && self.may(&member, role, Deed::Retract).is_ok();
        if !is_own && let Err(refusal) = self.may(&member, role, Deed::Erase) {
            return Ok(Decision::Refused(refusal));
        }
        let by = self.seq();
        let mut seqs = vec![target];
        seqs.extend(&state.edits);
        // What people made of the message goes with it. The thread about it stays, and so do the seqs of its edits: a
        // replica that kept its own history when it got a snapshot erases them by this state.
        let left = MessageState { deleted: by, reactions: Vec::new(), ..state };
        let kind = EventKind::Deleted { target, reason: reason.to_owned() };
        let erase = Change::Erase { room: self.room, seqs, by };
        Ok(self.with_changes(kind, vec![self.of_message(target, left), erase]))
    }

    pub(crate) fn react(&self, target: Seq, emoji: &str, off: bool) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if let Err(refusal) = self.may(&member, role, Deed::React) {
            return Ok(Decision::Refused(refusal));
        }
        let mut state = match self.message(&member, target)? {
            Ok(state) => state,
            Err(refusal) => return Ok(Decision::Refused(refusal)),
        };
        let changed = if off {
            state.unreact(self.author, emoji)
        } else {
            match state.react(self.author, emoji) {
                Ok(changed) => changed,
                Err(refusal) => return Ok(Decision::Refused(refusal)),
            }
        };
        if !changed {
            return Ok(Decision::Unchanged);
        }
        let kind = EventKind::Reacted { target, emoji: emoji.to_owned(), off };
        Ok(self.with_changes(kind, vec![self.of_message(target, state)]))
    }

    pub(crate) fn read(&self, upto: Seq) -> Result<Decision, V::Error> {
        let (member, role) = self.member(self.author)?;
        if role.is_none() {
            let refusal = if member.banned { Refusal::Banned } else { Refusal::NotAMember };
            return Ok(Decision::Refused(refusal));
        }
        let read = upto.min(self.head.last);
        if read <= member.read {
            return Ok(Decision::Unchanged);
        }
        let member = Some(Member { read, ..member });
        Ok(Decision::Quiet(Change::Member { room: self.room, user: self.author, member }))
    }

    /// The state of a message that the author may see and that is there, or the refusal.
    fn message(&self, member: &Member, seq: Seq) -> Result<Result<MessageState, Refusal>, V::Error> {
        let sight = Sight::of(self.powers, self.head.policy, Some(member.clone()));
        if seq == Seq(0) || seq > self.head.last || !sight.shows(seq) {
            return Ok(Err(Refusal::TargetUnknown));
        }
        Ok(match self.view.message(self.room, seq)? {
            None => Err(Refusal::TargetNotMessage),
            Some(state) if state.deleted != Seq(0) => Err(Refusal::TargetDeleted),
            Some(state) => Ok(state),
        })
    }

    fn of_message(&self, seq: Seq, state: MessageState) -> Change {
        Change::Message { room: self.room, seq, state }
    }

    fn with_changes(&self, kind: EventKind, changes: Vec<Change>) -> Decision {
        Decision::Event(Effect { kind, changes, head: self.head })
    }
}
