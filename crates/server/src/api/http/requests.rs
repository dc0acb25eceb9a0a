//! The JSON of requests, and their messages.

use conclave_proto::chat::room_action::Kind;
use conclave_proto::chat::room_subscription::Start;
use conclave_proto::chat::send_message_request::Content;
use conclave_proto::chat::{self, MemberRole, Past, Posting, RoomKind, Target};
use serde::Deserialize;

use crate::api::http::extract::room;
use crate::api::http::problem::Problem;

/// `POST /sessions`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenSession {
    pub(super) user: String,
    /// Without a password, the name must need none.
    pub(super) password: Option<String>,
    #[serde(default)]
    pub(super) client: String,
    #[serde(default)]
    pub(super) label: String,
}

/// `POST /rooms`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRoom {
    pub(super) name: String,
    #[serde(default)]
    kind: Option<JsonKind>,
}

impl CreateRoom {
    pub(super) fn into_message(self) -> chat::CreateRoomRequest {
        chat::CreateRoomRequest { name: self.name, kind: self.kind.map_or(0, |kind| kind.proto().into()) }
    }
}

/// `POST /directs`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenDirect {
    /// The names of the others.
    pub(super) users: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonKind {
    Open,
    Private,
}

impl JsonKind {
    fn proto(self) -> RoomKind {
        match self {
            Self::Open => RoomKind::Open,
            Self::Private => RoomKind::Private,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonRole {
    Guest,
    Member,
    Moderator,
    Owner,
}

impl JsonRole {
    fn proto(self) -> MemberRole {
        match self {
            Self::Guest => MemberRole::Guest,
            Self::Member => MemberRole::Member,
            Self::Moderator => MemberRole::Moderator,
            Self::Owner => MemberRole::Owner,
        }
    }
}

/// `POST /rooms/{room}/requests`: a numbered action.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    #[serde(default)]
    request_no: u64,
    #[serde(default)]
    settled_no: u64,
    #[serde(default)]
    join_first: bool,
    #[serde(flatten)]
    action: Action,
}

/// The action of a request: exactly one of these keys.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Text(String),
    Topic(String),
    Join(Empty),
    Leave(Empty),
    Post(Post),
    Edit(Edit),
    Delete(Delete),
    React(React),
    Pin(Pin),
    AddMember(OfRole),
    RemoveMember(RemoveMember),
    SetRole(OfRole),
    SetPolicy(SetPolicy),
    Mute(Mute),
}

#[derive(Debug, Deserialize)]
struct Empty {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Post {
    text: String,
    #[serde(default)]
    reply_to_seq: u64,
    #[serde(default)]
    thread_seq: u64,
    #[serde(default)]
    also_in_room: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    target_seq: u64,
    text: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    target_seq: u64,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct React {
    target_seq: u64,
    emoji: String,
    #[serde(default)]
    off: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    target_seq: u64,
    #[serde(default)]
    off: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfRole {
    user: String,
    role: Option<JsonRole>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveMember {
    user: String,
    #[serde(default)]
    ban: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mute {
    user: String,
    #[serde(default)]
    for_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPolicy {
    kind: Option<JsonKind>,
    posting: Option<JsonPosting>,
    past: Option<JsonPast>,
    archived: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonPosting {
    All,
    Moderators,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JsonPast {
    All,
    SinceJoin,
}

impl Request {
    pub(super) fn into_message(self, room: chat::RoomRef) -> chat::SendMessageRequest {
        let Self { request_no, settled_no, join_first, action } = self;
        let content = Some(action.into_content());
        chat::SendMessageRequest { room: Some(room), request_no, settled_no, join_first, content }
    }
}

impl Action {
    fn into_content(self) -> Content {
        let kind = match self {
            Self::Text(text) => return Content::Text(text),
            Self::Topic(topic) => return Content::Topic(topic),
            Self::Join(Empty {}) => return Content::Join(chat::Join {}),
            Self::Leave(Empty {}) => return Content::Leave(chat::Leave {}),
            Self::Post(Post { text, reply_to_seq, thread_seq, also_in_room }) => {
                Kind::Post(chat::Message { text, reply_to_seq, thread_seq, also_in_room })
            }
            Self::Edit(Edit { target_seq, text }) => Kind::Edit(chat::Edit { target_seq, text }),
            Self::Delete(Delete { target_seq, reason }) => Kind::Delete(chat::Delete { target_seq, reason }),
            Self::React(React { target_seq, emoji, off }) => {
                Kind::React(chat::React { target_seq, emoji, off })
            }
            Self::Pin(Pin { target_seq, off }) => Kind::Pin(chat::Pin { target_seq, off }),
            Self::AddMember(OfRole { user, role }) => {
                Kind::AddMember(chat::AddMember { who: target(user), role: number(role) })
            }
            Self::SetRole(OfRole { user, role }) => {
                Kind::SetRole(chat::SetRole { who: target(user), role: number(role) })
            }
            Self::RemoveMember(RemoveMember { user, ban, reason }) => {
                Kind::RemoveMember(chat::RemoveMember { who: target(user), ban, reason })
            }
            Self::Mute(Mute { user, for_ms }) => Kind::Mute(chat::Mute { who: target(user), for_ms }),
            Self::SetPolicy(SetPolicy { kind, posting, past, archived }) => {
                let posting = posting.map(|posting| match posting {
                    JsonPosting::All => Posting::All,
                    JsonPosting::Moderators => Posting::Moderators,
                });
                let past = past.map(|past| match past {
                    JsonPast::All => Past::All,
                    JsonPast::SinceJoin => Past::SinceJoin,
                });
                Kind::SetPolicy(chat::SetPolicy {
                    kind: kind.map_or(0, |kind| kind.proto().into()),
                    posting: posting.map_or(0, Into::into),
                    past: past.map_or(0, Into::into),
                    archived,
                })
            }
        };
        Content::Action(chat::RoomAction { kind: Some(kind) })
    }
}

fn target(name: String) -> Option<Target> {
    Some(Target { name, user_id: 0 })
}

fn number(role: Option<JsonRole>) -> i32 {
    role.map_or(0, |role| role.proto().into())
}

/// The first frame of a stream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenStream {
    pub(super) token: String,
    #[serde(default)]
    rooms: Vec<StreamRoom>,
    /// In base64, as frames have it.
    #[serde(default)]
    resume_token: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamRoom {
    room: String,
    after: Option<u64>,
    last: Option<u32>,
    #[serde(default)]
    join: bool,
}

impl OpenStream {
    pub(super) fn message(&self) -> Result<chat::JoinChatRequest, Problem> {
        let subscribed = |wanted: &StreamRoom| {
            let start = match (wanted.after, wanted.last) {
                (Some(after), None) => Some(Start::AfterSeq(after)),
                (None, Some(last)) => Some(Start::Last(last)),
                (None, None) => None,
                (Some(_), Some(_)) => {
                    return Err(Problem::invalid(
                        "parameter_invalid",
                        "a room begins after a seq or with its last events",
                    ));
                }
            };
            Ok(chat::RoomSubscription { room: Some(room(&wanted.room)?), join: wanted.join, start })
        };
        let token = data_encoding::BASE64.decode(self.resume_token.as_bytes());
        let damaged = |_| Problem::invalid("resume_token_damaged", "the resume token is base64, as it came");
        Ok(chat::JoinChatRequest {
            rooms: self.rooms.iter().map(subscribed).collect::<Result<_, _>>()?,
            resume_token: token.map_err(damaged)?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Result<Content, serde_json::Error> {
        let request: Request = serde_json::from_str(text)?;
        Ok(request.into_message(chat::RoomRef::default()).content.expect("every action has content"))
    }

    #[test]
    fn every_action_has_a_form_in_json() {
        let text = r#"{"request_no":3,"settled_no":2,"join_first":true,"text":"hello"}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        let message = request.into_message(chat::RoomRef::default());
        assert_eq!((message.request_no, message.settled_no, message.join_first), (3, 2, true));
        assert_eq!(message.content, Some(Content::Text("hello".to_owned())));
        for (json, kind) in [
            (r#"{"post":{"text":"a","reply_to_seq":4}}"#, "Post"),
            (r#"{"edit":{"target_seq":2,"text":"b"}}"#, "Edit"),
            (r#"{"delete":{"target_seq":2}}"#, "Delete"),
            (r#"{"react":{"target_seq":2,"emoji":"👍"}}"#, "React"),
            (r#"{"pin":{"target_seq":2,"off":true}}"#, "Pin"),
            (r#"{"add_member":{"user":"bob","role":"moderator"}}"#, "AddMember"),
            (r#"{"remove_member":{"user":"bob","ban":true}}"#, "RemoveMember"),
            (r#"{"set_role":{"user":"bob","role":"owner"}}"#, "SetRole"),
            (r#"{"set_policy":{"posting":"moderators","archived":false}}"#, "SetPolicy"),
            (r#"{"mute":{"user":"bob","for_ms":1000}}"#, "Mute"),
        ] {
            let Content::Action(action) = content(json).unwrap() else { panic!("{json}") };
            assert!(format!("{:?}", action.kind.unwrap()).starts_with(kind), "{json}");
        }
        assert_eq!(content(r#"{"join":{}}"#).unwrap(), Content::Join(chat::Join {}));
    }

    #[test]
    fn a_request_without_an_action_or_with_an_unknown_part_is_invalid() {
        for json in [
            r#"{"request_no":1}"#,
            r#"{"post":{"text":"a","reply_to":4}}"#,
            r#"{"text":5}"#,
            r#"{"request_no":-1,"text":"a"}"#,
            r#"{"set_role":{"user":"bob","role":"king"}}"#,
        ] {
            assert!(content(json).is_err(), "{json}");
        }
    }
}
