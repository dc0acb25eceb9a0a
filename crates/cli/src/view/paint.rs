//! Colours and signs. The meaning never depends on colour alone.

use crate::settings::Style;

/// The role of a piece of text, which determines its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Less important.
    Dim,
    /// More important.
    Bold,
    /// All is well.
    Good,
    /// A warning.
    Warn,
    /// An error.
    Bad,
    /// A user's name, in the user's own colour.
    Person(u64),
}

/// The text in its colour, or unchanged without colours.
pub(crate) fn paint(style: Style, ink: Ink, text: &str) -> String {
    if !style.color || text.is_empty() {
        return text.to_owned();
    }
    let code = match ink {
        Ink::Dim => "2",
        Ink::Bold => "1",
        Ink::Good => "32",
        Ink::Warn => "33",
        Ink::Bad => "31",
        // Not red, green or yellow, which have a meaning.
        Ink::Person(id) => ["34", "35", "36", "94", "95", "96"][usize::try_from(id % 6).unwrap_or(0)],
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The state of the user's own message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// In the outbox of this machine.
    Queued,
    /// On disk at a majority.
    Committed,
    /// Refused.
    Failed,
}

/// The sign of a state; the signs differ in shape and not only in colour.
pub(crate) fn tick(style: Style, tick: Tick) -> String {
    let (unicode, ascii, ink) = match tick {
        Tick::Queued => ("◷", ".", Ink::Warn),
        Tick::Committed => ("✓", "v", Ink::Good),
        Tick::Failed => ("✗", "x", Ink::Bad),
    };
    paint(style, ink, if style.unicode { unicode } else { ascii })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_stays_plain() {
        let plain = Style::default();
        assert_eq!(paint(plain, Ink::Bad, "x"), "x");
        let signs = [Tick::Queued, Tick::Committed, Tick::Failed].map(|t| tick(plain, t));
        assert_eq!(signs, [".", "v", "x"]);
    }

    #[test]
    fn queued_committed_and_failed_ticks_differ_in_shape_and_colour() {
        let style = Style { color: true, unicode: true };
        assert_eq!(tick(style, Tick::Queued), "\x1b[33m◷\x1b[0m");
        assert_eq!(tick(style, Tick::Committed), "\x1b[32m✓\x1b[0m");
        assert_eq!(tick(style, Tick::Failed), "\x1b[31m✗\x1b[0m");
    }
}
