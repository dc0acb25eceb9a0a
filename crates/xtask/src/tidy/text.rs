//! Length, links, limits and words.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::Source;

/// Files that are too long.
pub(super) fn check_length(sources: &[Source], max: usize) -> Vec<String> {
    let long =
        sources.iter().map(|source| (source, source.text.lines().count())).filter(|(_, lines)| *lines > max);
    long.map(|(source, lines)| {
        format!("length: {} has {lines} lines, more than {max}", source.path.display())
    })
    .collect()
}

/// Relative links that lead nowhere.
pub(super) fn check_links(documents: &[Source]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut findings = Vec::new();
    for document in documents {
        for target in links(&document.text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
            let folder = document.path.parent().unwrap_or(Path::new(""));
            let path = if file.is_empty() { document.path.clone() } else { normal(&folder.join(file)) };
            let heading_is_there = || {
                let known = documents.iter().find(|other| other.path == path);
                known.is_none_or(|known| headings(&known.text).contains(anchor))
            };
            if !root.join(&path).exists() {
                findings.push(format!(
                    "links: {} links to {target}, which is not there",
                    document.path.display()
                ));
            } else if !anchor.is_empty() && !heading_is_there() {
                findings.push(format!(
                    "links: {} links to {target}, which has no such heading",
                    document.path.display()
                ));
            }
        }
    }
    findings
}

/// The targets of `[…](target)` outside of code, but for other sites.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split([')', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.to_owned());
            }
        }
    }
    found
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The anchors of a document's headings, as the usual renderers make them.
fn headings(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    lines.map(anchor).collect()
}

/// Constants of a `limits.rs` without a word about what they bound.
pub(super) fn check_limits(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with("limits.rs")) {
        let mut before = "";
        for line in source.text.lines() {
            let constant = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            let name = constant
                .strip_prefix("const ")
                .and_then(|rest| rest.split(':').next())
                .filter(|name| *name != "_");
            if let Some(name) = name
                && !before.starts_with("///")
                && !before.starts_with("#[")
            {
                findings.push(format!("limits: {} does not say what {name} bounds", source.path.display()));
            }
            before = line.trim();
        }
    }
    findings
}

/// What CONTRIBUTING.md rules out, and what to write instead. Searched in comments, doc comments and log lines; lower case.
const WORDS: [(&str, &str); 7] = [
    ("so long", "this long"),
    ("so many", "this many"),
    ("so much", "this much"),
    ("so often", "this often"),
    ("with leave", "with permission"),
    ("broken on purpose", "fault injection"),
    ("goes on without", "continues without"),
];

/// Words of the list, where they stand for themselves.
pub(super) fn check_words(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    // The list itself is not a use of its words.
    for source in sources.iter().filter(|source| !source.path.starts_with("crates/xtask/src/tidy")) {
        for (number, line) in source.text.lines().enumerate() {
            let lower = line.to_lowercase();
            for (word, instead) in WORDS {
                // "so long as" and "so much that" are English.
                let used = lower.match_indices(word).any(|(at, _)| {
                    let behind = lower[at + word.len()..].trim_start();
                    let before = lower[..at].chars().next_back();
                    !behind.starts_with("as ")
                        && !behind.starts_with("that ")
                        && !before.is_some_and(char::is_alphanumeric)
                });
                if used {
                    let place = format!("{}:{}", source.path.display(), number + 1);
                    findings.push(format!(
                        "words: {place} says {word:?}; write {instead:?}, see CONTRIBUTING.md"
                    ));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned() }
    }

    #[test]
    fn a_file_that_is_too_long_is_found() {
        assert!(check_length(&[source("a.rs", "x\nx\n")], 2).is_empty());
        assert_eq!(check_length(&[source("a.rs", "x\nx\nx\n")], 2).len(), 1);
    }

    #[test]
    fn links_to_missing_files_and_headings_are_found() {
        let page = |text: &str| [source("README.md", text)];
        assert!(
            check_links(&page("# A b!\n[x](#a-b) [y](docs/api.md) [z](https://example.org/no)")).is_empty()
        );
        assert_eq!(check_links(&page("[x](docs/nothing.md)")).len(), 1);
        assert_eq!(check_links(&page("# A\n[x](#b)")).len(), 1);
        assert!(check_links(&page("```\n[x](docs/nothing.md)\n```")).is_empty());
    }

    #[test]
    fn a_limit_without_a_reason_is_found() {
        let limits = |text: &str| [source("crates/x/src/limits.rs", text)];
        assert!(
            check_limits(&limits("/// Rooms.\npub const A: u32 = 1;\nconst _: () = assert!(true);"))
                .is_empty()
        );
        assert_eq!(check_limits(&limits("pub(crate) const A: u32 = 1;")).len(), 1);
    }

    #[test]
    fn a_word_of_the_list_is_found_and_proper_english_is_not() {
        let code = |text: &str| [source("crates/x/src/a.rs", text)];
        assert_eq!(check_words(&code("/// A node waits so long.")).len(), 1);
        assert!(
            check_words(&code("// as long as it runs; so long as it runs; so much that it fails; also many"))
                .is_empty()
        );
    }
}
