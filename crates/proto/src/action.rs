//! Actions to protobuf and back: the one mapping between [`Action`], [`chat::RoomAction`] and the short forms of the
//! actions of the first feature level, which release 0.1.0 reads and writes.

use conclave_core::access::Role;
use conclave_core::action::Target;
use conclave_core::message::Answer;
use conclave_core::{Action, Refusal, Seq, UserId};

use crate::chat::{self, RoomAction, room_action::Kind, send_message_request::Content};
use crate::log::{self, act};
use crate::{FormatError, rights};

/// The action from a client's request.
///
/// # Errors
/// If the action is of a kind that this version does not know.
pub fn from_content(content: Content) -> Result<Action, FormatError> {
    let mut action = match content {
        Content::Text(text) => Ok(Action::Post(text)),
        Content::Topic(topic) => Ok(Action::SetTopic(topic)),
        Content::Join(_) => Ok(Action::Join),
        Content::Leave(_) => Ok(Action::Leave),
        Content::Action(action) => from_proto(action),
    }?;
    // Only a gateway says whose name it is.
    action.stamp_target(UserId(0));
    Ok(action)
}

/// The action as a client's request, in the short form if the action has one. `None` for [`Action::Void`], which no
/// client requests.
#[must_use]
pub fn into_content(action: Action) -> Option<Content> {
    Some(match action {
        Action::Post(text) => Content::Text(text),
        Action::SetTopic(topic) => Content::Topic(topic),
        Action::Join => Content::Join(chat::Join {}),
        Action::Leave => Content::Leave(chat::Leave {}),
        Action::Void { .. } => return None,
        action => Content::Action(RoomAction { kind: later(action) }),
    })
}

/// The action as it is stored in the Raft log.
pub(crate) fn to_log(action: &Action) -> act::Action {
    match action {
        Action::Post(text) => act::Action::Post(text.clone()),
        Action::SetTopic(topic) => act::Action::SetTopic(topic.clone()),
        Action::Join => act::Action::Join(true),
        Action::Leave => act::Action::Leave(true),
        Action::Void { refusal, digest } => {
            act::Action::Void(log::Void { refusal: refusal.code(), digest: *digest })
        }
        action => act::Action::RoomAction(RoomAction { kind: later(action.clone()) }),
    }
}

/// The action from the log.
pub(crate) fn from_log(action: act::Action) -> Result<Action, FormatError> {
    match action {
        act::Action::Post(text) => Ok(Action::Post(text)),
        act::Action::SetTopic(topic) => Ok(Action::SetTopic(topic)),
        act::Action::Join(_) => Ok(Action::Join),
        act::Action::Leave(_) => Ok(Action::Leave),
        act::Action::Void(void) => {
            Ok(Action::Void { refusal: Refusal::from_code(void.refusal, 0), digest: void.digest })
        }
        act::Action::RoomAction(action) => from_proto(action),
    }
}

fn from_proto(action: RoomAction) -> Result<Action, FormatError> {
    Ok(match action.kind.ok_or(FormatError::UnknownKind("the action"))? {
        Kind::Text(text) => Action::Post(text),
        Kind::Topic(topic) => Action::SetTopic(topic),
        Kind::Join(_) => Action::Join,
        Kind::Leave(_) => Action::Leave,
        Kind::Post(message) if message.reply_to_seq == 0 && message.thread_seq == 0 => {
            Action::Post(message.text)
        }
        Kind::Post(message) => Action::Answer(answer_from_proto(message)),
        Kind::Edit(edit) => Action::Edit { target: Seq(edit.target_seq), text: edit.text },
        Kind::Delete(delete) => Action::Delete { target: Seq(delete.target_seq), reason: delete.reason },
        Kind::React(react) => {
            Action::React { target: Seq(react.target_seq), emoji: react.emoji, off: react.off }
        }
        Kind::Read(read) => Action::Read { upto: Seq(read.upto_seq) },
        Kind::Pin(pin) => Action::Pin { target: Seq(pin.target_seq), off: pin.off },
        Kind::AddMember(add) => Action::AddMember {
            who: rights::target_from_proto(add.who),
            role: rights::role_from_proto(add.role)?.unwrap_or(Role::Member),
        },
        Kind::RemoveMember(remove) => Action::RemoveMember {
            who: rights::target_from_proto(remove.who),
            ban: remove.ban,
            reason: remove.reason,
        },
        Kind::SetRole(set) => Action::SetRole {
            who: rights::target_from_proto(set.who),
            role: rights::role_from_proto(set.role)?.ok_or(FormatError::Missing("SetRole.role"))?,
        },
        Kind::Mute(mute) => Action::Mute { who: rights::target_from_proto(mute.who), for_ms: mute.for_ms },
        Kind::SetPolicy(change) => Action::SetPolicy(rights::change_from_proto(change)?),
    })
}

/// The one form of an action of feature level 2 and above. `None` for the actions that have a form of their own.
fn later(action: Action) -> Option<Kind> {
    let role = |role: Role| rights::role_to_proto(Some(role)).into();
    let who = |who: Target| Some(rights::target_to_proto(who));
    Some(match action {
        Action::Answer(answer) => Kind::Post(answer_to_proto(&answer)),
        Action::Edit { target, text } => Kind::Edit(chat::Edit { target_seq: target.0, text }),
        Action::Delete { target, reason } => Kind::Delete(chat::Delete { target_seq: target.0, reason }),
        Action::React { target, emoji, off } => Kind::React(chat::React { target_seq: target.0, emoji, off }),
        Action::Read { upto } => Kind::Read(chat::Read { upto_seq: upto.0 }),
        Action::Pin { target, off } => Kind::Pin(chat::Pin { target_seq: target.0, off }),
        Action::AddMember { who: target, role: given } => {
            Kind::AddMember(chat::AddMember { who: who(target), role: role(given) })
        }
        Action::RemoveMember { who: target, ban, reason } => {
            Kind::RemoveMember(chat::RemoveMember { who: who(target), ban, reason })
        }
        Action::SetRole { who: target, role: given } => {
            Kind::SetRole(chat::SetRole { who: who(target), role: role(given) })
        }
        Action::Mute { who: target, for_ms } => Kind::Mute(chat::Mute { who: who(target), for_ms }),
        Action::SetPolicy(change) => Kind::SetPolicy(rights::change_to_proto(change)),
        Action::Post(_) | Action::SetTopic(_) | Action::Join | Action::Leave | Action::Void { .. } => {
            return None;
        }
    })
}

/// A message that refers to another, in the form in which it is sent and stored.
pub(crate) fn answer_to_proto(answer: &Answer) -> chat::Message {
    chat::Message {
        text: answer.text.clone(),
        reply_to_seq: answer.reply_to.0,
        thread_seq: answer.thread.0,
        also_in_room: answer.also_in_room,
    }
}

/// A message that refers to another, from the form in which it is sent and stored.
pub(crate) fn answer_from_proto(message: chat::Message) -> Answer {
    Answer {
        text: message.text,
        reply_to: Seq(message.reply_to_seq),
        thread: Seq(message.thread_seq),
        also_in_room: message.also_in_room,
    }
}
