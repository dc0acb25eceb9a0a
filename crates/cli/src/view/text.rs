//! Formats untrusted text, numbers and times.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::UnicodeWidthChar as _;

/// Makes text of other users safe to print: it cannot move the cursor, or change the title or the clipboard of the
/// reader's terminal. Further lines are indented.
pub(crate) fn safe(text: &str, indent: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end_matches(['\n', '\r']).chars() {
        match c {
            '\n' => {
                out.push('\n');
                out.push_str(indent);
            }
            '\t' => out.push_str("    "),
            '\r' => {}
            // Characters that override the writing direction can disguise a text.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Columns that the text takes in a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The parts on lines of at most this many columns, with `between` between two parts of a line and `indent` before further
/// lines. `None` is one line. Colours do not count as width.
pub(crate) fn flow<'a>(
    parts: impl Iterator<Item = &'a str>,
    between: &str,
    indent: &str,
    within: Option<usize>,
) -> String {
    let mut out = String::new();
    let mut column = 0;
    for (index, part) in parts.enumerate() {
        let taken = width(&uncoloured(part));
        if index > 0 {
            if within.is_some_and(|within| column + between.len() + taken > within) {
                out.push('\n');
                out.push_str(indent);
                column = indent.len();
            } else {
                out.push_str(between);
                column += between.len();
            }
        }
        out.push_str(part);
        column += taken;
    }
    out
}

/// The text without the colours of [`super::paint`].
pub(super) fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.split_once('m').map_or(part, |(_, text)| text))
}

/// `1204551` as `1,204,551`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count and its noun: `1 message`, `3 messages`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// The age of something: `12d`, `3h`, `5m`, `41s`.
pub(crate) fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The duration of something: `0.03 s`, `12 s`, `2m 5s`.
pub(crate) fn took(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.2} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{}m {}s", seconds / 60, seconds % 60),
    }
}

/// `850 µs` or `3.1 ms`.
pub(crate) fn micros(micros: u32, unicode: bool) -> String {
    match micros {
        0 => "-".to_owned(),
        1..1000 if unicode => format!("{micros} µs"),
        1..1000 => format!("{micros} us"),
        _ => format!("{:.1} ms", f64::from(micros) / 1000.0),
    }
}

/// The bound of a duration: `≤ 850 µs` or `≤ 2.5 ms`.
pub(crate) fn at_most(micros: u32, unicode: bool) -> String {
    let sign = if unicode { "≤" } else { "<=" };
    match micros {
        0 => "-".to_owned(),
        1..1000 => format!("{sign} {micros} {}", if unicode { "µs" } else { "us" }),
        _ => format!("{sign} {} ms", f64::from(micros) / 1000.0),
    }
}

/// `12.3 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in units {
        if bytes >> shift > 0 {
            // Tenths in integer arithmetic, rounded down.
            let tenths = (bytes >> (shift - 10)) * 10 / 1024;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// The time of day, with the date if it was not today.
pub(crate) fn clock(time_ms: i64, now_ms: i64, zone: &TimeZone) -> String {
    let at = |ms: i64| Timestamp::from_millisecond(ms).ok().map(|stamp| stamp.to_zoned(zone.clone()));
    let (Some(time), Some(now)) = (at(time_ms), at(now_ms)) else { return "??:??:??".to_owned() };
    let format = if time.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    time.strftime(format).to_string()
}

/// RFC 3339 in UTC, with milliseconds: for programs.
pub(crate) fn stamp(time_ms: i64) -> String {
    Timestamp::from_millisecond(time_ms).map_or_else(|_| String::new(), |stamp| format!("{stamp:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_cannot_control_the_terminal() {
        assert_eq!(safe("a\x1b[2Jb\x07\u{9b}c", ""), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(safe("one\r\ntwo\n", "  "), "one\n  two");
        assert_eq!(safe("x\u{202e}txt.exe", ""), "x\u{fffd}txt.exe");
        assert_eq!(safe("日本 👍🏽 é", ""), "日本 👍🏽 é");
    }

    #[test]
    fn parts_flow_to_the_width_without_counting_colours() {
        let parts = ["\x1b[1mone\x1b[0m", "two", "three"];
        let within = |columns| flow(parts.into_iter(), "  ", "  ", columns);
        assert_eq!(within(None), "\x1b[1mone\x1b[0m  two  three");
        assert_eq!(within(Some(15)), within(None));
        assert_eq!(within(Some(14)), "\x1b[1mone\x1b[0m  two\n  three");
        assert_eq!(within(Some(1)), "\x1b[1mone\x1b[0m\n  two\n  three");
    }

    #[test]
    fn the_bound_of_a_bucket_is_no_measurement() {
        assert_eq!([at_most(250_000, true), at_most(2_500, false)], ["≤ 250 ms", "<= 2.5 ms"]);
        assert_eq!([at_most(500, true), at_most(0, true)], ["≤ 500 µs", "-"]);
    }

    #[test]
    fn wide_characters_are_wide() {
        assert_eq!(width("abc"), 3);
        assert_eq!(width("日本"), 4);
        assert_eq!(width("é"), 1);
    }

    #[test]
    fn numbers() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_204_551), "1,204,551");
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(2_000, "message"), "2,000 messages");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(32 << 20), "32.0 MiB");
        assert_eq!(micros(0, true), "-");
        assert_eq!(micros(850, true), "850 µs");
        assert_eq!(micros(3_140, true), "3.1 ms");
    }

    #[test]
    fn durations() {
        assert_eq!(age(41_900), "41s");
        assert_eq!(age(3 * 3_600_000), "3h");
        assert_eq!(age(12 * 86_400_000), "12d");
        assert_eq!(took(Duration::from_millis(31)), "0.03 s");
        assert_eq!(took(Duration::from_secs(125)), "2m 5s");
    }

    #[test]
    fn times() {
        let day = 86_400_000;
        let noon = 20_000 * day + day / 2;
        assert_eq!(clock(noon, noon + 5, &TimeZone::UTC), "12:00:00");
        assert_eq!(clock(noon - day, noon, &TimeZone::UTC), "2024-10-03 12:00:00");
        assert_eq!(clock(i64::MAX, noon, &TimeZone::UTC), "??:??:??");
        assert_eq!(stamp(noon + 7), "2024-10-04T12:00:00.007Z");
    }
}
