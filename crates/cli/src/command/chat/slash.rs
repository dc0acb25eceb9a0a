//! Parses a typed line. A line that looks like a command is never sent as text.

use crate::parse;
use crate::suggest::nearest;

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
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
    Help,
    Quit,
    /// An invalid command, with the reason.
    Wrong(String),
}

impl Typed {
    /// Whether the line changes the current room, so that the next line has to wait.
    pub(super) fn moves(&self) -> bool {
        matches!(self, Self::Join(_) | Self::Create(_) | Self::Leave(_))
    }
}

const HISTORY_DEFAULT: u32 = 20;
const HISTORY_MAX: u32 = 1_000;

const COMMANDS: [&str; 9] =
    ["join", "create", "leave", "rooms", "history", "status", "topic", "help", "quit"];

/// The list of commands.
pub(super) const HELP: &str = "\
/join ROOM       become a member of a room and talk there
/create ROOM     make a room, and join it
/leave [ROOM]    stop being a member
/rooms           list the rooms
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
