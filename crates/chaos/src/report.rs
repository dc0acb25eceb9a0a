//! The two reports of a run: `report.json` for programs, and `report.html`, a page without external resources, for people.

mod chart;
mod summary;
mod timeline;

use std::fs;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use crate::engine::RunError;
use crate::sides::Side;
use crate::verdict::{Facts, Sum, Verdict};

pub use summary::VerdictSummary;

/// How many lines of the history are shown before and after each line of a witness.
const CONTEXT: u64 = 3;
/// The most lines that are shown for one witness.
const LINES_MAX: usize = 40;

/// Writes both reports and returns the page's path.
///
/// # Errors
/// If a file cannot be written.
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
        facts.recovered.map_or_else(|| "not in time".to_owned(), |time| format!("{} ms", time.as_millis()));
    for (what, value) in [
        ("sends acked", verdict.report.acked.to_string()),
        ("refused, unknown", format!("{}, {}", verdict.report.refused, verdict.report.unknown)),
        ("events delivered", verdict.report.observed.to_string()),
        ("faults", facts.bands.len().to_string()),
        ("longest time without an ack", format!("{} ms", verdict.longest_gap().as_millis())),
        ("recovered after healing", recovered),
        ("seed", verdict.seed.to_string()),
        ("backend", format!("{}, conclave-chaos {}", verdict.backend, verdict.version)),
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
    add("<h2>Latency of each ack, and faults</h2>");
    add(&chart::acks(facts));
    add("<h2>Acks a second</h2>");
    add(&chart::rate(facts));
    add("<h2>Shards led by each server</h2>");
    add(&chart::leaders(facts));
    add("<h2>Times without an ack, by length</h2>");
    add(&chart::gaps(facts));
    add("<h2>Promises</h2><table><tr><th>promise<th>checked<th>violated");
    for finding in &verdict.report.findings {
        let name = serde_json::to_value(finding.property).ok();
        let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default();
        add(&format!("<tr><td>{name}<td>{}<td>{}", finding.checked, finding.violations));
    }
    add("</table>");
    for finding in &verdict.report.findings {
        if let Some(witness) = &finding.witness {
            add(&format!(
                "<h3>{}</h3>{}<pre>{}</pre>",
                escape(&witness.sentence),
                timeline::around(history, &witness.lines),
                around(history, &witness.lines)
            ));
        }
    }
    add(&sides(facts));
    add("<h2>Faults</h2><table><tr><th>from<th>to<th>fault<th>targets");
    for band in &facts.bands {
        let to = band.to_us.map_or_else(|| "the end".to_owned(), seconds);
        let (what, whom) = (escape(&band.fault.to_string()), escape(&band.nodes.join(", ")));
        add(&format!("<tr><td>{}<td>{to}<td>{what}<td>{whom}", seconds(band.from_us)));
    }
    let sometimes: Vec<String> = facts.sometimes.iter().map(|what| format!("{what:?}")).collect();
    add(&format!("</table><p>Happened at least once: {}.</p></main></html>\n", sometimes.join(", ")));
    html
}

/// The table of the sides of each partition; empty if there was no partition.
fn sides(facts: &Facts) -> String {
    if facts.sides.is_empty() {
        return String::new();
    }
    let row = |side: &Side| {
        let from = facts.bands.get(side.band).map_or(0, |band| band.from_us);
        let kind = if side.majority { "a majority" } else { "a minority" };
        let nodes = escape(&side.nodes.join(", "));
        let (acked, gap) = (side.acked, side.longest_gap_us / 1_000);
        format!("<tr><td>{}<td>{nodes}<td>{kind}<td>{acked}<td>{gap} ms", seconds(from))
    };
    let rows: String = facts.sides.iter().map(row).collect();
    format!(
        "<h2>Each side of each partition</h2><p>As seen by the clients that are pinned to one server.</p>\
         <table><tr><th>from<th>servers<th>side<th>acks<th>longest time without an ack{rows}</table>"
    )
}

/// The lines of a witness and those around them, as HTML.
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
    fn a_page_shows_the_facts_and_escapes_all_text() {
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
        // The verdict read from the file is the one that was written.
        let summary = VerdictSummary::read(dir.path()).unwrap();
        assert_eq!(summary, VerdictSummary::from(&verdict));
        let text = summary.to_string();
        for part in ["TESTED TOO LITTLE: ", "700 ms; seed 7", "1 faults on a test"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        fs::write(dir.path().join("report.json"), "{}").unwrap();
        assert!(VerdictSummary::read(dir.path()).unwrap_err().to_string().contains("not a run's report"));
    }

    /// A history in which one replica lacks an acked message.
    fn damaged(dir: &Path) -> conclave_check::Report {
        use conclave_check::Event;
        let history = conclave_check::History::in_memory();
        history.invoke(5, 1, 1, "hello");
        history.cut("n3");
        history.ok(5, 1, 1, 2);
        history.invoke(6, 1, 1, "<lost>");
        history.read(history.now(), 1, 2, "n1");
        history.ok(6, 1, 1, 3);
        history.healed("n3");
        let mut events =
            vec![Event::created(1), Event::message(2, 5, 1, "hello"), Event::message(3, 6, 1, "<lost>")];
        for event in &events[..2] {
            history.observed("tail", 0, 1, event);
        }
        history.final_read("n1", 1, 0, events.clone());
        events.pop();
        history.final_read("n2", 1, 0, events);
        fs::write(dir.join("history.jsonl"), history.lines()).unwrap();
        history.check(&conclave_check::Options::default()).unwrap()
    }

    #[test]
    fn a_broken_promise_is_shown_with_its_lines_and_a_timeline_of_the_clients() {
        let dir = tempfile::tempdir().unwrap();
        let report = damaged(dir.path());
        let text = "{name: x, proves: y, method: [{at: 5s, fault: isolate}]}";
        let nodes = vec!["n3".to_owned()];
        let facts = Facts {
            bands: vec![Band {
                fault: Fault::Isolate,
                nodes: nodes.clone(),
                leads: false,
                from_us: 0,
                to_us: None,
            }],
            sides: vec![Side { band: 0, nodes, majority: false, acked: 0, longest_gap_us: 7_000_000 }],
            gaps: vec![(0, 700_000)],
            recovered: Some(std::time::Duration::from_secs(1)),
            ..Facts::default()
        };
        let verdict = Verdict::new(&Experiment::parse(text).unwrap(), 7, "a test", report, facts);
        assert_eq!(verdict.exit_code(), 1);
        let html = fs::read_to_string(write(&verdict, dir.path()).unwrap()).unwrap();
        // The smallest witness is an ack, and a final read without what was acked.
        let finding = verdict.report.finding(conclave_check::Property::AckedKept).unwrap();
        let witness = finding.witness.as_ref().unwrap();
        assert_eq!(witness.lines.len(), 2, "{witness:?}");
        for part in [
            escape(&witness.sentence).as_str(),
            &format!("<b>{:>8}  {{&quot;kind&quot;:&quot;ok&quot;", witness.lines[0]),
            "&lt;lost&gt;",
            // The timeline marks the request of the witness.
            ">session 6</text>",
            "stroke='#000'><title>request 1 acked as 3",
            "linearizable read: ends at 2",
            "cut off with a minority",
            "a minority<td>0<td>7000 ms",
            "500 to 1000 ms<td>1",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!html.contains("<lost>"));
    }
}
