//! Names of rooms and users: short, ASCII, lower case, the same in a shell, a URL and a file name.

use crate::limits::{
    DIRECT_PEOPLE_MAX, REASON_BYTES_MAX, ROOM_NAME_BYTES_MAX, TEXT_BYTES_MAX, TOPIC_BYTES_MAX,
    USER_NAME_BYTES_MAX,
};
use crate::refusal::Refusal;

/// Accepts 1 to [`ROOM_NAME_BYTES_MAX`] of `a-z 0-9 . _ -`, beginning with a letter or digit.
///
/// # Errors
/// [`Refusal::RoomNameInvalid`] for everything else.
pub fn check_room_name(name: &str) -> Result<(), Refusal> {
    check(name, ROOM_NAME_BYTES_MAX).ok_or(Refusal::RoomNameInvalid)
}

/// Whether this is the name of a direct conversation: see [`crate::meta::direct_name`]. No room can be created under such a
/// name.
#[must_use]
pub fn is_direct_name(name: &str) -> bool {
    let Some(users) = name.strip_prefix(":d:") else { return false };
    let is_id = |id: &str| !id.is_empty() && id.len() <= 20 && id.bytes().all(|b| b.is_ascii_digit());
    users.split(':').all(is_id) && users.split(':').count() <= DIRECT_PEOPLE_MAX
}

/// Accepts 1 to [`USER_NAME_BYTES_MAX`] of `a-z 0-9 . _ -`, beginning with a letter or digit.
///
/// # Errors
/// [`Refusal::UserNameInvalid`] for everything else.
pub fn check_user_name(name: &str) -> Result<(), Refusal> {
    check(name, USER_NAME_BYTES_MAX).ok_or(Refusal::UserNameInvalid)
}

/// Names that would pass for a part of the system or for everybody. New accounts cannot have them. Part of feature
/// level 2: the list never changes.
const RESERVED: [&str; 24] = [
    "abuse",
    "admin",
    "administrator",
    "all",
    "anonymous",
    "bot",
    "channel",
    "conclave",
    "everybody",
    "everyone",
    "guest",
    "help",
    "here",
    "lobby",
    "me",
    "moderator",
    "nobody",
    "operator",
    "postmaster",
    "root",
    "security",
    "server",
    "support",
    "system",
];

/// Whether no new account can have this name, nor one that looks like it.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    let name = folded(name);
    RESERVED.iter().any(|reserved| folded(reserved) == name)
}

/// The form in which names that look alike are the same: `0` is `o`, `1` and `i` are `l`, `rn` is `m`, and `-`, `_` and
/// `.` are dropped. Part of feature level 2: the rule never changes.
#[must_use]
pub fn folded(name: &str) -> String {
    let letters = name.bytes().filter(|byte| !matches!(byte, b'-' | b'_' | b'.'));
    let letters = letters.map(|byte| match byte {
        b'0' => 'o',
        b'1' | b'i' => 'l',
        other => char::from(other),
    });
    letters.collect::<String>().replace("rn", "m")
}

/// Accepts 1 to [`TEXT_BYTES_MAX`] bytes.
///
/// # Errors
/// [`Refusal::TextEmpty`] or [`Refusal::TextTooLong`].
pub fn check_text(text: &str) -> Result<(), Refusal> {
    match text.len() {
        0 => Err(Refusal::TextEmpty),
        1..=TEXT_BYTES_MAX => Ok(()),
        _ => Err(Refusal::TextTooLong),
    }
}

/// Accepts up to [`TOPIC_BYTES_MAX`] bytes on one line.
///
/// # Errors
/// [`Refusal::TopicInvalid`].
pub fn check_topic(topic: &str) -> Result<(), Refusal> {
    if topic.len() <= TOPIC_BYTES_MAX && !topic.contains(char::is_control) {
        Ok(())
    } else {
        Err(Refusal::TopicInvalid)
    }
}

/// Accepts up to [`REASON_BYTES_MAX`] bytes on one line.
///
/// # Errors
/// [`Refusal::ReasonInvalid`].
pub fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.len() <= REASON_BYTES_MAX && !reason.contains(char::is_control) {
        Ok(())
    } else {
        Err(Refusal::ReasonInvalid)
    }
}

fn check(name: &str, bytes_max: usize) -> Option<()> {
    let first = name.bytes().next()?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let fits = name.len() <= bytes_max
        && (first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.bytes().all(allowed);
    fits.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "general", "ops-2", "r.1_x", "0", &"x".repeat(64)] {
            assert_eq!(check_room_name(good), Ok(()), "{good}");
        }
        for bad in ["", "General", "#general", "-x", ".hidden", "ä", "a b", "a/b", "a\n", &"x".repeat(65)] {
            assert_eq!(check_room_name(bad), Err(Refusal::RoomNameInvalid), "{bad:?}");
        }
        assert_eq!(check_user_name(&"x".repeat(33)), Err(Refusal::UserNameInvalid));
    }

    #[test]
    fn names_that_look_alike_have_one_folded_form() {
        for (a, b) in
            [("anna", "an-na"), ("bill", "b1ll"), ("bill", "bi11"), ("oscar", "0scar"), ("tom", "torn")]
        {
            assert_eq!(folded(a), folded(b), "{a} and {b}");
        }
        for (a, b) in [("ana", "anna"), ("bo", "bob"), ("kim", "tim")] {
            assert_ne!(folded(a), folded(b), "{a} and {b}");
        }
        for reserved in ["admin", "adm1n", "a.d.m.i.n", "adrnin", "r00t", "lobby", "system", "all"] {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for free in ["ana", "administration", "rooter"] {
            assert!(!is_reserved(free), "{free}");
        }
    }

    #[test]
    fn text_is_bounded_in_bytes_not_characters() {
        assert_eq!(check_text(""), Err(Refusal::TextEmpty));
        assert_eq!(check_text(&"x".repeat(TEXT_BYTES_MAX)), Ok(()));
        assert_eq!(check_text(&"ä".repeat(TEXT_BYTES_MAX / 2 + 1)), Err(Refusal::TextTooLong));
        assert_eq!(check_topic("two\nlines"), Err(Refusal::TopicInvalid));
    }
}
