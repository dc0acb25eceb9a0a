//! `cargo xtask tidy`: rules about the sources that no compiler checks.
//!
//! * `floors`: in `crates/server` a module uses only modules on floors below its own. The table of ARCHITECTURE.md is the list of
//!   floors; a module that it does not name is a finding.
//! * `circles`: no more than [`CIRCLE_MAX`] files of a crate import each other in a circle.
//! * `length`: no source file has more than [`LINES_MAX`] lines; those above [`LINES_WANTED`] are printed.
//! * `links`: every relative link of the documents leads to a file and to a heading.
//! * `limits`: every constant of a `limits.rs` says what it bounds.
//! * `words`: what CONTRIBUTING.md ("Plain words") rules out.
//!
//! Whether metrics fit their documents is a question to `.ci/metrics`, which asks a real Prometheus, too.

mod imports;
mod text;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Files that may import each other in a circle, not counting a module and its own children.
const CIRCLE_MAX: usize = 4;
/// Lines of a source file, at most.
const LINES_MAX: usize = 600;
/// Lines above which a file may hold two things.
const LINES_WANTED: usize = 400;

/// A Rust source file of the workspace.
struct Source {
    /// From the root of the workspace.
    path: PathBuf,
    text: String,
}

/// Checks everything; whether nothing was found.
pub(crate) fn run() -> anyhow::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut sources = Vec::new();
    collect(&root, &root.join("crates"), "rs", &mut sources)?;
    let mut documents = Vec::new();
    collect(&root, &root.join("docs"), "md", &mut documents)?;
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"] {
        documents.push(Source { path: name.into(), text: read(&root.join(name))? });
    }
    let architecture =
        &documents.iter().find(|d| d.path == Path::new("ARCHITECTURE.md")).context("no page")?.text;

    let mut findings = Vec::new();
    let floors = imports::floors(architecture);
    findings.extend(imports::check_floors(&sources, &floors));
    findings.extend(imports::check_circles(&sources, CIRCLE_MAX));
    findings.extend(text::check_length(&sources, LINES_MAX));
    findings.extend(text::check_links(&documents));
    findings.extend(text::check_limits(&sources));
    findings.extend(text::check_words(&sources));
    for source in sources.iter().filter(|source| source.text.lines().count() > LINES_WANTED) {
        crate::print(&format!("long: {} has {} lines", source.path.display(), source.text.lines().count()));
    }
    for finding in &findings {
        crate::print(finding);
    }
    let summary = format!(
        "tidy: {} source files, {} documents, {} floors, {} findings",
        sources.len(),
        documents.len(),
        floors.iter().map(|(floor, _)| floor).collect::<std::collections::BTreeSet<_>>().len(),
        findings.len()
    );
    crate::print(&summary);
    Ok(findings.is_empty())
}

/// Reads every file with this extension below a folder, in the order of their names.
fn collect(root: &Path, folder: &Path, extension: &str, out: &mut Vec<Source>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, extension, out)?;
        } else if path.extension().is_some_and(|found| found == extension) {
            out.push(Source { text: read(&path)?, path: path.strip_prefix(root)?.to_owned() });
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
