//! The configuration file: values for flags that neither the command line nor the environment gives.
//!
//! The file's values become words of the command line, so one parser reads all of them, with the same checks. A first parse,
//! which ignores errors, says which flags have a value already.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _};
use toml::{Table, Value};

use crate::args::Args;
use crate::exit::{Exit, Failed};
use crate::limits::CONFIG_FILE_BYTES_MAX;
use crate::suggest::nearest;

const FLAG: &str = "--config";
const VARIABLE: &str = "CONCLAVE_CONFIG";
/// Global flags that no file sets: it does not name another file.
const NOT_IN_A_FILE: [&str; 3] = ["config", "help", "version"];
/// The commands of which every flag is a setting. Of other commands, flags with an environment variable are.
const DAEMONS: [&str; 2] = ["server", "dns"];
/// Commands that need no settings, and work with a broken file.
const WITHOUT_SETTINGS: [&str; 3] = ["version", "completions", "config"];

/// A command line with the values of the file.
#[derive(Debug, Default)]
pub(crate) struct Completed {
    pub(crate) words: Vec<OsString>,
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The long names of the flags that have their values from the file.
    pub(crate) from_file: BTreeSet<String>,
}

/// Adds the values of the configuration file to a command line.
///
/// # Errors
/// If the file cannot be read, or says what no command understands.
pub(crate) fn complete(words: Vec<OsString>) -> Result<Completed, Failed> {
    let names_file = |word: &OsString| word.to_str().is_some_and(|word| word.starts_with(FLAG));
    let unchanged = |words| Ok(Completed { words, ..Completed::default() });
    if std::env::var_os(VARIABLE).is_none() && !words.iter().any(names_file) {
        return unchanged(words);
    }
    let commands = commands();
    let matches = lenient(&commands, &words);
    let Some((matches, name)) = matches.as_ref().and_then(|found| Some((found, found.subcommand_name()?)))
    else {
        // The second parse says what is wrong, or prints the help.
        return unchanged(words);
    };
    let file = matches.get_one::<PathBuf>("config").filter(|file| !file.as_os_str().is_empty());
    match (file, commands.find_subcommand(name)) {
        (Some(file), Some(command)) if !WITHOUT_SETTINGS.contains(&name) => {
            let table = read(file)?;
            add(&commands, command, matches, words, file, &table)
        }
        _ => unchanged(words),
    }
}

/// All commands, with the global flags at each of them.
pub(crate) fn commands() -> Command {
    let mut commands = Args::command();
    commands.build();
    commands
}

/// Parses a command line and ignores its errors. `None` if it asks for help.
pub(crate) fn lenient(commands: &Command, words: &[OsString]) -> Option<ArgMatches> {
    commands.clone().ignore_errors(true).try_get_matches_from(words).ok()
}

/// Whether a file may set this flag of the command.
pub(crate) fn is_setting(command: &Command, arg: &Arg) -> bool {
    let Some(long) = arg.get_long() else { return false };
    let is_shared = arg.is_global_set() || arg.get_env().is_some() || DAEMONS.contains(&command.get_name());
    is_shared && !NOT_IN_A_FILE.contains(&long)
}

/// The index of the word that is the command: the first one that is neither a flag nor the value of a flag.
pub(crate) fn command_at(commands: &Command, words: &[OsString]) -> usize {
    let takes_value = |word: &str| {
        let arg = match word.strip_prefix("--") {
            Some(long) => commands.get_arguments().find(|arg| arg.get_long() == Some(long)),
            // Short flags may stand together; the value of one that takes a value may follow without a space.
            None => word.chars().last().filter(|_| word.starts_with('-')).and_then(|last| {
                let found = |short| commands.get_arguments().find(move |arg| arg.get_short() == Some(short));
                let takes = |arg: &&Arg| arg.get_action().takes_values();
                let before = word.chars().skip(1).take(word.chars().count().saturating_sub(2));
                if before.filter_map(found).any(|arg| takes(&arg)) { None } else { found(last) }
            }),
        };
        arg.is_some_and(|arg| arg.get_action().takes_values())
    };
    let mut at = 1;
    while let Some(word) = words.get(at) {
        let word = word.to_string_lossy();
        if !word.starts_with('-') {
            break;
        }
        at += if takes_value(&word) { 2 } else { 1 };
    }
    at.min(words.len())
}

fn read(file: &Path) -> Result<Table, Failed> {
    let failed = |why: String| {
        let what = format!("the configuration file {} cannot be used: {why}", file.display());
        Failed::new(Exit::Usage, what, "conclave config --help")
    };
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| failed(error.to_string()))?;
    opened
        .take(CONFIG_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(failed(format!("it has more than {CONFIG_FILE_BYTES_MAX} bytes")));
    }
    text.parse::<Table>().map_err(|error| failed(error.to_string().trim_end().to_owned()))
}

fn add(
    commands: &Command,
    command: &Command,
    matches: &ArgMatches,
    mut words: Vec<OsString>,
    file: &Path,
    table: &Table,
) -> Result<Completed, Failed> {
    check_keys(commands, file, table)?;
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let (mut global, mut own) = (Vec::new(), Vec::new());
    let mut from_file = BTreeSet::new();
    for arg in command.get_arguments().filter(|arg| is_setting(command, arg)) {
        let Some((key, value)) = arg.get_long().and_then(|long| table.get_key_value(long)) else { continue };
        let source = matches.value_source(arg.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let values = values_of(arg, value).map_err(|why| {
            let what = format!("{key} in {}: {why}", file.display());
            Failed::new(Exit::Usage, what, format!("conclave {} --help", command.get_name()))
        })?;
        let flags = values.into_iter().map(|value| match value {
            Some(value) => format!("--{key}={value}").into(),
            None => format!("--{key}").into(),
        });
        if arg.is_global_set() {
            global.extend(flags)
        } else {
            own.extend(flags)
        }
        from_file.insert(key.clone());
    }
    // Before the command's own words: a command with subcommands takes no global flag between itself and them.
    let at = command_at(commands, &words);
    words.splice(at..at, global.iter().cloned());
    let at = (at + global.len() + 1).min(words.len());
    words.splice(at..at, own);
    Ok(Completed { words, file: Some(file.to_owned()), from_file })
}

/// Refuses keys that no command has.
fn check_keys(commands: &Command, file: &Path, table: &Table) -> Result<(), Failed> {
    let all = std::iter::once(commands).chain(commands.get_subcommands());
    let settings = all.flat_map(|command| {
        command.get_arguments().filter(|arg| is_setting(command, arg)).filter_map(Arg::get_long)
    });
    let settings: BTreeSet<&str> = settings.collect();
    let Some(unknown) = table.keys().find(|key| !settings.contains(key.as_str())) else { return Ok(()) };
    let candidates: Vec<&str> = settings.into_iter().collect();
    let next = match nearest(unknown, &candidates) {
        Some(near) => format!("the nearest setting is {near}"),
        None => "the keys are the long names of flags: conclave config show server".to_owned(),
    };
    Err(Failed::new(Exit::Usage, format!("{} has an unknown key, {unknown:?}", file.display()), next))
}

/// The values for a flag, one for each time that it is to be given: `None` for a flag without a value.
fn values_of(arg: &Arg, value: &Value) -> Result<Vec<Option<String>>, String> {
    let single = |value: &Value| match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Integer(number) => Ok(Some(number.to_string())),
        other => Err(format!("a {} is no value of this flag", other.type_str())),
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![None]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err("it is either true or false".to_owned()),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(single).collect(),
        (_, value) => Ok(vec![single(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(line: &str, file: &str) -> Result<Vec<String>, Failed> {
        let words: Vec<OsString> =
            ["conclave"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
        let (commands, table) = (commands(), file.parse().unwrap());
        let matches = lenient(&commands, &words).unwrap();
        let command = commands.find_subcommand(matches.subcommand_name().unwrap()).unwrap();
        let completed = add(&commands, command, &matches, words, Path::new("f.toml"), &table)?;
        let text = |word: OsString| word.into_string().unwrap();
        Ok(completed.words.into_iter().skip(1).map(text).collect())
    }

    #[test]
    fn a_file_gives_what_the_command_line_does_not() {
        let file = "timeout = \"3s\"\nserver = [\"a\", \"b:1\"]\ninsecure = true\njson = false\nshards = 4";
        let words = completed("send general hello", file).unwrap();
        assert_eq!(
            words,
            ["--server=a", "--server=b:1", "--insecure", "--timeout=3s", "send", "general", "hello"]
        );
        let words = completed("-qs c -u ana --timeout=9s send general --insecure", file).unwrap();
        assert_eq!(words, ["-qs", "c", "-u", "ana", "--timeout=9s", "send", "general", "--insecure"]);
        let words = completed("server --dir d", "shards = 4\nmdns = \"off\"\ntls = \"accept\"").unwrap();
        assert_eq!(words, ["server", "--shards=4", "--tls=accept", "--mdns=off", "--dir", "d"]);
        let words = completed("rooms create ops", "timeout = \"3s\"").unwrap();
        assert_eq!(words, ["--timeout=3s", "rooms", "create", "ops"]);
    }

    #[test]
    fn flags_that_need_each_other_may_come_from_both() {
        let words = completed("server --tls accept", "tls-dir = \"/pki\"").unwrap();
        let words = ["conclave".to_owned()].into_iter().chain(words);
        assert!(<Args as clap::Parser>::try_parse_from(words).is_ok());
    }

    #[test]
    fn a_key_that_no_command_has_is_refused_with_the_nearest_one() {
        let failed = completed("status", "timeuot = \"3s\"").unwrap_err();
        assert!(failed.what.contains("timeuot") && failed.next.ends_with(" timeout"), "{failed}");
        for key in ["config", "yes", "help", "room", "force"] {
            assert!(completed("status", &format!("{key} = true")).is_err(), "{key}");
        }
        assert!(completed("status", "shards = 8").is_ok(), "another command has it");
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for file in
            ["timeout = 3.5", "timeout = [\"3s\"]", "insecure = \"yes\"", "[server]\na = 1", "server = [[]]"]
        {
            let failed = completed("status", file).unwrap_err();
            assert!(failed.what.contains("in f.toml") && failed.exit == Exit::Usage, "{file}: {failed}");
        }
    }

    #[test]
    fn the_command_is_found_behind_global_flags() {
        let commands = commands();
        let at = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
            command_at(&commands, &words)
        };
        assert_eq!(at("conclave send"), 1);
        assert_eq!(at("conclave -u send send general"), 3);
        assert_eq!(at("conclave -uana -q --json --timeout 3s --zone=x send"), 7);
        assert_eq!(at("conclave -qu ana send"), 3);
        assert_eq!(at("conclave --json"), 2);
    }
}
