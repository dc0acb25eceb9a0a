//! Parses a typed line. A line that looks like a command is never sent as text.

use clap::ValueEnum as _;
use conclave_proto::chat::{
    AddMember, Delete, Edit, MemberRole, Mute, React, RemoveMember, RoomAction, SetPolicy, SetRole, Target,
    room_action::Kind,
};

use super::super::messages::answer;
use crate::args::Role;
use crate::parse;
use crate::suggest::nearest;

/// A parsed line.
#[derive(Debug, PartialEq)]
pub(super) enum Typed {
    Nothing,
    Message(String),
    Join(String),
    Create(String),
    /// This room, or the current one.
    Leave(Option<String>),
    Rooms,
    /// The newest events of the current room; this many.
    History(u32),
    Status,
    /// A new topic for the current room.
    Topic(String),
    /// Another change of the current room or of its members.
    Change(RoomAction),
    /// The members of the current room.
    Members,
    /// The direct conversation with these users.
    Direct(Vec<String>),
    Help,
    Quit,
    /// An invalid command, with the reason.
    Wrong(String),
}

impl Typed {
    /// Whether the line changes the current room, so that the next line has to wait.
    pub(super) fn moves(&self) -> bool {
        matches!(self, Self::Join(_) | Self::Create(_) | Self::Leave(_) | Self::Direct(_))
    }
}

const HISTORY_DEFAULT: u32 = 20;
const HISTORY_MAX: u32 = 1_000;

const COMMANDS: [&str; 23] = [
    "join", "create", "leave", "rooms", "dm", "members", "add", "remove", "ban", "mute", "unmute", "role",
    "archive", "reply", "thread", "edit", "delete", "react", "history", "status", "topic", "help", "quit",
];

/// The list of commands.
pub(super) const HELP: &str = "\
/join ROOM       become a member of a room and talk there
/create ROOM     make a room, and join it
/leave [ROOM]    stop being a member
/rooms           list the rooms
/dm NAME[,NAME]  write to people directly
/members         list the members of this room
/add NAME [ROLE] make somebody a member: guest, member, moderator or owner
/remove NAME     end somebody's membership (/ban NAME: for good); a reason may follow
/mute NAME [1h]  let somebody write nothing for a while (/unmute NAME ends it)
/role NAME ROLE  give a member another role
/archive         close this room for writing (/archive off opens it)
/reply N TEXT    quote message N of this room (its number is behind the room: #ops:N)
/thread N TEXT   answer in the thread about message N
/edit N TEXT     give your message N another text
/delete N        delete a message for good; a reason may follow
/react N EMOJI   react to message N, for example with :+1:; once more with off takes it back
/history [N]     show the last N events of this room again
/topic TEXT      say what this room is for
/status          how the cluster is
/quit            leave; what is not sent yet is kept and sent later
//text           send a line that begins with one slash";

/// Parses a line.
pub(super) fn typed(line: &str) -> Typed {
    let Some(rest) = line.strip_prefix('/') else {
        return if line.trim().is_empty() { Typed::Nothing } else { Typed::Message(line.to_owned()) };
    };
    if rest.starts_with('/') {
        return Typed::Message(rest.to_owned());
    }
    let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    match word {
        "join" | "j" => room(argument).map_or_else(Typed::Wrong, Typed::Join),
        "create" => room(argument).map_or_else(Typed::Wrong, Typed::Create),
        "leave" | "part" if argument.is_empty() => Typed::Leave(None),
        "leave" | "part" => room(argument).map_or_else(Typed::Wrong, |room| Typed::Leave(Some(room))),
        "rooms" => Typed::Rooms,
        "history" if argument.is_empty() => Typed::History(HISTORY_DEFAULT),
        "history" => match argument.parse() {
            Ok(number @ 1..=HISTORY_MAX) => Typed::History(number),
            _ => Typed::Wrong(format!("/history takes a number from 1 to {HISTORY_MAX}")),
        },
        "status" => Typed::Status,
        "members" => Typed::Members,
        "dm" | "msg" => direct(argument).map_or_else(Typed::Wrong, Typed::Direct),
        "add" | "remove" | "kick" | "ban" | "mute" | "unmute" | "role" | "archive" => change(word, argument)
            .map_or_else(Typed::Wrong, |kind| Typed::Change(RoomAction { kind: Some(kind) })),
        "reply" | "thread" | "edit" | "delete" | "react" => message(word, argument)
            .map_or_else(Typed::Wrong, |kind| Typed::Change(RoomAction { kind: Some(kind) })),
        "topic" if argument.is_empty() => Typed::Wrong("/topic TEXT says what the room is for".to_owned()),
        "topic" => Typed::Topic(argument.to_owned()),
        "help" | "?" => Typed::Help,
        "quit" | "exit" | "q" => Typed::Quit,
        _ => Typed::Wrong(unknown(word)),
    }
}

fn room(argument: &str) -> Result<String, String> {
    if argument.is_empty() {
        return Err("which room? For example: /join general".to_owned());
    }
    parse::room(argument)
}

fn direct(argument: &str) -> Result<Vec<String>, String> {
    if argument.is_empty() {
        return Err("with whom? For example: /dm bob or /dm bob,carol".to_owned());
    }
    parse::people(argument).map(|people| people.0)
}

/// A change of the current room: `add bob moderator`, `remove bob he left`, `mute bob 10m`, `archive off`.
fn change(verb: &str, argument: &str) -> Result<Kind, String> {
    if verb == "archive" {
        return match argument {
            "" | "off" => {
                Ok(Kind::SetPolicy(SetPolicy { archived: Some(argument.is_empty()), ..SetPolicy::default() }))
            }
            _ => Err("/archive closes this room for writing, /archive off opens it".to_owned()),
        };
    }
    let (name, rest) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
    let rest = rest.trim();
    if name.is_empty() {
        return Err(format!("whom? For example: /{verb} bob"));
    }
    let who = Some(Target { name: parse::person(name)?, user_id: 0 });
    Ok(match verb {
        "add" if rest.is_empty() => Kind::AddMember(AddMember { who, role: MemberRole::Member.into() }),
        "add" => Kind::AddMember(AddMember { who, role: role(rest)?.into() }),
        "role" => Kind::SetRole(SetRole { who, role: role(rest)?.into() }),
        "mute" => {
            let how_long = parse::duration(if rest.is_empty() { "1h" } else { rest })?;
            let for_ms = u64::try_from(how_long.as_millis()).unwrap_or(u64::MAX).max(1);
            Kind::Mute(Mute { who, for_ms })
        }
        "unmute" => Kind::Mute(Mute { who, for_ms: 0 }),
        _ => Kind::RemoveMember(RemoveMember { who, ban: verb == "ban", reason: rest.to_owned() }),
    })
}

/// An action upon a message of the current room: `reply 12 on my way`, `edit 12 hello`, `delete 12`, `react 12 :+1:`.
fn message(verb: &str, argument: &str) -> Result<Kind, String> {
    let (number, rest) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
    let rest = rest.trim();
    let Ok(target_seq @ 1..) = number.parse() else {
        return Err(format!("which message? Its number is behind the room: /{verb} 12 …"));
    };
    Ok(match verb {
        "delete" => Kind::Delete(Delete { target_seq, reason: rest.to_owned() }),
        _ if rest.is_empty() => return Err(format!("/{verb} {number} needs something behind the number")),
        "reply" | "thread" => answer(target_seq, rest.to_owned(), verb == "thread", false),
        "edit" => Kind::Edit(Edit { target_seq, text: rest.to_owned() }),
        _ => {
            let (emoji, off) = match rest.split_once(char::is_whitespace) {
                Some((emoji, "off")) => (emoji, true),
                _ => (rest, false),
            };
            Kind::React(React { target_seq, emoji: parse::emoji(emoji)?, off })
        }
    })
}

fn role(word: &str) -> Result<MemberRole, String> {
    Role::from_str(word, true)
        .map(MemberRole::from)
        .map_err(|_| format!("{word:?} is no role; there are guest, member, moderator and owner"))
}

fn unknown(word: &str) -> String {
    let advice = nearest(word, &COMMANDS)
        .map_or_else(|| "/help lists the commands".to_owned(), |command| format!("did you mean /{command}?"));
    format!("there is no command /{word}; {advice} (//{word} sends it as text)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_are_messages() {
        assert_eq!(typed("hello"), Typed::Message("hello".into()));
        assert_eq!(typed("  indented /join"), Typed::Message("  indented /join".into()));
        assert_eq!(typed("//etc/hosts"), Typed::Message("/etc/hosts".into()));
        assert_eq!(typed("   "), Typed::Nothing);
    }

    #[test]
    fn commands_are_parsed() {
        assert_eq!(typed("/join #ops"), Typed::Join("ops".into()));
        assert_eq!(typed("/leave"), Typed::Leave(None));
        assert_eq!(typed("/history 5"), Typed::History(5));
        assert_eq!(typed("/topic  on call: ana "), Typed::Topic("on call: ana".into()));
        assert_eq!(typed("/quit"), Typed::Quit);
    }

    #[test]
    fn an_unknown_command_is_not_sent_as_a_message() {
        let Typed::Wrong(text) = typed("/jion ops") else { panic!("it was accepted") };
        assert!(text.contains("did you mean /join?"), "{text}");
        for line in ["/edit", "/edit 0 x", "/edit 3", "/react 3 no", "/reply x y", "/delete"] {
            assert!(matches!(typed(line), Typed::Wrong(_)), "{line}");
        }
        for line in ["/dm", "/add", "/add NOT", "/role bob king", "/mute bob soon", "/archive it"] {
            assert!(matches!(typed(line), Typed::Wrong(_)), "{line}");
        }
        for line in ["/", "/xyzzy", "/join", "/join NOT OK", "/history many", "/history 0", "/topic"] {
            assert!(matches!(typed(line), Typed::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn the_help_names_every_command() {
        for command in COMMANDS.iter().filter(|command| **command != "help") {
            assert!(HELP.contains(&format!("/{command}")), "{command}");
        }
    }
}
