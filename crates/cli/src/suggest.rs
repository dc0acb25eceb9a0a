//! Finds the nearest word, for "did you mean …?".

use strsim::osa_distance;

/// The candidate nearest to `word`, if its distance is small enough.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = |candidate: &&&str| {
        let begins = word.len() >= 2 && candidate.starts_with(word.as_str());
        let distance = if begins { 1 } else { osa_distance(&word, candidate) };
        (distance <= 1 + word.chars().count() / 4).then_some(distance)
    };
    candidates.iter().filter_map(|c| near(&c).map(|d| (d, *c))).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found() {
        let words = ["join", "leave", "rooms", "history", "status", "topic", "quit", "help"];
        assert_eq!(nearest("jion", &words), Some("join"));
        assert_eq!(nearest("QUIT", &words), Some("quit"));
        assert_eq!(nearest("hist", &words), Some("history"));
        assert_eq!(nearest("romms", &words), Some("rooms"));
        assert_eq!(nearest("part", &words), None);
        assert_eq!(nearest("ab", &["ba"]), Some("ba"), "a swap of neighbours is one step");
        assert_eq!(nearest("", &words), None);
    }
}
