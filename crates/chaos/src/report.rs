//! The two files that a run leaves: `report.json` for programs, and one page without anything outside of it for people.

mod chart;

use std::fmt::Write as _;
use std::fs;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use crate::engine::RunError;
use crate::verdict::{Sum, Verdict};

/// Lines of the history that are shown before and after each of a witness's.
const CONTEXT: u64 = 3;
/// Lines that are shown of one witness.
const LINES_MAX: usize = 40;

/// Writes both files and says where the page is.
///
/// # Errors
/// If they cannot be written.
pub fn write(verdict: &Verdict, dir: &Path) -> Result<PathBuf, RunError> {
    let put = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text)
            .map_err(|error| RunError::File { path: path.clone(), why: error.to_string() })?;
        Ok(path)
    };
    let json = serde_json::to_string_pretty(verdict)
        .map_err(|error| RunError::File { path: dir.join("report.json"), why: error.to_string() })?;
    put("report.json", &json)?;
    put("report.html", &page(verdict, &dir.join("history.jsonl")))
}

/// The verdict in a few lines, for a terminal.
#[must_use]
pub fn summary(verdict: &Verdict) -> String {
    let mut text = String::new();
    let word = match verdict.sum {
        Sum::Passed => "PASSED",
        Sum::Violated => "VIOLATED",
        Sum::TooLittle => "TESTED TOO LITTLE",
    };
    let report = &verdict.report;
    let mut line = |said: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{said}");
    };
    line(format_args!("{word}: {}", verdict.experiment.name));
    if verdict.sum == Sum::Passed {
        line(format_args!("  {}", verdict.experiment.proves));
    }
    line(format_args!(
        "  {} faults on {}, {} sends acked, {} refused, {} unknown, {} events delivered",
        verdict.facts.bands.len(),
        verdict.backend,
        report.acked,
        report.refused,
        report.unknown,
        report.observed
    ));
    line(format_args!(
        "  longest time without an ack {} ms; seed {}",
        verdict.longest_gap().as_millis(),
        verdict.seed
    ));
    for wrong in &verdict.wrong {
        line(format_args!("  wrong: {wrong}"));
    }
    for missing in &verdict.missing {
        line(format_args!("  missing: {missing}"));
    }
    text
}

fn page(verdict: &Verdict, history: &Path) -> String {
    let facts = &verdict.facts;
    let (class, word) = match verdict.sum {
        Sum::Passed => ("passed", "Every promise held"),
        Sum::Violated => ("violated", "A promise was broken"),
        Sum::TooLittle => ("little", "Too little was tested"),
    };
    let name = escape(&verdict.experiment.name);
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{name}: {word}</title><style>{STYLE}</style><main><h1>{name}</h1>\
         <p class='verdict {class}'>{word}</p><p>{}</p>",
        escape(&verdict.experiment.proves)
    );
    let mut add = |part: &str| html.push_str(part);
    add("<table>");
    let recovered =
        facts.recovered.map_or_else(|| "no".to_owned(), |time| format!("after {} ms", time.as_millis()));
    for (what, value) in [
        ("sends acked", verdict.report.acked.to_string()),
        ("refused, unknown", format!("{}, {}", verdict.report.refused, verdict.report.unknown)),
        ("events delivered", verdict.report.observed.to_string()),
        ("faults", facts.bands.len().to_string()),
        ("longest time without an ack", format!("{} ms", verdict.longest_gap().as_millis())),
        ("as before when healed", recovered),
        ("seed", verdict.seed.to_string()),
        ("on", format!("{}, conclave-chaos {}", verdict.backend, verdict.version)),
    ] {
        add(&format!("<tr><th>{what}<td>{}", escape(&value)));
    }
    add("</table>");
    for (title, list) in [("Wrong", &verdict.wrong), ("Missing", &verdict.missing)] {
        if !list.is_empty() {
            let items: String = list.iter().map(|item| format!("<li>{}", escape(item))).collect();
            add(&format!("<h2>{title}</h2><ul>{items}</ul>"));
        }
    }
    add("<h2>Each ack, and what was done to the cluster</h2>");
    add(&chart::acks(facts));
    add("<h2>Acks a second</h2>");
    add(&chart::rate(facts));
    add("<h2>Who led how many shards</h2>");
    add(&chart::leaders(facts));
    add("<h2>Times without an ack</h2>");
    add(&chart::gaps(facts));
    add("<h2>Promises</h2><table><tr><th>promise<th>could have been broken<th>was");
    for finding in &verdict.report.findings {
        let name = serde_json::to_value(finding.property).ok();
        let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
        add(&format!("<tr><td>{name}<td>{}<td>{}", finding.checked, finding.violations));
    }
    add("</table>");
    for finding in &verdict.report.findings {
        if let Some(witness) = &finding.witness {
            add(&format!(
                "<h3>{}</h3><pre>{}</pre>",
                escape(&witness.sentence),
                around(history, &witness.lines)
            ));
        }
    }
    add("<h2>Faults</h2><table><tr><th>from<th>to<th>what<th>to whom");
    for band in &facts.bands {
        let to = band.to_us.map_or_else(|| "the end".to_owned(), seconds);
        let (what, whom) = (escape(&band.fault.to_string()), escape(&band.nodes.join(", ")));
        add(&format!("<tr><td>{}<td>{to}<td>{what}<td>{whom}", seconds(band.from_us)));
    }
    let sometimes: Vec<String> = facts.sometimes.iter().map(|what| format!("{what:?}")).collect();
    add(&format!("</table><p>Happened at least once: {}.</p></main></html>\n", sometimes.join(", ")));
    html
}

/// The lines of a witness, with those around them.
fn around(history: &Path, lines: &[u64]) -> String {
    let Ok(file) = fs::File::open(history) else { return String::new() };
    let wanted = |number: u64| lines.iter().any(|line| line.abs_diff(number) <= CONTEXT);
    let all = (1..).zip(std::io::BufReader::new(file).lines().map_while(Result::ok));
    let shown = all.filter(|(number, _)| wanted(*number)).take(LINES_MAX);
    let mark = |number| if lines.contains(&number) { "<b>" } else { "" };
    shown.map(|(number, text)| format!("{}{number:>8}  {}</b>\n", mark(number), escape(&text))).collect()
}

fn seconds(micros: u64) -> String {
    format!("{}.{:03} s", micros / 1_000_000, micros / 1_000 % 1_000)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1b1f24;\
background:#fff}h1{margin-bottom:0}h2{margin-top:2rem;font-size:1.1rem}.verdict{display:inline-block;padding:.2rem .8rem;\
border-radius:.3rem;font-weight:600;color:#fff}.passed{background:#1a7f37}.violated{background:#cf222e}.little{background:#9a6700}\
table{border-collapse:collapse}td,th{text-align:left;padding:.15rem 1.2rem .15rem 0;font-weight:400;vertical-align:top}\
th{color:#57606a}pre{background:#f6f8fa;padding:.8rem;overflow-x:auto;font-size:12px}svg{width:100%;height:auto}\
svg text{font:11px system-ui,sans-serif;fill:#57606a}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;
    use crate::fault::Fault;
    use crate::verdict::{Band, Facts};
    use crate::workload::Sample;

    #[test]
    fn a_page_shows_what_happened_and_nothing_as_markup() {
        let history = conclave_check::History::in_memory();
        history.invoke(5, 1, 1, "hello");
        let report = history.check(&conclave_check::Options::default()).unwrap();
        let text = "{name: x, proves: 'a < b', method: [{at: 5s, fault: kill}]}";
        let facts = Facts {
            bands: vec![Band {
                fault: Fault::Kill,
                nodes: vec!["<node1>".into()],
                leads: true,
                from_us: 1_000_000,
                to_us: None,
            }],
            samples: (1..100).map(|n| Sample { at_us: n * 50_000, latency_us: n * 100 }).collect(),
            gaps: vec![(1_000_000, 1_700_000)],
            recovered: Some(std::time::Duration::from_secs(1)),
            ..Facts::default()
        };
        let verdict = Verdict::new(&Experiment::parse(text).unwrap(), 7, "a test", report, facts);
        let dir = tempfile::tempdir().unwrap();
        let path = write(&verdict, dir.path()).unwrap();
        let html = fs::read_to_string(path).unwrap();
        for part in ["a &lt; b", "&lt;node1&gt;", "700 ms", "<circle", "Too little"] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<node1>") && !html.contains("src=") && !html.contains("http"));
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join("report.json")).unwrap()).unwrap();
        assert_eq!(json["seed"], 7);
        assert_eq!(json["sum"], "too_little");
    }
}
