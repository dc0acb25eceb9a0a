//! What the program prints.

use std::io::Write as _;

/// Prints a line on stdout.
pub(crate) fn print_line(text: &str) {
    // Lines that were printed on stderr before appear before.
    conclave_telemetry::log::finish();
    // A closed pipe is no error: the reader wants no more.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line on stderr.
pub(crate) fn print_error(text: &str) {
    conclave_telemetry::log::say(text);
}
