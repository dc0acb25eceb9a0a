//! Renders events, as a line for people and as a JSON object for programs.

use conclave_proto::chat::{self, MemberRole, Past, Posting, RoomKind, event::Kind};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::paint::{Ink, Tick, paint, tick};
use super::text::{clock, safe, stamp};
use crate::settings::Style;

/// The style of a line for people.
#[derive(Clone, Debug)]
pub(crate) struct LineStyle {
    /// Whether to use colours and characters beyond ASCII.
    pub(crate) style: Style,
    /// The time zone of shown times.
    pub(crate) zone: TimeZone,
    /// The current time, to know what "today" is, milliseconds since 1970.
    pub(crate) now_ms: i64,
}

/// One line (more if the message has more): `#general:1042  09:14:02  ana: rolling node3 now`.
/// With a tick if the message is the user's own.
pub(crate) fn line(look: &LineStyle, room: &str, event: &chat::Event, own: Option<Tick>) -> String {
    let style = look.style;
    let place = format!("#{room}:{}", event.seq);
    let time = clock(event.time_ms, look.now_ms, &look.zone);
    let author = safe(&event.author, "");
    let who = paint(style, Ink::Person(event.author_id), &author);
    let said = match &event.kind {
        Some(Kind::Message(message)) => {
            let about = about(message);
            let indent = " ".repeat(place.len() + time.len() + author.len() + about.len() + 6);
            format!("{who}: {}{}", paint(style, Ink::Dim, &about), safe(&message.text, &indent))
        }
        other => paint(style, Ink::Dim, &notice(&author, other.as_ref())),
    };
    let own = own.map(|state| format!(" {}", tick(style, state))).unwrap_or_default();
    format!("{}  {}  {said}{own}", paint(style, Ink::Dim, &place), paint(style, Ink::Dim, &time))
}

/// What a message refers to, as the beginning of its text: `(thread 12, to 15) `.
fn about(message: &chat::Message) -> String {
    match (message.thread_seq, message.reply_to_seq) {
        (0, 0) => String::new(),
        (0, quoted) => format!("(to {quoted}) "),
        (root, 0) => format!("(thread {root}) "),
        (root, quoted) => format!("(thread {root}, to {quoted}) "),
    }
}

/// The text of an event that is not a message.
fn notice(author: &str, kind: Option<&Kind>) -> String {
    match kind {
        Some(Kind::Created(_)) if author.is_empty() => "* the room was created".to_owned(),
        Some(Kind::Created(created)) => match created.kind() {
            RoomKind::Private => format!("* {author} created the private room"),
            RoomKind::Direct => format!("* {author} began the conversation"),
            RoomKind::Unspecified | RoomKind::Open => format!("* {author} created the room"),
        },
        Some(Kind::TopicChanged(changed)) => {
            format!("* {author} set the topic: {}", safe(&changed.topic, ""))
        }
        Some(Kind::Joined(_)) => format!("* {author} joined"),
        Some(Kind::Left(_)) => format!("* {author} left"),
        Some(Kind::Edited(edited)) => {
            format!("* {author} edited {}: {}", edited.target_seq, safe(&edited.text, "  "))
        }
        Some(Kind::Deleted(deleted)) => {
            let reason = safe(&deleted.reason, "");
            let why = if reason.is_empty() { reason } else { format!(": {reason}") };
            format!("* {author} deleted {}{why}", deleted.target_seq)
        }
        Some(Kind::Reacted(reacted)) => {
            let emoji = safe(&reacted.emoji, "");
            if reacted.off {
                format!("* {author} took {emoji} back from {}", reacted.target_seq)
            } else {
                format!("* {author} reacted to {} with {emoji}", reacted.target_seq)
            }
        }
        Some(Kind::Erased(erased)) if erased.edit_of_seq != 0 => {
            format!("* an edit of {}, deleted with it", erased.edit_of_seq)
        }
        Some(Kind::Erased(_)) => format!("* a message of {author}, deleted"),
        Some(Kind::Pinned(pinned)) => {
            let verb = if pinned.off { "unpinned" } else { "pinned" };
            format!("* {author} {verb} event {}", pinned.target_seq)
        }
        Some(Kind::MemberAdded(added)) => {
            format!("* {author} added {}{}", name(added.who.as_ref()), as_role(added.role()))
        }
        Some(Kind::MemberRemoved(removed)) => {
            let verb = if removed.banned { "banned" } else { "removed" };
            let reason = safe(&removed.reason, "");
            let why = if reason.is_empty() { reason } else { format!(": {reason}") };
            format!("* {author} {verb} {}{why}", name(removed.who.as_ref()))
        }
        Some(Kind::RoleChanged(changed)) => {
            format!("* {author} made {} {}", name(changed.who.as_ref()), role_word(changed.role()))
        }
        Some(Kind::Muted(muted)) if muted.until_ms == 0 => {
            format!("* {author} lets {} write again", name(muted.who.as_ref()))
        }
        Some(Kind::Muted(muted)) => {
            format!("* {author} muted {} until {}", name(muted.who.as_ref()), stamp(muted.until_ms))
        }
        Some(Kind::PolicyChanged(policy)) => format!("* {author} changed the room: {}", policy_words(policy)),
        Some(Kind::Message(message)) => safe(&message.text, ""),
        None => {
            format!("* {author} caused an event of a kind that this version does not know; upgrade conclave")
        }
    }
}

fn name(person: Option<&chat::Person>) -> String {
    person.map_or_else(|| "somebody".to_owned(), |person| safe(&person.name, ""))
}

fn as_role(role: MemberRole) -> String {
    match role {
        MemberRole::Unspecified | MemberRole::Member => String::new(),
        other => format!(" as {}", role_word(other)),
    }
}

/// A role in one word, for people and in JSON.
pub(crate) fn role_word(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Unspecified => "nobody",
        MemberRole::Guest => "guest",
        MemberRole::Member => "member",
        MemberRole::Moderator => "moderator",
        MemberRole::Owner => "owner",
    }
}

/// The kind of a room in one word, for people and in JSON.
pub(crate) fn kind_word(kind: RoomKind) -> &'static str {
    match kind {
        RoomKind::Unspecified | RoomKind::Open => "open",
        RoomKind::Private => "private",
        RoomKind::Direct => "direct",
    }
}

fn policy_words(policy: &chat::RoomPolicy) -> String {
    let posting = match policy.posting() {
        Posting::Unspecified | Posting::All => "all members write",
        Posting::Moderators => "moderators write",
    };
    let past = match policy.past() {
        Past::Unspecified | Past::All => "newcomers see the past",
        Past::SinceJoin => "newcomers do not see the past",
    };
    let archived = if policy.archived { ", archived" } else { "" };
    format!("{}, {posting}, {past}{archived}", kind_word(policy.kind()))
}

/// An event as a JSON object. Its keys never change their meaning.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Json<'a> {
    room: &'a str,
    seq: u64,
    kind: &'static str,
    from: &'a str,
    ts: String,
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
}

/// The event as a JSON object.
pub(crate) fn json<'a>(room: &'a str, event: &'a chat::Event) -> Json<'a> {
    let (kind, body) = match &event.kind {
        Some(Kind::Created(_)) => ("created", ""),
        Some(Kind::Message(message)) => ("message", message.text.as_str()),
        Some(Kind::Edited(edited)) => ("edited", edited.text.as_str()),
        Some(Kind::Deleted(deleted)) => ("deleted", deleted.reason.as_str()),
        Some(Kind::Reacted(reacted)) if reacted.off => ("unreacted", reacted.emoji.as_str()),
        Some(Kind::Reacted(reacted)) => ("reacted", reacted.emoji.as_str()),
        Some(Kind::Erased(_)) => ("erased", ""),
        Some(Kind::TopicChanged(changed)) => ("topic", changed.topic.as_str()),
        Some(Kind::Joined(_)) => ("joined", ""),
        Some(Kind::Left(_)) => ("left", ""),
        Some(Kind::Pinned(chat::Pinned { off: false, .. })) => ("pinned", ""),
        Some(Kind::Pinned(chat::Pinned { off: true, .. })) => ("unpinned", ""),
        Some(Kind::MemberAdded(_)) => ("member_added", ""),
        Some(Kind::MemberRemoved(removed)) if removed.banned => ("member_banned", removed.reason.as_str()),
        Some(Kind::MemberRemoved(removed)) => ("member_removed", removed.reason.as_str()),
        Some(Kind::RoleChanged(_)) => ("role_changed", ""),
        Some(Kind::Muted(chat::Muted { until_ms: 0, .. })) => ("unmuted", ""),
        Some(Kind::Muted(_)) => ("muted", ""),
        Some(Kind::PolicyChanged(_)) => ("policy_changed", ""),
        None => ("unknown", ""),
    };
    let message = match &event.kind {
        Some(Kind::Message(message)) => Some(message),
        _ => None,
    };
    let given = |seq: u64| (seq != 0).then_some(seq);
    let (who, role) = match &event.kind {
        Some(Kind::MemberAdded(added)) => (added.who.as_ref(), Some(added.role())),
        Some(Kind::MemberRemoved(removed)) => (removed.who.as_ref(), None),
        Some(Kind::RoleChanged(changed)) => (changed.who.as_ref(), Some(changed.role())),
        Some(Kind::Muted(muted)) => (muted.who.as_ref(), None),
        _ => (None, None),
    };
    Json {
        room,
        seq: event.seq,
        kind,
        from: &event.author,
        ts: stamp(event.time_ms),
        time_ms: event.time_ms,
        body,
        session_id: event.session_id,
        request_no: event.request_no,
        target_seq: match &event.kind {
            Some(Kind::Pinned(pinned)) => Some(pinned.target_seq),
            Some(Kind::Edited(edited)) => Some(edited.target_seq),
            Some(Kind::Deleted(deleted)) => Some(deleted.target_seq),
            Some(Kind::Reacted(reacted)) => Some(reacted.target_seq),
            Some(Kind::Erased(erased)) => given(erased.edit_of_seq),
            _ => None,
        },
        reply_to_seq: message.and_then(|message| given(message.reply_to_seq)),
        thread_seq: match &event.kind {
            Some(Kind::Erased(erased)) => given(erased.thread_seq),
            _ => message.and_then(|message| given(message.thread_seq)),
        },
        also_in_room: message.is_some_and(|message| message.also_in_room),
        deleted_seq: match &event.kind {
            Some(Kind::Erased(erased)) => Some(erased.deleted_seq),
            _ => None,
        },
        user: who.map(|who| who.name.as_str()),
        role: role.map(role_word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_style() -> LineStyle {
        LineStyle { style: Style { color: false, unicode: true }, zone: TimeZone::UTC, now_ms: 1_000 }
    }

    fn event(kind: Kind) -> chat::Event {
        chat::Event { seq: 42, author: "ana".into(), kind: Some(kind), ..chat::Event::default() }
    }

    fn message(text: &str) -> chat::Event {
        event(Kind::Message(chat::Message { text: text.into(), ..chat::Message::default() }))
    }

    #[test]
    fn lines() {
        let own = line(&line_style(), "general", &message("hello"), Some(Tick::Committed));
        assert_eq!(own, "#general:42  00:00:00  ana: hello ✓");
        let joined = event(Kind::Joined(chat::Joined {}));
        assert_eq!(line(&line_style(), "ops", &joined, None), "#ops:42  00:00:00  * ana joined");
        let topic = event(Kind::TopicChanged(chat::TopicChanged { topic: "on call".into() }));
        assert_eq!(
            line(&line_style(), "ops", &topic, None),
            "#ops:42  00:00:00  * ana set the topic: on call"
        );
    }

    #[test]
    fn further_lines_of_a_message_are_indented() {
        let text = line(&line_style(), "a", &message("one\ntwo"), None);
        let (first, second) = text.split_once('\n').unwrap();
        assert_eq!(first.find("one"), second.find("two"));
    }

    #[test]
    fn keys_are_stable() {
        let event = message("he said \"hi\"\n");
        let text = serde_json::to_string(&json("general", &event)).unwrap();
        assert_eq!(
            text,
            r#"{"room":"general","seq":42,"kind":"message","from":"ana","ts":"1970-01-01T00:00:00.000Z","time_ms":0,"body":"he said \"hi\"\n","session_id":0,"request_no":0}"#
        );
    }
}
