//! Which file of a crate imports which: floors (layers, in ARCHITECTURE.md) and circles (import cycles).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Source;

/// A file of a crate and the files of the same crate that its product code names.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The floors of `crates/server`: the table of ARCHITECTURE.md whose rows are `| 7 | ``cluster/`` | … |`. The number and the
/// first part of the module's path.
pub(super) fn floors(architecture: &str) -> Vec<(u32, String)> {
    let rows = architecture.lines().filter_map(|line| {
        let mut cells = line.trim().strip_prefix('|')?.split('|').map(str::trim);
        let floor = cells.next()?.parse().ok()?;
        let module = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((floor, module.trim_end_matches('/').trim_end_matches(".rs").to_owned()))
    });
    let table = architecture.lines().position(|line| line.starts_with("| Floor |"));
    // The rows of other tables begin with a number, too.
    let Some(table) = table else { return Vec::new() };
    let before = architecture.lines().take(table).filter(|line| is_row(line)).count();
    let length =
        architecture.lines().skip(table).take_while(|line| line.starts_with('|')).filter(|line| is_row(line));
    rows.skip(before).take(length.count()).collect()
}

fn is_row(line: &str) -> bool {
    let mut cells = line.trim().split('|').map(str::trim).skip(1);
    cells.next().is_some_and(|cell| cell.parse::<u32>().is_ok())
        && cells.next().is_some_and(|cell| cell.starts_with('`') && cell.ends_with('`'))
}

/// Modules of the server that use a module on their own floor or above.
pub(super) fn check_floors(sources: &[Source], floors: &[(u32, String)]) -> Vec<String> {
    let mut findings = Vec::new();
    if floors.is_empty() {
        findings.push("floors: ARCHITECTURE.md has no table of floors".to_owned());
    }
    let graph = graph_of(sources, "crates/server/src");
    let floor_of = |module: &str| {
        let first = module.split("::").next().unwrap_or(module);
        floors.iter().find(|(_, name)| name == first).map(|(floor, name)| (*floor, name.as_str()))
    };
    for (from, uses) in &graph {
        let Some((floor, name)) = floor_of(from) else {
            findings.push(format!("floors: ARCHITECTURE.md gives crates/server/src/{from} no floor"));
            continue;
        };
        for to in uses {
            let Some((below, other)) = floor_of(to) else { continue };
            if name != other && below >= floor {
                findings.push(format!("floors: {from} (floor {floor}) uses {to} (floor {below})"));
            }
        }
    }
    findings
}

/// Circles of more files than allowed.
pub(super) fn check_circles(sources: &[Source], max: usize) -> Vec<String> {
    let crates: BTreeSet<String> = sources.iter().filter_map(|source| crate_of(&source.path)).collect();
    let mut findings = Vec::new();
    for folder in crates {
        let mut graph = graph_of(sources, &folder);
        // A module that re-exports from its children, and children that use their parent, are one thing in several files.
        for (from, uses) in &mut graph {
            uses.retain(|to| !is_below(from, to) && !is_below(to, from));
        }
        for circle in circles(&graph).into_iter().filter(|circle| circle.len() > max) {
            findings.push(format!(
                "circles: {} files of {folder} import each other: {}",
                circle.len(),
                circle.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
    }
    findings
}

fn is_below(one: &str, other: &str) -> bool {
    one.strip_prefix(other).is_some_and(|rest| rest.starts_with("::"))
}

/// The groups of files that reach each other.
fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|from| (from, reached(graph, from))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (from, to) in &reach {
        let both = |other: &&String| reach.get(*other).is_some_and(|back| back.contains(*from));
        let circle: BTreeSet<String> = to.iter().filter(both).cloned().collect();
        if circle.len() > 1 && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from.to_owned()];
    while let Some(next) = todo.pop() {
        for to in graph.get(&next).into_iter().flatten() {
            if seen.insert(to.clone()) {
                todo.push(to.clone());
            }
        }
    }
    seen
}

/// The `src` folder that a file belongs to, as `crates/NAME/src`.
fn crate_of(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let at = text.find("/src/")?;
    Some(text[..at + 4].to_owned())
}

/// The module that a file is, as `shard::proposer`; the crate's root files are none.
fn module_of<'a>(path: &'a Path, folder: &str) -> Option<&'a str> {
    let inner = path.to_str()?.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".rs")?;
    (!matches!(inner, "lib" | "main") && !inner.ends_with("/tests") && inner != "tests").then_some(inner)
}

fn graph_of(sources: &[Source], folder: &str) -> Graph {
    let files: Vec<(String, &str)> = sources
        .iter()
        .filter_map(|source| {
            Some((module_of(&source.path, folder)?.replace('/', "::"), source.text.as_str()))
        })
        .collect();
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let mut graph = Graph::new();
    for (name, text) in &files {
        let uses = graph.entry(name.clone()).or_default();
        for path in paths(&product_code(text)) {
            let absolute = match path.strip_prefix("super::") {
                // `super` is taken as the parent of the file. In an inline module that is one level too high, which is rare.
                Some(rest) => match name.rsplit_once("::") {
                    Some((parent, _)) => format!("{parent}::{rest}"),
                    None => rest.to_owned(),
                },
                None => path,
            };
            if let Some(used) = longest(&absolute, &names).filter(|used| used != name) {
                uses.insert(used.to_owned());
            }
        }
    }
    graph
}

/// The file that a path leads into: the longest beginning of the path that is one.
fn longest<'a>(path: &str, names: &BTreeSet<&'a str>) -> Option<&'a str> {
    let mut rest = path;
    loop {
        if let Some(name) = names.get(rest) {
            return Some(name);
        }
        rest = rest.rsplit_once("::")?.0;
    }
}

/// The text without comments and without test modules.
fn product_code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // Test modules stand at the end of their files.
        if line.trim_start() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{'))
        {
            break;
        }
        out.push_str(line.split("//").next().unwrap_or_default());
        out.push('\n');
    }
    out
}

/// Every path that begins with `crate::` (without that) or `super::` (with it), groups in braces taken apart.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, keep) in [("crate::", false), ("super::", true)] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let prefix = if keep { start } else { "" };
            read_tree(&code[at + start.len()..], prefix, &mut found);
        }
    }
    found
}

/// Reads one `a::b::{c, d::e}`; returns what is behind it.
fn read_tree<'a>(code: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..end]);
    let mut rest = &code[end..];
    let is_group = rest.starts_with('{') && (path.is_empty() || path.ends_with("::"));
    if !is_group {
        found.push(path.trim_end_matches("::").to_owned());
        return rest;
    }
    rest = &rest[1..];
    loop {
        rest = read_tree(rest.trim_start(), &path, found).trim_start();
        // Behind a path stands the next one, the end of the group, or an alias such as `as _`.
        let next = rest.find([',', '}']).unwrap_or(rest.len());
        match rest.get(next..next + 1) {
            Some(",") if !rest[next + 1..].trim_start().starts_with('}') => rest = &rest[next + 1..],
            Some(",") => return rest[next + 1..].trim_start().get(1..).unwrap_or_default(),
            Some(_) => return &rest[next + 1..],
            None => return "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.to_owned() }
    }

    const TABLE: &str = "| 1 | `x` | another table |\n\n| Floor | Module | What |\n|---|---|---|\n| 2 | `node/` | a |\n| 1 | `clock.rs` | b |\n";

    #[test]
    fn groups_and_aliases_are_taken_apart() {
        let code = "use crate::{a::b, c::{self, D as E}, f};\nlet x = crate::g::h(1); use super::i::J; my_crate::no::way();";
        let mut found = paths(code);
        found.sort();
        assert_eq!(found, ["a::b", "c::D", "c::self", "f", "g::h", "super::i::J"]);
    }

    #[test]
    fn an_import_of_the_same_floor_or_a_higher_one_is_reported() {
        let floors = floors(TABLE);
        assert_eq!(floors, [(2, "node".to_owned()), (1, "clock".to_owned())]);
        let node = source(
            "crates/server/src/node/serve.rs",
            "use crate::clock::Clock;\n#[cfg(test)]\nmod tests {\n",
        );
        let clock = |text| source("crates/server/src/clock.rs", text);
        assert!(check_floors(&[source("crates/server/src/node.rs", ""), clock("")], &floors).is_empty());
        let upward = [node, clock("use crate::node::serve::X; // why")];
        assert_eq!(check_floors(&upward, &floors), ["floors: clock (floor 1) uses node::serve (floor 2)"]);
        let same = [(1, "clock".to_owned()), (1, "feed".to_owned())];
        let feed = source("crates/server/src/feed.rs", "");
        assert_eq!(check_floors(&[clock("use crate::{feed::Feed, x};"), feed], &same).len(), 1);
        let unknown = [source("crates/server/src/new.rs", "")];
        assert_eq!(check_floors(&unknown, &floors).len(), 1);
        assert_eq!(check_floors(&[], &[]).len(), 1, "a page without the table is a finding");
    }

    #[test]
    fn a_circle_above_the_maximum_is_reported_and_a_parent_with_its_children_is_not() {
        let ring = |n: usize| -> Vec<Source> {
            let file = |i: usize| {
                source(&format!("crates/x/src/m{i}.rs"), &format!("use crate::m{}::A;", (i + 1) % n))
            };
            (0..n).map(file).collect()
        };
        assert!(check_circles(&ring(4), 4).is_empty());
        assert_eq!(check_circles(&ring(5), 4).len(), 1);
        let family = [
            source("crates/x/src/a.rs", "use crate::a::b::B;"),
            source("crates/x/src/a/b.rs", "use super::A; use crate::a::A;"),
        ];
        assert!(check_circles(&family, 1).is_empty());
    }
}
