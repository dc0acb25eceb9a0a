//! Where text goes: data to stdout, line by line; everything else to stderr.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;

/// Writes one line of data. Stdout is line buffered, so that a reader at the other end of a pipe sees it now.
///
/// # Errors
/// If nobody reads any more, which ends the command quietly.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
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
    line(&serde_json::to_string(value).context("encode the output")?)
}

/// Writes text that may have several lines and already ends with one.
///
/// # Errors
/// As [`line()`].
pub(crate) fn block(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}

/// Tells the person something that is not data. A closed stderr is no reason to stop.
pub(crate) fn note(quiet: bool, text: &str) {
    if !quiet {
        error(text);
    }
}

/// Tells the person what went wrong, also when they asked for quiet.
pub(crate) fn error(text: &str) {
    let mut stderr = io::stderr().lock();
    // There is nobody left to tell.
    let _ = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
}
