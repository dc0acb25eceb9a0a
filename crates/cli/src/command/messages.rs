//! `conclave reply`, `edit`, `delete` and `react`.

use conclave_client::Content;
use conclave_proto::chat::{Delete, Edit, Message, React, RoomAction, room_action::Kind};

use super::rooms::change;
use crate::args::{DeleteArgs, EditArgs, ReactArgs, ReplyArgs};
use crate::exit::Exit;
use crate::settings::Settings;

/// Posts a message that refers to another.
///
/// # Errors
/// If it is refused, or not acknowledged before the timeout.
pub(super) async fn reply(args: &ReplyArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let place = &args.about.message;
    let text = args.text.join(" ");
    change(&place.room, action(answer(place.seq, text, args.thread, args.also_in_room)), settings).await
}

/// A reply to a message: a quote, or with `thread` a message of the thread about it.
pub(super) fn answer(seq: u64, text: String, thread: bool, also_in_room: bool) -> Kind {
    let (reply_to_seq, thread_seq) = if thread { (0, seq) } else { (seq, 0) };
    Kind::Post(Message { text, reply_to_seq, thread_seq, also_in_room })
}

/// Gives an own message another text.
///
/// # Errors
/// As [`reply`].
pub(super) async fn edit(args: &EditArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let place = &args.about.message;
    let edit = Edit { target_seq: place.seq, text: args.text.join(" ") };
    change(&place.room, action(Kind::Edit(edit)), settings).await
}

/// Deletes a message.
///
/// # Errors
/// As [`reply`].
pub(super) async fn delete(args: &DeleteArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let place = &args.about.message;
    let delete = Delete { target_seq: place.seq, reason: args.reason.clone() };
    change(&place.room, action(Kind::Delete(delete)), settings).await
}

/// Reacts to a message, or takes a reaction back.
///
/// # Errors
/// As [`reply`].
pub(super) async fn react(args: &ReactArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let place = &args.about.message;
    let react = React { target_seq: place.seq, emoji: args.emoji.clone(), off: args.off };
    change(&place.room, action(Kind::React(react)), settings).await
}

fn action(kind: Kind) -> Content {
    Content::Action(RoomAction { kind: Some(kind) })
}
