//! Events and folds as JSON, in the words of `conclave history --json`.

use conclave_proto::chat::{self, MemberRole, MessageFold, Past, Posting, RoomKind, event::Kind};
use serde::Serialize;

/// An event. Its keys never change their meaning.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Json<'a> {
    /// The room's name; absent where the reader may not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    room_id: u64,
    seq: u64,
    kind: &'static str,
    from: &'a str,
    author_id: u64,
    time_ms: i64,
    body: &'a str,
    session_id: u64,
    request_no: u64,
    /// The event that this one is about, for example a pinned one.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_seq: Option<u64>,
    /// The message that this one quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to_seq: Option<u64>,
    /// The message that the thread of this one is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_seq: Option<u64>,
    /// The message of a thread is shown in the room, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    also_in_room: bool,
    /// The event that deleted this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_seq: Option<u64>,
    /// The user whom the event concerns, for example a new member.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    /// The role that this user has from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Until when this user may not write, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    /// The policy of the room from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
}

/// A room's policy.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Policy {
    kind: &'static str,
    posting: &'static str,
    past: &'static str,
    archived: bool,
}

pub(super) fn policy(policy: &chat::RoomPolicy) -> Policy {
    Policy {
        kind: match policy.kind() {
            RoomKind::Unspecified | RoomKind::Open => "open",
            RoomKind::Private => "private",
            RoomKind::Direct => "direct",
        },
        posting: match policy.posting() {
            Posting::Unspecified | Posting::All => "all",
            Posting::Moderators => "moderators",
        },
        past: match policy.past() {
            Past::Unspecified | Past::All => "all",
            Past::SinceJoin => "since_join",
        },
        archived: policy.archived,
    }
}

/// A role in one word; `None` for somebody who is no member.
pub(super) fn role_word(role: MemberRole) -> Option<&'static str> {
    match role {
        MemberRole::Unspecified => None,
        MemberRole::Guest => Some("guest"),
        MemberRole::Member => Some("member"),
        MemberRole::Moderator => Some("moderator"),
        MemberRole::Owner => Some("owner"),
    }
}

fn kind_and_body(kind: Option<&Kind>) -> (&'static str, &str) {
    match kind {
        Some(Kind::Created(_)) => ("created", ""),
        Some(Kind::Message(message)) => ("message", &message.text),
        Some(Kind::Edited(edited)) => ("edited", &edited.text),
        Some(Kind::Deleted(deleted)) => ("deleted", &deleted.reason),
        Some(Kind::Reacted(reacted)) if reacted.off => ("unreacted", &reacted.emoji),
        Some(Kind::Reacted(reacted)) => ("reacted", &reacted.emoji),
        Some(Kind::Erased(_)) => ("erased", ""),
        Some(Kind::TopicChanged(changed)) => ("topic", &changed.topic),
        Some(Kind::Joined(_)) => ("joined", ""),
        Some(Kind::Left(_)) => ("left", ""),
        Some(Kind::Pinned(chat::Pinned { off: false, .. })) => ("pinned", ""),
        Some(Kind::Pinned(chat::Pinned { off: true, .. })) => ("unpinned", ""),
        Some(Kind::MemberAdded(_)) => ("member_added", ""),
        Some(Kind::MemberRemoved(removed)) if removed.banned => ("member_banned", &removed.reason),
        Some(Kind::MemberRemoved(removed)) => ("member_removed", &removed.reason),
        Some(Kind::RoleChanged(_)) => ("role_changed", ""),
        Some(Kind::Muted(chat::Muted { until_ms: 0, .. })) => ("unmuted", ""),
        Some(Kind::Muted(_)) => ("muted", ""),
        Some(Kind::PolicyChanged(_)) => ("policy_changed", ""),
        None => ("unknown", ""),
    }
}

/// An event of the room with this name.
pub(super) fn json<'a>(room: Option<&'a str>, event: &'a chat::Event) -> Json<'a> {
    let (kind, body) = kind_and_body(event.kind.as_ref());
    let given = |seq: u64| (seq != 0).then_some(seq);
    let mut json = Json {
        room,
        room_id: event.room_id,
        seq: event.seq,
        kind,
        from: &event.author,
        author_id: event.author_id,
        time_ms: event.time_ms,
        body,
        session_id: event.session_id,
        request_no: event.request_no,
        target_seq: None,
        reply_to_seq: None,
        thread_seq: None,
        also_in_room: false,
        deleted_seq: None,
        user: None,
        role: None,
        until_ms: None,
        policy: None,
    };
    let name = |who: &'a Option<chat::Person>| who.as_ref().map(|who| who.name.as_str());
    match &event.kind {
        Some(Kind::Message(message)) => {
            json.reply_to_seq = given(message.reply_to_seq);
            json.thread_seq = given(message.thread_seq);
            json.also_in_room = message.also_in_room;
        }
        Some(Kind::Pinned(pinned)) => json.target_seq = Some(pinned.target_seq),
        Some(Kind::Edited(edited)) => json.target_seq = Some(edited.target_seq),
        Some(Kind::Deleted(deleted)) => json.target_seq = Some(deleted.target_seq),
        Some(Kind::Reacted(reacted)) => json.target_seq = Some(reacted.target_seq),
        Some(Kind::Erased(erased)) => {
            json.target_seq = given(erased.edit_of_seq);
            json.thread_seq = given(erased.thread_seq);
            json.deleted_seq = Some(erased.deleted_seq);
        }
        Some(Kind::MemberAdded(added)) => {
            (json.user, json.role) = (name(&added.who), role_word(added.role()));
        }
        Some(Kind::MemberRemoved(removed)) => json.user = name(&removed.who),
        Some(Kind::RoleChanged(changed)) => {
            (json.user, json.role) = (name(&changed.who), role_word(changed.role()));
        }
        Some(Kind::Muted(muted)) => {
            (json.user, json.until_ms) = (name(&muted.who), Some(muted.until_ms));
        }
        Some(Kind::PolicyChanged(changed)) => json.policy = Some(policy(changed)),
        Some(Kind::Created(_) | Kind::TopicChanged(_) | Kind::Joined(_) | Kind::Left(_)) | None => {}
    }
    json
}

/// What people made of a message. Its keys never change their meaning.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Fold<'a> {
    seq: u64,
    edits: u32,
    /// The last edit, and its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    deleted: bool,
    reactions: Vec<Reaction<'a>>,
    answers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_answer_seq: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Reaction<'a> {
    emoji: &'a str,
    count: u32,
    mine: bool,
    /// Those who reacted first.
    user_ids: &'a [u64],
}

pub(super) fn fold(fold: &MessageFold) -> Fold<'_> {
    let deleted = fold.deleted_seq != 0;
    let given = |seq: u64| (seq != 0).then_some(seq);
    let reactions = fold.reactions.iter().map(|one| Reaction {
        emoji: &one.emoji,
        count: one.count,
        mine: one.mine,
        user_ids: &one.user_ids,
    });
    Fold {
        seq: fold.seq,
        edits: fold.edits,
        edited_seq: given(fold.edited_seq),
        body: (fold.edits > 0 && !deleted).then_some(fold.text.as_str()),
        deleted,
        reactions: reactions.collect(),
        answers: fold.answers,
        last_answer_seq: given(fold.last_answer_seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_keys_that_history_prints() {
        let kind = Some(Kind::Message(chat::Message { text: "hi".into(), ..chat::Message::default() }));
        let event = chat::Event { seq: 42, author: "ana".into(), kind, ..chat::Event::default() };
        let text = serde_json::to_string(&json(Some("general"), &event)).unwrap();
        assert_eq!(
            text,
            r#"{"room":"general","room_id":0,"seq":42,"kind":"message","from":"ana","author_id":0,"time_ms":0,"body":"hi","session_id":0,"request_no":0}"#
        );
    }
}
