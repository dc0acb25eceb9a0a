//! Writes data to stdout, line by line, and everything else to stderr.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;
use rustix::termios::tcgetwinsize;
use serde::Serialize;

use crate::exit::{Failed, JsonError, is_broken_pipe};

/// The width of a terminal that does not tell it, columns.
const COLUMNS: usize = 80;

/// Writes one line of data and flushes it, so that the reader of a pipe gets it at once.
///
/// # Errors
/// If stdout is closed, which ends the command without a message.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    // Notes that were made before appear before.
    conclave_telemetry::log::finish();
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .context("write to stdout")
}

/// Writes one JSON object on one line.
///
/// # Errors
/// As [`line()`].
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&harmless(&serde_json::to_string(value).context("failed to encode the output")?))
}

/// JSON in which no text of other people can command a terminal: control characters and overrides of the writing direction
/// are escaped. The values stay the same.
pub(crate) fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

/// Writes what a command has done: one line, or one JSON object. What became of the work decides the exit code, so a failure
/// to write is only a note, and none at all if nobody reads.
pub(crate) fn done<T: Serialize>(as_json: bool, value: &T, text: &str) {
    let written = if as_json { json(value) } else { line(text) };
    if let Err(failed) = written
        && !is_broken_pipe(&failed)
    {
        error(&format!("conclave: it is done, but the output cannot be written: {failed:#}"));
    }
}

/// Writes text of one or more lines that ends with a line feed.
///
/// # Errors
/// As [`line()`].
pub(crate) fn block(text: &str) -> anyhow::Result<()> {
    conclave_telemetry::log::finish();
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}

/// Writes a note to stderr unless `quiet`. A closed stderr is ignored.
pub(crate) fn note(quiet: bool, text: &str) {
    if !quiet {
        error(text);
    }
}

/// Writes an error and its advice to stderr, also with `--quiet`: for people, or as one JSON object.
pub(crate) fn failure(as_json: bool, failed: &anyhow::Error) {
    if as_json {
        json_error(&JsonError::of(failed));
    } else {
        error(&format!("conclave: {failed:#}"));
    }
}

/// Writes an error that does not end the command, about a line of input if one is given.
pub(crate) fn passed_over(as_json: bool, line: Option<u64>, failed: &Failed) {
    match (as_json, line) {
        (true, _) => json_error(&JsonError::of_failed(failed, line)),
        (false, Some(line)) => error(&format!("conclave: line {line}: {}", failed.what)),
        (false, None) => error(&format!("conclave: {}", failed.what)),
    }
}

fn json_error(value: &JsonError) {
    // Strings and numbers: nothing that cannot be encoded.
    if let Ok(json) = serde_json::to_string(value) {
        error(&harmless(&json));
    }
}

/// The width of a page of output, columns: that of the terminal, or what COLUMNS says, as `watch` sets it. A pipe or file has
/// none.
pub(crate) fn columns() -> Option<usize> {
    let given = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|columns| *columns > 0);
    io::stdout().is_terminal().then(terminal_columns).or_else(given)
}

/// The width of the terminal at stdout, columns.
pub(crate) fn terminal_columns() -> usize {
    // A terminal may report a width of 0.
    let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

/// Writes an error to stderr, also with `--quiet`.
pub(crate) fn error(text: &str) {
    conclave_telemetry::log::say(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_no_character_that_commands_a_terminal_and_keeps_its_values() {
        let text = "a\x1b[2J\u{9b}2J\u{9d}\u{7f}\u{85}\u{202e}\u{2066}\u{2028}é日";
        let json = harmless(&serde_json::to_string(text).unwrap());
        assert!(
            !json.chars().any(|c| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}')),
            "{json:?}"
        );
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        assert!(json.contains("é日"));
    }
}
