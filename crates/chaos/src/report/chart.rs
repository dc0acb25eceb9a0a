//! Charts of a run, as SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::verdict::Facts;

/// The width of a chart, and the left margin for labels.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
/// The most points of the ack chart, before slow acks are added.
const POINTS_MAX: usize = 6_000;
/// The colours of the servers.
const COLOURS: [&str; 7] = ["#0969da", "#bf3989", "#1a7f37", "#9a6700", "#8250df", "#bc4c00", "#57606a"];

#[expect(clippy::cast_precision_loss, reason = "pictures need no more than 52 bits")]
fn float(number: u64) -> f64 {
    number as f64
}

/// A chart over the time of the run.
struct Picture {
    body: String,
    height: f64,
    end_us: u64,
}

impl Picture {
    /// An empty chart with the faults as bands and a time axis.
    fn new(facts: &Facts, height: f64) -> Self {
        let last = |times: &mut dyn Iterator<Item = u64>| times.max().unwrap_or(0);
        let end_us = last(&mut facts.samples.iter().map(|sample| sample.at_us))
            .max(last(&mut facts.changes.iter().map(|change| change.at_us)))
            .max(last(&mut facts.bands.iter().map(|band| band.to_us.unwrap_or(band.from_us))))
            .max(1_000_000);
        let mut picture = Self { body: String::new(), height, end_us };
        for band in &facts.bands {
            let (x, to) = (picture.x(band.from_us), picture.x(band.to_us.unwrap_or(end_us)));
            let title = format!("{}: {}", band.fault, super::escape(&band.nodes.join(", ")));
            let wide = (to - x).max(1.0);
            picture.add(format_args!(
                "<rect x='{x:.1}' y='0' width='{wide:.1}' height='{height}' fill='#cf222e' opacity='.12'><title>{title}</title></rect>"
            ));
        }
        let step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200]
            .into_iter()
            .find(|step| end_us / 1_000_000 / step <= 16)
            .unwrap_or(14_400);
        for second in (0..=end_us / 1_000_000).step_by(usize::try_from(step).unwrap_or(1)) {
            let (x, y) = (picture.x(second * 1_000_000), height + 14.0);
            picture.add(format_args!("<text x='{x:.1}' y='{y}' text-anchor='middle'>{second} s</text>"));
        }
        picture
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(part);
    }

    fn x(&self, at_us: u64) -> f64 {
        LEFT + (WIDTH - LEFT) * float(at_us.min(self.end_us)) / float(self.end_us)
    }

    /// A horizontal line with its label.
    fn level(&mut self, y: f64, label: &str) {
        let text = y + 4.0;
        self.add(format_args!(
            "<line x1='{LEFT}' x2='{WIDTH}' y1='{y:.1}' y2='{y:.1}' stroke='#d0d7de'/>\
             <text x='{:.1}' y='{text:.1}' text-anchor='end'>{label}</text>",
            LEFT - 6.0
        ));
    }

    fn done(self) -> String {
        let tall = self.height + 28.0;
        format!("<svg viewBox='0 -8 {WIDTH} {tall}'>{}</svg>", self.body)
    }
}

/// The latency of each ack, on a logarithmic scale from 0.1 ms to 100 s.
pub(super) fn acks(facts: &Facts) -> String {
    let height = 240.0;
    let y = |latency_us: u64| {
        height - height * ((float(latency_us.max(100)).log10() - 2.0) / 6.0).clamp(0.0, 1.0)
    };
    let mut picture = Picture::new(facts, height);
    for (us, label) in [
        (100, "0.1 ms"),
        (1_000, "1 ms"),
        (10_000, "10 ms"),
        (100_000, "100 ms"),
        (1_000_000, "1 s"),
        (10_000_000, "10 s"),
    ] {
        picture.level(y(us), label);
    }
    // Slow acks are the interesting ones: none of them is thinned out.
    let every = facts.samples.len().div_ceil(POINTS_MAX).max(1);
    let drawn = (0..).zip(&facts.samples).filter(|(n, sample)| n % every == 0 || sample.latency_us > 100_000);
    for (_, sample) in drawn.take(2 * POINTS_MAX) {
        let (x, y) = (picture.x(sample.at_us), y(sample.latency_us));
        picture.add(format_args!("<circle cx='{x:.1}' cy='{y:.1}' r='1.2' fill='#0969da' opacity='.5'/>"));
    }
    picture.done()
}

/// Acks in each quarter of a second.
pub(super) fn rate(facts: &Facts) -> String {
    const SLOT_US: u64 = 250_000;
    let mut slots: BTreeMap<u64, u64> = BTreeMap::new();
    for sample in &facts.samples {
        *slots.entry(sample.at_us / SLOT_US).or_default() += 1;
    }
    let height = 120.0;
    let mut picture = Picture::new(facts, height);
    let most = slots.values().copied().max().unwrap_or(1);
    picture.level(height, "0");
    // The scale is relative, because the samples of a run with very many acks are thinned out.
    picture.level(0.0, "most");
    let points: String = (0..=picture.end_us / SLOT_US)
        .map(|slot| {
            let count = slots.get(&slot).copied().unwrap_or(0);
            let y = height - height * float(count) / float(most);
            format!("{:.1},{y:.1} ", picture.x(slot * SLOT_US))
        })
        .collect();
    picture.add(format_args!("<polyline points='{points}' fill='none' stroke='#0969da'/>"));
    picture.done()
}

/// A row for each server: how many shards it leads, and when it did not answer.
pub(super) fn leaders(facts: &Facts) -> String {
    const ROW: f64 = 34.0;
    let mut rows: BTreeMap<&str, Vec<(u64, bool, usize, u64)>> = BTreeMap::new();
    for change in &facts.changes {
        let state = &change.state;
        rows.entry(&change.node).or_default().push((
            change.at_us,
            state.answers,
            state.leads.len(),
            state.meta_term,
        ));
    }
    let count = u32::try_from(rows.len()).unwrap_or(1).max(1);
    let most = rows.values().flatten().map(|row| row.2).max().unwrap_or(1).max(1);
    let mut picture = Picture::new(facts, ROW * f64::from(count));
    for (number, (node, states)) in (0_u32..).zip(&rows) {
        let bottom = ROW * f64::from(number + 1) - 4.0;
        picture.level(bottom, &super::escape(node));
        let ends = states.iter().skip(1).map(|state| state.0).chain([picture.end_us]);
        for (&(from, answers, leads, term), to) in states.iter().zip(ends) {
            let (x, wide) = (picture.x(from), (picture.x(to) - picture.x(from)).max(0.5));
            let (colour, tall) = if answers {
                let share = float(leads as u64) / float(most as u64);
                (COLOURS[usize::try_from(number).unwrap_or(0) % COLOURS.len()], 2.0 + share * (ROW - 10.0))
            } else {
                ("#24292f", 3.0)
            };
            let y = bottom - tall;
            let title =
                if answers { format!("leads {leads} shards, meta term {term}") } else { "silent".to_owned() };
            picture.add(format_args!(
                "<rect x='{x:.1}' y='{y:.1}' width='{wide:.1}' height='{tall:.1}' fill='{colour}'><title>{title}</title></rect>"
            ));
        }
    }
    picture.done()
}

/// The number of gaps by length.
pub(super) fn gaps(facts: &Facts) -> String {
    let first = facts.bands.iter().map(|band| band.from_us).min().unwrap_or(0);
    let bounds =
        [(100, 200), (200, 300), (300, 500), (500, 1_000), (1_000, 2_000), (2_000, 5_000), (5_000, u64::MAX)];
    let rows = bounds.into_iter().map(|(from, to)| {
        let lasts = |gap: &&(u64, u64)| (from..to).contains(&((gap.1 - gap.0) / 1_000)) && gap.1 >= first;
        let count = facts.gaps.iter().filter(lasts).count();
        let label = if to == u64::MAX { format!("{from} ms and more") } else { format!("{from} to {to} ms") };
        format!("<tr><td>{label}<td>{count}<td>{}", "▇".repeat(count.min(60)))
    });
    format!("<p>Gaps shorter than 100 ms are not counted.</p><table>{}</table>", rows.collect::<String>())
}
