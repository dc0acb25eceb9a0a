//! The verdict on a history: for each property whether it held, how often it was checked, and the
//! smallest witness of a violation.

use std::fmt;

use serde::Serialize;

use crate::Options;
use crate::property::{Finding, Property};
use crate::reader::{Records, Set};
use crate::record::{Record, RequestKey};

/// The verdict in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every property held, and every required one was tested.
    Passed,
    /// A property was broken.
    Violated,
    /// Nothing was broken, but too little was tested to say anything.
    TooLittle,
}

/// The verdict on a history.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The verdict in one word.
    pub outcome: Outcome,
    /// Sends that were acked.
    pub acked: u64,
    /// Sends that were refused.
    pub refused: u64,
    /// Sends that are in doubt.
    pub unknown: u64,
    /// Events that subscribers got.
    pub observed: u64,
    /// The longest time in which a client waited for an ack and no client got one, in nanoseconds.
    pub longest_gap: u64,
    /// One for each property.
    pub findings: Vec<Finding>,
    /// Why too little was tested; one sentence each.
    pub too_little: Vec<String>,
}

impl Report {
    pub(crate) fn new(records: &Records, findings: Vec<Finding>, options: &Options) -> Self {
        let count = |wanted: fn(&Record) -> bool| {
            let found = records.lines.iter().filter(|(_, record)| wanted(record)).count();
            u64::try_from(found).unwrap_or(u64::MAX)
        };
        let acked = count(|record| matches!(record, Record::Acked { .. }));
        let mut too_little: Vec<String> = (findings.iter())
            .filter(|finding| finding.checked == 0 && options.required.contains(&finding.property))
            .map(|finding| format!("{} was never tested", finding.property.name()))
            .collect();
        if acked < options.acked_min {
            too_little.push(format!("{acked} acked sends; at least {} are required", options.acked_min));
        }
        let outcome = if findings.iter().any(|finding| finding.violations > 0) {
            Outcome::Violated
        } else if too_little.is_empty() {
            Outcome::Passed
        } else {
            Outcome::TooLittle
        };
        Self {
            outcome,
            acked,
            refused: count(|record| matches!(record, Record::Refused { .. })),
            unknown: count(|record| matches!(record, Record::Unknown { .. })),
            observed: count(|record| matches!(record, Record::Observed { .. })),
            longest_gap: longest_gap(records),
            findings,
            too_little,
        }
    }

    /// Whether every property held and every required one was tested.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }

    /// The finding of one property.
    #[must_use]
    pub fn finding(&self, property: Property) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.property == property)
    }
}

/// See [`Report::longest_gap`]. The lines are in the order of time.
fn longest_gap(records: &Records) -> u64 {
    let mut waiting: Set<RequestKey> = Set::default();
    let (mut since, mut longest) = (0, 0);
    for (_, record) in &records.lines {
        match *record {
            Record::Invoke { at, send, .. } => {
                if waiting.is_empty() {
                    since = at;
                }
                waiting.insert(send);
            }
            Record::Acked { at, send, .. } => {
                let gap = at.saturating_sub(since);
                // An ack without a waiting client is a repeated ack.
                if waiting.remove(&send) {
                    (since, longest) = (at, longest.max(gap));
                }
            }
            Record::Refused { send } | Record::Unknown { send } => _ = waiting.remove(&send),
            _ => {}
        }
    }
    longest
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let word = match finding {
                Finding { violations: 1.., .. } => "BROKEN",
                Finding { checked: 0, .. } => "untested",
                _ => "kept",
            };
            writeln!(f, "{word:8} {:12} {} checked", finding.property.name(), finding.checked)?;
            if let Some(witness) = &finding.witness {
                writeln!(f, "         {} (1 of {} violations)", witness.sentence, finding.violations)?;
                let lines: Vec<String> = witness.lines.iter().map(u64::to_string).collect();
                writeln!(f, "         see line {}", lines.join(", "))?;
            }
        }
        for why in &self.too_little {
            writeln!(f, "too little: {why}")?;
        }
        writeln!(f, "longest gap between acks: {} ms", self.longest_gap / 1_000_000)?;
        let Self { acked, refused, unknown, observed, .. } = self;
        write!(f, "{acked} acked, {refused} refused, {unknown} unknown, {observed} observed: ")?;
        f.write_str(match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Violated => "VIOLATED",
            Outcome::TooLittle => "tested too little",
        })
    }
}
