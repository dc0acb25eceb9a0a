//! Reads lines from stdin with bounded memory and without blocking the runtime.

use std::io::{self, BufRead, BufReader, Read};

use conclave_core::limits::TEXT_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};

use crate::limits::CLI_LINES_AHEAD_MAX;

/// A line of stdin, or why it cannot be a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Without its line feed.
    Text(String),
    /// Longer than a message may be. The rest of the line was skipped.
    TooLong,
    /// Not UTF-8.
    NotText,
}

/// Reads stdin on a separate thread: a read from a terminal or pipe cannot be cancelled, and the runtime would wait for
/// it at shutdown. The thread ends with stdin or with the process.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn stdin_lines() -> io::Result<mpsc::Receiver<io::Result<Line>>> {
    let (sender, receiver) = mpsc::channel(CLI_LINES_AHEAD_MAX);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut input = BufReader::new(io::stdin());
        while let Some(line) = next_line(&mut input).transpose() {
            let stop = line.is_err();
            if sender.blocking_send(line).is_err() || stop {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The next line; `None` at the end.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    // One byte more than allowed, and the line ending.
    let most = TEXT_BYTES_MAX as u64 + 3;
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let complete = line.last() == Some(&b'\n');
    if complete {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 == most {
        input.skip_until(b'\n')?;
    }
    if line.len() > TEXT_BYTES_MAX {
        return Ok(Some(Line::TooLong));
    }
    Ok(Some(String::from_utf8(line).map_or(Line::NotText, Line::Text)))
}

/// Returns a receiver that closes when stdin ends. Reads on a separate thread, for the same reason as [`stdin_lines`].
///
/// # Errors
/// If no thread can be started.
pub(crate) fn stdin_closed() -> io::Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut ignored = [0; 64];
        // An error counts as the end.
        while stdin.read(&mut ignored).is_ok_and(|read| read > 0) {}
        drop(sender);
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut input: &[u8]) -> Vec<Line> {
        std::iter::from_fn(|| next_line(&mut input).unwrap()).collect()
    }

    fn text(text: &str) -> Line {
        Line::Text(text.to_owned())
    }

    #[test]
    fn lines_may_end_with_lf_or_crlf_or_nothing() {
        assert_eq!(lines(b"a\nb\r\n\nc"), [text("a"), text("b"), text(""), text("c")]);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_next_one_is_read() {
        let fits = "x".repeat(TEXT_BYTES_MAX);
        for extra in [1, 2, 3, 4, 100_000] {
            let input = format!("{fits}{}\nnext\n", "y".repeat(extra));
            assert_eq!(lines(input.as_bytes()), [Line::TooLong, text("next")], "{extra}");
        }
        assert_eq!(lines(format!("{fits}\r\nnext").as_bytes()), [text(&fits), text("next")]);
    }

    #[test]
    fn a_line_that_is_not_utf8_is_reported() {
        assert_eq!(lines(b"\xff\xfe\nok\n"), [Line::NotText, text("ok")]);
    }
}
