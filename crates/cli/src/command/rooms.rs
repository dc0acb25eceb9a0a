//! `conclave rooms`, `create`, `join`, `leave`, `topic` and `pin`.

use conclave_client::{Client, Content, Ticket};
use conclave_proto::chat::{MemberRole, Pin, Room, RoomAction, RoomKind, RoomPolicy, room_action};
use serde::Serialize;

use crate::args::{CreateArgs, PinArgs, RoomsArgs, TopicArgs};
use crate::errors::{of_call, of_send};
use crate::exit::Exit;
use crate::settings::{Settings, Style};
use crate::view::event::{kind_word, role_word};
use crate::view::table::{Align, Cell, render};
use crate::view::text::{grouped, safe};
use crate::{output, session};

#[derive(Debug, Serialize)]
struct Json<'a> {
    room: &'a str,
    id: u64,
    topic: &'a str,
    last_seq: u64,
    members: u32,
    shard: u32,
    joined: bool,
    kind: &'static str,
    archived: bool,
    /// The user's role; absent for somebody who is no member.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// The people of a direct conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    people: Vec<&'a str>,
}

/// Lists the rooms.
///
/// # Errors
/// If no server answers.
pub(super) async fn list(_args: &RoomsArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::reader(settings).await?;
    let rooms = client.all_rooms().await.map_err(|e| of_call(None, &e));
    client.close().await;
    let rooms = rooms?;
    if settings.json {
        for room in &rooms {
            output::json(&Json {
                room: &room.name,
                id: room.id,
                topic: &room.topic,
                last_seq: room.last_seq,
                members: room.members,
                shard: room.shard,
                joined: room.joined,
                kind: kind_word(policy(room).kind()),
                archived: policy(room).archived,
                role: (room.role() != MemberRole::Unspecified).then(|| role_word(room.role())),
                people: room.people.iter().map(|person| person.name.as_str()).collect(),
            })?;
        }
    } else {
        output::block(&table(settings.style, &rooms))?;
    }
    Ok(Exit::Ok)
}

/// The rooms as a table; a star marks those that the user has joined.
pub(super) fn table(style: Style, rooms: &[Room]) -> String {
    let columns = [
        ("ROOM", Align::Left),
        ("", Align::Left),
        ("KIND", Align::Left),
        ("LAST", Align::Right),
        ("MEMBERS", Align::Right),
        ("SHARD", Align::Right),
        ("TOPIC", Align::Left),
    ];
    let row = |room: &Room| -> Vec<Cell> {
        vec![
            format!("#{}", safe(&room.name, "")).into(),
            if room.joined { "*" } else { "" }.into(),
            about(room).into(),
            grouped(room.last_seq).into(),
            grouped(u64::from(room.members)).into(),
            room.shard.to_string().into(),
            safe(&room.topic, "").into(),
        ]
    };
    render(style, &columns, &rooms.iter().map(row).collect::<Vec<_>>())
}

fn policy(room: &Room) -> RoomPolicy {
    room.policy.unwrap_or_default()
}

/// The kind of a room; the people of a direct conversation.
fn about(room: &Room) -> String {
    let people: Vec<_> = room.people.iter().map(|person| safe(&person.name, "")).collect();
    let kind = kind_word(policy(room).kind());
    match (people.is_empty(), policy(room).archived) {
        (false, _) => people.join(", "),
        (true, true) => format!("{kind}, archived"),
        (true, false) => kind.to_owned(),
    }
}

/// Creates a room.
///
/// # Errors
/// If no server can create it.
pub(super) async fn create(args: &CreateArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let room = &args.room;
    let kind = if args.private { RoomKind::Private } else { RoomKind::Open };
    let client = session::open(settings).await?;
    let made = client.create_room_of_kind(room, kind).await.map_err(|e| of_call(Some(room), &e));
    session::close(client).await;
    let made = made?;
    let json = serde_json::json!({ "room": room, "id": made.room_id, "created": made.created });
    let text = format!("#{room}{}", if made.created { "" } else { " (was there already)" });
    output::done(settings.json, &json, &text);
    Ok(Exit::Ok)
}

/// Makes the user a member.
///
/// # Errors
/// If it is refused, or not acknowledged before the timeout.
pub(super) async fn join(room: &str, settings: &Settings) -> anyhow::Result<Exit> {
    change(room, Content::Join, settings).await
}

/// Ends the membership.
///
/// # Errors
/// As [`join`].
pub(super) async fn leave(room: &str, settings: &Settings) -> anyhow::Result<Exit> {
    change(room, Content::Leave, settings).await
}

/// Sets the topic of the room.
///
/// # Errors
/// As [`join`].
pub(super) async fn topic(args: &TopicArgs, settings: &Settings) -> anyhow::Result<Exit> {
    change(&args.room, Content::Topic(args.text.join(" ")), settings).await
}

/// Pins an event, or takes the pin away.
///
/// # Errors
/// As [`join`].
pub(super) async fn pin(args: &PinArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let pin = Pin { target_seq: args.seq, off: args.off };
    let action = RoomAction { kind: Some(room_action::Kind::Pin(pin)) };
    change(&args.room, Content::Action(action), settings).await
}

pub(super) async fn change(room: &str, content: Content, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::open(settings).await?;
    let result = decide(room, content, settings, &client).await;
    session::close(client).await;
    result
}

pub(super) async fn decide(
    room: &str,
    content: Content,
    settings: &Settings,
    client: &Client,
) -> anyhow::Result<Exit> {
    let mut ticket: Ticket = client.submit(room, content).await.map_err(|e| of_send(room, &e))?;
    let ack = ticket.wait_for(settings.timeout).await.map_err(|e| of_send(room, &e))?;
    let json = serde_json::json!({
        "room": room,
        "seq": ack.seq,
        "time_ms": ack.time_ms,
        "duplicate": ack.duplicate,
        "changed": ack.seq != 0,
    });
    let text =
        if ack.seq == 0 { format!("#{room} (nothing to change)") } else { format!("#{room}:{}", ack.seq) };
    output::done(settings.json, &json, &text);
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_as_a_table() {
        let room = |name: &str, joined, last_seq, topic: &str| Room {
            name: name.into(),
            joined,
            last_seq,
            members: 3,
            shard: 5,
            topic: topic.into(),
            ..Room::default()
        };
        let rooms = [room("general", true, 1_042, ""), room("ops", false, 7, "on call: ana")];
        let expected = "\
ROOM         KIND   LAST  MEMBERS  SHARD  TOPIC
#general  *  open  1,042        3      5
#ops         open      7        3      5  on call: ana
";
        assert_eq!(table(Style::default(), &rooms), expected);
    }
}
