//! The command line, by example.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Command, ErrorKind> {
    let words = ["conclave"].into_iter().chain(line.split_whitespace());
    Args::try_parse_from(words).map(|args| args.command).map_err(|error| error.kind())
}

#[test]
fn the_definitions_are_consistent() {
    Args::command().debug_assert();
}

#[test]
fn words_and_a_dash_are_accepted_as_text() {
    let Ok(Command::Send(send)) = parse("send #general hello wide world") else { panic!("not send") };
    assert_eq!((send.room.as_str(), send.text.join(" ").as_str()), ("general", "hello wide world"));
    let Ok(Command::Send(send)) = parse("send general - --no-wait") else { panic!("not send") };
    assert_eq!((send.text, send.no_wait), (vec!["-".to_owned()], true));
}

#[test]
fn global_flags_may_stand_anywhere() {
    for line in ["--json rooms", "rooms --json"] {
        let words = ["conclave"].into_iter().chain(line.split_whitespace());
        assert!(Args::try_parse_from(words).unwrap().global.json, "{line}");
    }
}

#[test]
fn rooms_lists_without_and_creates_with_a_subcommand() {
    let Ok(Command::Rooms(rooms)) = parse("rooms create ops") else { panic!("not rooms") };
    let Some(RoomsCommand::Create(arg)) = rooms.command else { panic!("not create") };
    assert_eq!(arg.room, "ops");
}

#[test]
fn invalid_command_lines_are_usage_errors() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("sned general x", ErrorKind::InvalidSubcommand),
        ("send general", ErrorKind::MissingRequiredArgument),
        ("send UPPER x", ErrorKind::ValueValidation),
        ("tail -n 5 --since 3", ErrorKind::ArgumentConflict),
        ("history general --before 1 --after 2", ErrorKind::ArgumentConflict),
        ("up --dir x --ephemeral", ErrorKind::ArgumentConflict),
        ("up --nodes 0", ErrorKind::ValueValidation),
        ("up --shards 65", ErrorKind::ValueValidation),
        ("status --timeout soon", ErrorKind::ValueValidation),
        ("rooms --user Ana", ErrorKind::ValueValidation),
        ("server --listen here", ErrorKind::ValueValidation),
    ] {
        assert_eq!(parse(line).unwrap_err(), kind, "{line}");
    }
}

#[test]
fn a_server_alone_is_a_cluster_of_one() {
    let Ok(Command::Server(server)) = parse("server --dir d --shards 1 --timing wan") else {
        panic!("not server")
    };
    let config = server.config();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.initial.len(), 1);
    assert_eq!((config.shards, config.timing), (1, conclave_server::Timing::Wan));
}

#[test]
fn a_server_among_others() {
    let line = "server --name b --initial-cluster a=h1;b=h2;c=h3:1,h3:2,h3:3 --log-tail 64MiB --replicas 3";
    let Ok(Command::Server(server)) = parse(line) else { panic!("not server") };
    let config = server.config();
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(config.initial[2].http, "h3:3");
    assert_eq!(config.log_tail_bytes, 64 << 20);
}

#[test]
fn every_command_has_a_help_text() {
    let mut root = Args::command();
    root.build();
    for command in root.get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
        }
    }
}
