//! A timeline of what the clients of a room did and saw around the lines of a witness, as SVG.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::Deserialize;

/// The time that is shown before the first line of a witness and after the last one, nanoseconds.
const MARGIN_NS: u64 = 400_000_000;
/// A witness whose lines are further apart than this is shown around its first line only, nanoseconds.
const SPAN_NS_MAX: u64 = 5_000_000_000;
/// The most clients that are drawn.
const ROWS_MAX: usize = 16;
/// The most marks that are drawn.
const MARKS_MAX: usize = 4_000;
const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const ROW: f64 = 18.0;

/// The fields of a history line that the timeline needs.
#[derive(Debug, Default, Deserialize)]
struct Line {
    kind: String,
    at: Option<u64>,
    begun: Option<u64>,
    room: Option<u64>,
    session: Option<u64>,
    no: Option<u64>,
    seq: Option<u64>,
    last: Option<u64>,
    reader: Option<String>,
    node: Option<String>,
}

impl Line {
    /// The label of the row in which the line is drawn.
    fn row(&self) -> Option<String> {
        match self.kind.as_str() {
            "invoke" | "ok" | "refused" | "unknown" => Some(format!("session {}", self.session?)),
            "read" => Some(format!("reads at {}", self.node.as_deref().unwrap_or("?"))),
            "observed" | "resumed" | "caught_up" | "truncated" => self.reader.clone(),
            "cut" | "healed" => Some(format!("{} cut off", self.node.as_deref().unwrap_or("?"))),
            _ => None,
        }
    }
}

/// A bar in the timeline.
struct Mark {
    row: String,
    from: u64,
    to: u64,
    colour: &'static str,
    title: String,
    is_witness: bool,
}

/// The timeline; empty if the witness's lines have no times, or the history cannot be read.
pub(super) fn around(history: &Path, witness: &[u64]) -> String {
    let Some((from, to, rooms)) = window(history, witness) else { return String::new() };
    let marks = marks(history, witness, (from, to), &rooms);
    if marks.is_empty() { String::new() } else { draw(&marks, from, to) }
}

/// The lines of a history with their numbers, up to the first that cannot be read: the judge has read all of them before.
fn lines(history: &Path) -> impl Iterator<Item = (u64, Line)> {
    let file = File::open(history).ok().map(BufReader::new);
    let text = file.into_iter().flat_map(|file| file.lines().map_while(Result::ok));
    (1..).zip(text).filter_map(|(number, text)| Some((number, serde_json::from_str(&text).ok()?)))
}

/// The time that is shown, and the rooms of the witness.
fn window(history: &Path, witness: &[u64]) -> Option<(u64, u64, BTreeSet<u64>)> {
    let mut times = Vec::new();
    let mut rooms = BTreeSet::new();
    for (_, line) in lines(history).filter(|(number, _)| witness.contains(number)) {
        times.extend([line.begun, line.at].into_iter().flatten());
        rooms.extend(line.room);
    }
    let first = times.iter().min().copied()?;
    let last = times.iter().max().copied().filter(|last| last - first <= SPAN_NS_MAX).unwrap_or(first);
    Some((first.saturating_sub(MARGIN_NS), last + MARGIN_NS, rooms))
}

fn marks(history: &Path, witness: &[u64], (from, to): (u64, u64), rooms: &BTreeSet<u64>) -> Vec<Mark> {
    let mut marks = Vec::new();
    // Sends and cuts that have not ended, by row and request number.
    let mut open: BTreeMap<(String, u64), Mark> = BTreeMap::new();
    for (number, line) in lines(history) {
        let elsewhere = line.room.is_some_and(|room| !rooms.contains(&room));
        let (Some(row), Some(at)) = (line.row(), line.at) else { continue };
        if elsewhere || at > to || marks.len() >= MARKS_MAX {
            continue;
        }
        let no = line.no.unwrap_or(0);
        let seq = line.seq.or(line.last).unwrap_or(0);
        let mark = |from, colour, title: String| Mark {
            row: row.clone(),
            from,
            to: at,
            colour,
            title,
            is_witness: witness.contains(&number),
        };
        match line.kind.as_str() {
            "invoke" => {
                let sent = mark(at, "#57606a", format!("request {no}, no answer"));
                open.insert((row.clone(), no), sent);
            }
            "cut" => {
                open.insert((row.clone(), 0), mark(at, "#cf222e", "cut off with a minority".to_owned()));
            }
            "ok" | "refused" | "unknown" | "healed" => {
                let began = open.remove(&(row.clone(), no));
                let (begun, was_witness) = began.map_or((at, false), |began| (began.from, began.is_witness));
                let (colour, label) = match line.kind.as_str() {
                    "ok" => ("#1a7f37", format!("request {no} acked as {seq}")),
                    "healed" => ("#cf222e", "cut off with a minority".to_owned()),
                    other => ("#9a6700", format!("request {no} {other}")),
                };
                if at >= from {
                    let done = mark(begun, colour, label);
                    marks.push(Mark { is_witness: done.is_witness || was_witness, ..done });
                }
            }
            "read" if at >= from => {
                marks.push(mark(
                    line.begun.unwrap_or(at),
                    "#8250df",
                    format!("linearizable read: ends at {seq}"),
                ));
            }
            kind if at >= from => marks.push(mark(at, "#0969da", format!("{kind} {seq}"))),
            _ => {}
        }
    }
    marks.extend(
        open.into_values()
            .filter(|mark| mark.is_witness || mark.from >= from)
            .map(|mark| Mark { to, ..mark }),
    );
    marks
}

#[expect(clippy::cast_precision_loss, reason = "pictures need no more than 52 bits")]
fn draw(marks: &[Mark], from: u64, to: u64) -> String {
    let x = |at: u64| LEFT + (WIDTH - LEFT) * (at.clamp(from, to) - from) as f64 / (to - from).max(1) as f64;
    // The rows of the witness come first, then as many others as fit.
    let mut rows: Vec<&str> = Vec::new();
    for mark in marks.iter().filter(|mark| mark.is_witness).chain(marks) {
        if !rows.contains(&mark.row.as_str()) && rows.len() < ROWS_MAX {
            rows.push(&mark.row);
        }
    }
    let height = ROW * rows.len() as f64;
    let mut svg = format!("<svg viewBox='0 -4 {WIDTH} {:.0}'>", height + 24.0);
    // Writing to a String cannot fail.
    for (at, row) in rows.iter().enumerate() {
        let y = ROW * (at as f64 + 1.0) - 4.0;
        let _ = write!(
            svg,
            "<line x1='{LEFT}' x2='{WIDTH}' y1='{y:.0}' y2='{y:.0}' stroke='#d0d7de'/>\
             <text x='{:.0}' y='{y:.0}' text-anchor='end'>{}</text>",
            LEFT - 6.0,
            super::escape(row)
        );
    }
    for mark in marks {
        let Some(at) = rows.iter().position(|row| *row == mark.row) else { continue };
        let (left, wide) = (x(mark.from), (x(mark.to) - x(mark.from)).max(1.5));
        let (y, tall) =
            if mark.is_witness { (ROW * at as f64 + 1.0, 13.0) } else { (ROW * at as f64 + 6.0, 8.0) };
        let edge = if mark.is_witness { " stroke='#000'" } else { "" };
        let _ = write!(
            svg,
            "<rect x='{left:.1}' y='{y:.1}' width='{wide:.1}' height='{tall}' fill='{}' opacity='.75'{edge}><title>{}</title></rect>",
            mark.colour,
            super::escape(&mark.title)
        );
    }
    for (at, anchor) in [(from, "start"), (to, "end")] {
        let _ = write!(
            svg,
            "<text x='{:.0}' y='{:.0}' text-anchor='{anchor}'>{}.{:03} s</text>",
            x(at),
            height + 14.0,
            at / 1_000_000_000,
            at / 1_000_000 % 1_000
        );
    }
    svg.push_str("</svg>");
    svg
}
