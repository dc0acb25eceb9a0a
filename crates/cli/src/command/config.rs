//! `conclave config show`: the settings that are in force, and where they come from.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};
use serde::Serialize;

use crate::args::config::{ConfigArgs, ConfigCommand};
use crate::config_file::{Completed, command_at, commands, complete, is_setting, lenient};
use crate::exit::{Exit, Failed};
use crate::output;
use crate::settings::Style;
use crate::view::table::{Align, Cell, render};
use crate::view::text::safe;

/// The command whose settings are those that all client commands share.
const CLIENT: &str = "status";
/// Parts of the names of flags whose values are not printed.
const SECRET: [&str; 4] = ["secret", "token", "password", "key"];
const HIDDEN: &str = "(set)";

/// One setting.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Setting {
    setting: String,
    /// `None` if it has none.
    value: Option<String>,
    from: String,
}

/// Prints the settings of a command.
///
/// # Errors
/// If the configuration file cannot be used, there is no such command, or stdout is closed.
pub(super) fn run(args: &ConfigArgs, style: Style, json: bool) -> anyhow::Result<Exit> {
    let ConfigCommand::Show(show) = &args.command;
    let words: Vec<OsString> = std::env::args_os().collect();
    let global = words.get(..command_at(&commands(), &words)).unwrap_or_default();
    let settings = settings(global, &show.words)?;
    if json {
        for setting in &settings {
            output::json(setting)?;
        }
        return Ok(Exit::Ok);
    }
    let columns = [("SETTING", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)];
    let row = |one: &Setting| -> Vec<Cell> {
        let value = one.value.as_deref().unwrap_or("-");
        vec![one.setting.as_str().into(), safe(value, "").into(), safe(&one.from, "").into()]
    };
    output::block(&render(style, &columns, &settings.iter().map(row).collect::<Vec<_>>()))?;
    Ok(Exit::Ok)
}

/// The settings of the command that these words run. `global` is the beginning of the command line, with its global flags.
fn settings(global: &[OsString], words: &[String]) -> Result<Vec<Setting>, Failed> {
    let mut line = global.to_vec();
    if words.is_empty() {
        line.push(CLIENT.into());
    }
    line.extend(words.iter().map(OsString::from));
    let commands = commands();
    let completed = complete(line)?;
    let matches = lenient(&commands, &completed.words);
    let found = matches.as_ref().and_then(ArgMatches::subcommand);
    let found = found.and_then(|(name, matches)| Some((commands.find_subcommand(name)?, matches)));
    let Some((command, matches)) = found else {
        let what = format!("{:?} is no command", words.join(" "));
        return Err(Failed::new(Exit::Usage, what, "conclave --help lists the commands"));
    };
    let mut settings: Vec<Setting> = command
        .get_arguments()
        .filter(|arg| is_setting(command, arg))
        .filter_map(|arg| setting(arg, matches, &completed))
        .collect();
    settings.sort_by(|a, b| a.setting.cmp(&b.setting));
    Ok(settings)
}

fn setting(arg: &Arg, matches: &ArgMatches, completed: &Completed) -> Option<Setting> {
    let (long, id) = (arg.get_long()?, arg.get_id().as_str());
    let values: Vec<_> =
        matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy()).collect();
    let is_given = |source| matches!(source, ValueSource::CommandLine | ValueSource::EnvVariable);
    let source = matches.value_source(id);
    let hidden = SECRET.iter().any(|part| long.contains(part)) && source.is_some_and(is_given);
    let value = (!values.is_empty()).then(|| if hidden { HIDDEN.to_owned() } else { values.join(",") });
    let from = match source {
        Some(ValueSource::CommandLine) if completed.from_file.contains(long) => {
            completed.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default()
        }
        Some(ValueSource::CommandLine) => "flag".to_owned(),
        Some(ValueSource::EnvVariable) => {
            arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        _ => "default".to_owned(),
    };
    Some(Setting { setting: long.to_owned(), value, from })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_says_where_it_comes_from_and_secrets_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("n1.toml");
        std::fs::write(&file, "timing = \"wan\"\nsecret-file = \"/run/secret\"\ntimeout = \"3s\"\n").unwrap();
        let global = ["conclave", "--json", "--config", file.to_str().unwrap()].map(OsString::from);
        let all = settings(&global, &["server".to_owned(), "--shards".to_owned(), "4".to_owned()]).unwrap();
        let of = |name: &str| {
            let found = all.iter().find(|one| one.setting == name).unwrap();
            (found.value.clone().unwrap_or_default(), found.from.clone())
        };
        let path = file.display().to_string();
        assert_eq!(of("shards"), ("4".to_owned(), "flag".to_owned()));
        assert_eq!(of("timing"), ("wan".to_owned(), path.clone()));
        assert_eq!(of("secret-file"), (HIDDEN.to_owned(), path.clone()));
        assert_eq!(of("timeout"), ("3s".to_owned(), path));
        assert_eq!(of("cluster"), ("conclave".to_owned(), "default".to_owned()));
        assert_eq!(of("tls-key"), (String::new(), "default".to_owned()), "there is no secret");

        let shared = settings(&global[..1], &[]).unwrap();
        assert!(shared.iter().any(|one| one.setting == "server"));
        assert!(!shared.iter().any(|one| one.setting == "shards" || one.setting == "config"));
        assert_eq!(settings(&global[..1], &["nothing".to_owned()]).unwrap_err().exit, Exit::Usage);
    }
}
