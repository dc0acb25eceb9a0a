//! "Did you mean …?"

/// The candidate that is nearest to `word`, if one is near.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = |candidate: &&&str| {
        let begins = word.len() >= 2 && candidate.starts_with(word.as_str());
        let distance = if begins { 1 } else { distance(&word, candidate) };
        (distance <= 1 + word.chars().count() / 4).then_some(distance)
    };
    candidates.iter().filter_map(|c| near(&c).map(|d| (d, *c))).min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
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
        assert_eq!(nearest("", &words), None);
    }

    #[test]
    fn swapped_neighbours_are_one_step() {
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
