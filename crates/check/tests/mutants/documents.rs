//! A guarantee has three things under one name: a row in `docs/guarantees.md`, a property, and tests.
//! These tests fail if one of them is missing.

use std::path::{Path, PathBuf};

use conclave_check::Property;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/guarantees.md")).unwrap()
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_property_has_two_rows_in_the_guarantees_page_and_a_source_file() {
    let page = page();
    for property in Property::every() {
        let name = property.name();
        assert_eq!(
            page.matches(&format!("\n| `{name}` |")).count(),
            2,
            "{name}: a row for what, and one for where"
        );
        let file = format!("crates/check/src/property/{name}.rs");
        assert!(root().join(&file).exists(), "{file}");
    }
    let named = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    for (name, _) in named {
        assert!(Property::named(name).is_some(), "{name} is not a property");
    }
}

#[test]
fn every_test_and_file_named_in_guarantees_exists() {
    let sources = sources(&root().join("crates"));
    let page = page();
    let (_, tables) = page.split_once("| Guarantee | In words").unwrap();
    let (tables, _) = tables.split_once("## When nodes are missing").unwrap();
    for word in quoted(tables) {
        let is_name = word.contains('_')
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let is_path = word.contains('/') && !word.contains(' ');
        if is_name && Property::named(word).is_none() {
            let here = |source: &String| source.contains(&format!("fn {word}("));
            assert!(sources.iter().any(here), "no test or function is called {word}");
        } else if is_path {
            let there = ["", "crates"].iter().any(|folder| root().join(folder).join(word).exists());
            assert!(there, "{word} is not there");
        } else if word.ends_with(".txt") {
            assert!(root().join("crates/core/tests/machine").join(word).exists(), "{word} is not there");
        }
    }
}

fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
    found
}
