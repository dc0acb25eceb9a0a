//! Actions to protobuf and back: the one mapping between [`Action`], [`chat::RoomAction`] and the short forms of the
//! actions of the first feature level, which release 0.1.0 reads and writes.

use conclave_core::{Action, Refusal, Seq};

use crate::FormatError;
use crate::chat::{self, RoomAction, room_action::Kind, send_message_request::Content};
use crate::log::{self, act};

/// The action from a client's request.
///
/// # Errors
/// If the action is of a kind that this version does not know.
pub fn from_content(content: Content) -> Result<Action, FormatError> {
    match content {
        Content::Text(text) => Ok(Action::Post(text)),
        Content::Topic(topic) => Ok(Action::SetTopic(topic)),
        Content::Join(_) => Ok(Action::Join),
        Content::Leave(_) => Ok(Action::Leave),
        Content::Action(action) => from_proto(action),
    }
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
        Action::Pin { target, off } => Content::Action(pin(target, off)),
        Action::Void { .. } => return None,
    })
}

/// The action as it is stored in the Raft log.
pub(crate) fn to_log(action: &Action) -> act::Action {
    match action {
        Action::Post(text) => act::Action::Post(text.clone()),
        Action::SetTopic(topic) => act::Action::SetTopic(topic.clone()),
        Action::Join => act::Action::Join(true),
        Action::Leave => act::Action::Leave(true),
        Action::Pin { target, off } => act::Action::RoomAction(pin(*target, *off)),
        Action::Void { refusal, digest } => {
            act::Action::Void(log::Void { refusal: refusal.code(), digest: *digest })
        }
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
        Kind::Pin(pin) => Action::Pin { target: Seq(pin.target_seq), off: pin.off },
    })
}

fn pin(target: Seq, off: bool) -> RoomAction {
    RoomAction { kind: Some(Kind::Pin(chat::Pin { target_seq: target.0, off })) }
}
