//! The rules of the meta shard: sessions as in feature level 1, the room directory, nodes, the layout. Accounts, and
//! sessions as in later levels, are in [`crate::people`].

use crate::access::RoomKind;
use crate::id::{NodeId, RoomId, SessionId, UserId};
use crate::limits::{
    CLIENT_NAME_BYTES_MAX, DIRECT_PEOPLE_MAX, NODES_MAX, REPLICAS_MAX, ROOMS_MAX, SESSIONS_PER_USER_MAX,
    SHARDS_MAX,
};
use crate::name::{check_room_name, check_user_name};
use crate::outcome::{Change, Outcome, Reply};
use crate::people;
use crate::record::{DirectoryEntry, Founding, NodeRecord, Person, SessionKind, SessionRecord, UserRecord};
use crate::refusal::Refusal;
use crate::ring::Layout;
use crate::stamp::Stamp;
use crate::view::View;

pub(crate) fn create_room<V: View>(
    view: &V,
    time_ms: i64,
    name: &str,
    creator: UserId,
    kind: Option<RoomKind>,
) -> Result<Outcome, V::Error> {
    if let Err(refusal) = check_room_name(name) {
        return Ok(Outcome::refused(refusal));
    }
    if kind == Some(RoomKind::Direct) {
        return Ok(Outcome::refused(Refusal::PeopleInvalid));
    }
    let founding = kind.map(|kind| Founding { kind, people: Vec::new() });
    add_to_directory(view, time_ms, name.to_owned(), creator, founding)
}

/// Adds the direct conversation between these people, whose name follows from their ids: so they have one conversation,
/// whichever of them asks for it, and at whichever node.
pub(crate) fn open_direct<V: View>(
    view: &V,
    time_ms: i64,
    creator: UserId,
    people: &[UserId],
) -> Result<Outcome, V::Error> {
    let ascending = people.is_sorted_by(|a, b| a < b);
    if people.is_empty() || people.len() > DIRECT_PEOPLE_MAX || !ascending || !people.contains(&creator) {
        return Ok(Outcome::refused(Refusal::PeopleInvalid));
    }
    let mut named = Vec::with_capacity(people.len());
    for user in people {
        let Some(known) = view.user(*user)? else { return Ok(Outcome::refused(Refusal::UserUnknown)) };
        named.push(Person { user: *user, name: known.name });
    }
    let founding = Founding { kind: RoomKind::Direct, people: named };
    add_to_directory(view, time_ms, direct_name(people), creator, Some(founding))
}

/// The name of a direct conversation in the room directory. No room can have it: names of rooms contain no colon.
#[must_use]
pub fn direct_name(people: &[UserId]) -> String {
    people.iter().fold(":d".to_owned(), |name, user| format!("{name}:{user}"))
}

/// Whether the user is one of the people of the direct conversation with this name.
#[must_use]
pub fn is_of_direct(name: &str, user: UserId) -> bool {
    let mut people = name.split(':').skip(2);
    people.any(|id| id.parse() == Ok(user.0))
}

fn add_to_directory<V: View>(
    view: &V,
    time_ms: i64,
    name: String,
    creator: UserId,
    founding: Option<Founding>,
) -> Result<Outcome, V::Error> {
    if let Some(entry) = view.room_named(&name)? {
        return Ok(Outcome::reply(Reply::RoomCreated { room: entry.room, created: false }));
    }
    let mut head = view.meta()?;
    if head.last_room.0 >= ROOMS_MAX {
        return Ok(Outcome::refused(Refusal::TooManyRooms));
    }
    let creator_name = view.user(creator)?.map(|user| user.name).unwrap_or_default();
    head.last_room = RoomId(head.last_room.0 + 1);
    let room = head.last_room;
    let entry = DirectoryEntry { room, name, creator, creator_name, created_ms: time_ms, founding };
    Ok(Outcome {
        reply: Reply::RoomCreated { room, created: true },
        changes: vec![Change::Directory(entry), Change::Meta(head)],
        event: None,
    })
}

pub(crate) fn open_session<V: View>(
    view: &V,
    stamp: Stamp,
    name: &str,
    secret_digest: [u8; 16],
    client: &str,
) -> Result<Outcome, V::Error> {
    if let Err(refusal) = check_user_name(name) {
        return Ok(Outcome::refused(refusal));
    }
    let time_ms = stamp.time_ms;
    let mut head = view.meta()?;
    let known = view.user_named(name)?;
    // Whatever the level of the batch: a leader that has not applied the rise of the level yet still gives batches the
    // earlier one, and only commands of a later level give a name a password.
    if let Err(refusal) = people::check_without_password(head.settings.registration, known.as_ref()) {
        return Ok(Outcome::refused(refusal));
    }
    if stamp.has_accounts() {
        return people::open_session(view, time_ms, name, secret_digest, client);
    }
    let mut user = match known {
        Some(user) => user,
        None => {
            head.last_user = UserId(head.last_user.0 + 1);
            UserRecord::new(head.last_user, name)
        }
    };
    if user.sessions >= SESSIONS_PER_USER_MAX {
        return Ok(Outcome::refused(Refusal::TooManySessions));
    }
    user.sessions += 1;
    head.last_session = SessionId(head.last_session.0 + 1);
    let session = SessionRecord {
        session: head.last_session,
        user: user.user,
        user_name: user.name.clone(),
        secret_digest,
        client: displayed_client_name(client),
        opened_ms: time_ms,
        kind: SessionKind::Login,
        label: String::new(),
        expires_ms: 0,
        seen_day: 0,
        listed: false,
        closed: false,
    };
    Ok(Outcome {
        reply: Reply::SessionOpened { session: session.session, user: user.user },
        changes: vec![Change::User(user), Change::Session(session), Change::Meta(head)],
        event: None,
    })
}

pub(crate) fn register_node<V: View>(view: &V, record: &NodeRecord) -> Result<Outcome, V::Error> {
    match view.node(record.node)? {
        Some(known) if known.directory != record.directory => {
            return Ok(Outcome::refused(Refusal::NodeIdTaken));
        }
        Some(known) if known == *record => return Ok(Outcome::reply(Reply::Done)),
        Some(_) => {}
        None if view.nodes()?.len() >= NODES_MAX => return Ok(Outcome::refused(Refusal::TooManyNodes)),
        None => {}
    }
    // A node that was downgraded below the cluster's level would decide differently from the others.
    if record.feature_level < view.meta()?.feature_level {
        return Ok(Outcome::refused(Refusal::NodeTooOld));
    }
    Ok(Outcome { reply: Reply::Done, changes: vec![Change::Node(record.clone())], event: None })
}

pub(crate) fn set_layout<V: View>(view: &V, layout: &Layout, replaces: u64) -> Result<Outcome, V::Error> {
    let current = view.layout()?;
    // Repeating the step that made the current layout is harmless.
    if current.as_ref() == Some(layout) {
        return Ok(Outcome::reply(Reply::Done));
    }
    if current.as_ref().map_or(0, |layout| layout.version) != replaces
        || Some(layout.version) != replaces.checked_add(1)
    {
        return Ok(Outcome::refused(Refusal::LayoutChanged));
    }
    // A room's shard follows from the number of shards, so that number never changes.
    let same_shards = current.is_none_or(|current| current.shards.len() == layout.shards.len());
    if !same_shards || !is_complete(layout) {
        return Ok(Outcome::refused(Refusal::LayoutInvalid));
    }
    Ok(Outcome { reply: Reply::Done, changes: vec![Change::Layout(layout.clone())], event: None })
}

/// Whether the layout has a meta shard and data shards, each with an allowed number of distinct replicas.
fn is_complete(layout: &Layout) -> bool {
    let shards_max = usize::try_from(SHARDS_MAX).unwrap_or(usize::MAX).saturating_add(1);
    let sound = |replicas: &Vec<NodeId>| {
        (1..=REPLICAS_MAX).contains(&replicas.len())
            && replicas.iter().enumerate().all(|(at, node)| !replicas[..at].contains(node))
    };
    (2..=shards_max).contains(&layout.shards.len()) && layout.shards.iter().all(sound)
}

pub(crate) fn set_feature_level<V: View>(view: &V, level: u32) -> Result<Outcome, V::Error> {
    let mut head = view.meta()?;
    if level == head.feature_level {
        return Ok(Outcome::reply(Reply::Done));
    }
    let supported = view.nodes()?.iter().map(|node| node.feature_level).min().unwrap_or(0);
    if level < head.feature_level || level > supported {
        return Ok(Outcome::refused(Refusal::FeatureLevelInvalid));
    }
    head.feature_level = level;
    Ok(Outcome { reply: Reply::Done, changes: vec![Change::Meta(head)], event: None })
}

/// A client's description of itself, which is only displayed: one that is too long is truncated, not refused.
#[must_use]
pub fn displayed_client_name(client: &str) -> String {
    truncated(client, CLIENT_NAME_BYTES_MAX)
}

/// The beginning of a text, at most this many bytes.
pub(crate) fn truncated(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
