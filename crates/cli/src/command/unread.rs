//! `conclave unread` and `conclave read`.

use conclave_client::{Client, HistoryQuery};
use conclave_proto::chat::{Room, UnreadRoom};
use serde::Serialize;

use crate::args::ReadArgs;
use crate::errors::of_call;
use crate::exit::Exit;
use crate::settings::{Settings, Style};
use crate::view::table::{Align, Cell, render};
use crate::view::text::{grouped, safe};
use crate::{output, session};

/// Rooms that are asked for at once.
const ROOMS: usize = 100;

#[derive(Debug, Serialize)]
struct Json<'a> {
    room: &'a str,
    unread: u32,
    /// There are further events behind those that were counted.
    more: bool,
    read_seq: u64,
    last_seq: u64,
}

/// A room in which the user has not read everything.
type Waiting = (Room, UnreadRoom);

/// Lists the rooms in which the user has not read everything.
///
/// # Errors
/// If no server answers.
pub(super) async fn list(settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::open(settings).await?;
    let waiting = waiting(&client).await;
    session::close(client).await;
    let waiting = waiting?;
    if settings.json {
        for (room, unread) in &waiting {
            output::json(&Json {
                room: &room.name,
                unread: unread.unread,
                more: unread.more,
                read_seq: unread.read_seq,
                last_seq: unread.last_seq,
            })?;
        }
    } else {
        output::block(&table(settings.style, &waiting))?;
    }
    Ok(Exit::Ok)
}

/// The rooms in which messages wait, those of which most do first.
async fn waiting(client: &Client) -> anyhow::Result<Vec<Waiting>> {
    let rooms = joined(client).await?;
    let mut waiting = Vec::new();
    for rooms in rooms.chunks(ROOMS) {
        let ids: Vec<u64> = rooms.iter().map(|room| room.id).collect();
        let answers = client.unread(&ids).await.map_err(|error| of_call(None, &error))?;
        let here =
            answers.into_iter().filter(|unread| unread.unread > 0 || unread.more).filter_map(|unread| {
                Some((rooms.iter().find(|room| room.id == unread.room_id)?.clone(), unread))
            });
        waiting.extend(here);
    }
    waiting.sort_by(|(a, x), (b, y)| (y.unread, &a.name).cmp(&(x.unread, &b.name)));
    Ok(waiting)
}

async fn joined(client: &Client) -> anyhow::Result<Vec<Room>> {
    let mut rooms = client.all_rooms().await.map_err(|error| of_call(None, &error))?;
    rooms.retain(|room| room.joined);
    Ok(rooms)
}

fn table(style: Style, waiting: &[Waiting]) -> String {
    let columns =
        [("ROOM", Align::Left), ("UNREAD", Align::Right), ("READ", Align::Right), ("LAST", Align::Right)];
    let row = |(room, unread): &Waiting| -> Vec<Cell> {
        let count = grouped(u64::from(unread.unread));
        vec![
            format!("#{}", safe(&room.name, "")).into(),
            if unread.more { format!("{count}+") } else { count }.into(),
            grouped(unread.read_seq).into(),
            grouped(unread.last_seq).into(),
        ]
    };
    render(style, &columns, &waiting.iter().map(row).collect::<Vec<_>>())
}

/// Moves the user's read marker.
///
/// # Errors
/// If the user is no member of the room, or no server answers.
pub(super) async fn read(args: &ReadArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::open(settings).await?;
    let result = mark(args, settings, &client).await;
    session::close(client).await;
    result
}

async fn mark(args: &ReadArgs, settings: &Settings, client: &Client) -> anyhow::Result<Exit> {
    let rooms = match &args.room {
        Some(room) => vec![(room.clone(), last_of(args, client, room).await?)],
        None => joined(client).await?.into_iter().map(|room| (room.name, room.last_seq)).collect(),
    };
    for (room, seq) in rooms {
        client.mark_read(&room, seq).await.map_err(|error| of_call(Some(&room), &error))?;
        let json = serde_json::json!({ "room": room, "read_seq": seq });
        output::done(settings.json, &json, &format!("#{room}:{seq}"));
    }
    Ok(Exit::Ok)
}

async fn last_of(args: &ReadArgs, client: &Client, room: &str) -> anyhow::Result<u64> {
    if let Some(seq) = args.upto {
        return Ok(seq);
    }
    let newest = client.history(HistoryQuery::newest(room, 1)).await;
    Ok(newest.map_err(|error| of_call(Some(room), &error))?.last_seq)
}
