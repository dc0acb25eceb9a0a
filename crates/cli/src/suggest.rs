//! Finds the nearest word, for "did you mean …?", and says what is wrong with a command line.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use strsim::osa_distance;

use crate::exit::{Exit, Failed};

/// Commands that people look for and that do not exist yet. The nearest command is no help to them.
const PLANNED: [&str; 9] = ["backup", "delete", "dm", "edit", "msg", "react", "restore", "search", "upload"];

/// The command that was asked for, if it does not exist yet.
fn planned(error: &clap::Error) -> Option<&str> {
    match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) => {
            PLANNED.contains(&word.as_str()).then_some(word)
        }
        _ => None,
    }
}

/// Whether the command line asks for a command that does not exist yet.
pub(crate) fn is_planned(error: &clap::Error) -> bool {
    planned(error).is_some()
}

/// What is wrong with the command line; `None` if help was asked for.
pub(crate) fn usage(error: &clap::Error) -> Option<Failed> {
    if !error.use_stderr() {
        return None;
    }
    if let Some(word) = planned(error) {
        let next = "`conclave --help` lists the commands, CHANGELOG.md says what is not there yet";
        return Some(Failed::new(Exit::Usage, format!("there is no command {word} yet"), next));
    }
    // The first paragraph is what is wrong; tips and the usage follow.
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let what = lines.collect::<Vec<_>>().join(" ");
    Some(Failed::new(Exit::Usage, what.trim_start_matches("error: "), "conclave --help"))
}

/// The candidate nearest to `word`, if its distance is small enough.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = |candidate: &&&str| {
        let begins = word.len() >= 2 && candidate.starts_with(word.as_str());
        let distance = if begins { 1 } else { osa_distance(&word, candidate) };
        (distance <= 1 + word.chars().count() / 4).then_some(distance)
    };
    candidates.iter().filter_map(|c| near(&c).map(|d| (d, *c))).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

    #[test]
    fn a_command_that_does_not_exist_yet_is_no_typing_error() {
        let wrong = |words: &[&str]| Args::try_parse_from(words).unwrap_err();
        let upload = wrong(&["conclave", "upload"]);
        assert!(is_planned(&upload));
        assert_eq!(usage(&upload).unwrap().what, "there is no command upload yet");
        let typed = wrong(&["conclave", "statsu"]);
        assert!(!is_planned(&typed));
        let failed = usage(&typed).unwrap();
        assert_eq!((failed.exit, failed.what.as_str()), (Exit::Usage, "unrecognized subcommand 'statsu'"));
        assert_eq!(usage(&wrong(&["conclave", "--help"])), None);
    }

    #[test]
    fn near_words_are_found() {
        let words = ["join", "leave", "rooms", "history", "status", "topic", "quit", "help"];
        assert_eq!(nearest("jion", &words), Some("join"));
        assert_eq!(nearest("QUIT", &words), Some("quit"));
        assert_eq!(nearest("hist", &words), Some("history"));
        assert_eq!(nearest("romms", &words), Some("rooms"));
        assert_eq!(nearest("part", &words), None);
        assert_eq!(nearest("ab", &["ba"]), Some("ba"), "a swap of neighbours is one step");
        assert_eq!(nearest("", &words), None);
    }
}
