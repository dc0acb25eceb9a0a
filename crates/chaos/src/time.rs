//! Durations as experiments write them.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::SpanPrinter;
use serde::{Deserialize, Deserializer, Serializer, de};

/// Reads jiff's "friendly" format, such as `250ms`, `10s`, `2m`, `1h30m` or `1.5s`: whole milliseconds, not negative.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration of whole milliseconds; write for example 250ms, 10s or 1h30m");
    let read = text.parse::<SignedDuration>().ok().and_then(|read| Duration::try_from(read).ok());
    let read = read.ok_or_else(wrong)?;
    // What is shown, and written to a journal, has milliseconds: a finer duration would not be read back as it was.
    let millis = u64::try_from(read.as_millis()).map_err(|_| wrong())?;
    if Duration::from_millis(millis) == read { Ok(read) } else { Err(wrong()) }
}

/// A duration in the same format, such as `1m 30s`: [`parse`] gives it back.
#[must_use]
pub fn show(duration: Duration) -> String {
    const PRINTER: SpanPrinter = SpanPrinter::new();
    PRINTER.unsigned_duration_to_string(&duration)
}

/// Wall time in milliseconds since 1970. For people only: it orders and decides nothing.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place where this crate reads wall time")]
pub fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// For `#[serde(with = "time")]`.
///
/// # Errors
/// As [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(from)?).map_err(de::Error::custom)
}

/// For `#[serde(with = "time")]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&show(*duration))
}

/// A duration where serde needs a type instead of a `with` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(#[serde(with = "crate::time")] pub Duration);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_duration_is_read_back() {
        for text in ["0s", "250ms", "10s", "2m", "1m 30s", "1s 500ms", "2h", "48h"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(show(parse("1000ms").unwrap()), "1s");
        assert_eq!(show(parse("90s").unwrap()), "1m 30s");
    }

    #[test]
    fn anything_but_whole_milliseconds_is_an_error() {
        for bad in ["", "s", "10", "-1s", "1s ago", "10d", "500us", "1.0005s", "99999999999999999999s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        // The longest number of seconds that jiff reads is more than the milliseconds that fit in 64 bits.
        assert!(parse("9223372036854775807s").is_err());
    }

    #[test]
    fn units_may_be_combined_and_have_fractions() {
        for (text, millis) in
            [("1h30m", 5_400_000), ("1m 30s", 90_000), ("1.5s", 1_500), ("2 hours", 7_200_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }
}
