//! Writes data to stdout, line by line, and everything else to stderr.

use std::io::{self, Write};

use anyhow::Context as _;
use serde::Serialize;

/// Writes one line of data and flushes it, so that the reader of a pipe gets it at once.
///
/// # Errors
/// If stdout is closed, which ends the command without a message.
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
    line(&serde_json::to_string(value).context("failed to encode the output")?)
}

/// Writes text of one or more lines that ends with a line feed.
///
/// # Errors
/// As [`line()`].
pub(crate) fn block(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}

/// Writes a note to stderr unless `quiet`. A closed stderr is ignored.
pub(crate) fn note(quiet: bool, text: &str) {
    if !quiet {
        error(text);
    }
}

/// Writes an error to stderr, also with `--quiet`.
pub(crate) fn error(text: &str) {
    let mut stderr = io::stderr().lock();
    // A closed stderr cannot be reported anywhere.
    let _ = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
}
