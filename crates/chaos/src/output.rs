//! What the program prints.

use std::io::Write as _;

/// Prints a line on stdout.
pub(crate) fn say(text: &str) {
    // A closed pipe is no error: the reader wants no more.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line on stderr.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
