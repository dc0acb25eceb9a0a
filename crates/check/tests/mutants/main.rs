//! Tests the checker itself: a good history passes, and each kind of damage to a history violates the
//! property that it is meant to violate.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod damage;
mod documents;
mod edits;
mod good;
mod large;
mod private;
mod program;

use conclave_check::{Options, Outcome, Property, Records, Report, check};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::damage::Damage;
use crate::good::Shape;

fn judge(lines: &[Value]) -> Report {
    let text: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let options = Options { required: Property::ALL.to_vec(), ..Options::default() };
    check(&Records::read(text.as_slice()).unwrap(), &options)
}

proptest! {
    #[test]
    fn a_good_history_passes(seed in any::<u64>(), shape in shape()) {
        let report = judge(&good::history(seed, &shape));
        prop_assert!(report.findings.iter().all(|finding| finding.violations == 0), "{}", report);
        prop_assert!(report.outcome != Outcome::Violated);
    }

    #[test]
    fn a_good_history_of_a_private_room_passes(seed in any::<u64>()) {
        let report = judge(&private::history(seed, 0));
        prop_assert!(report.findings.iter().all(|finding| finding.violations == 0), "{}", report);
        prop_assert!(report.finding(Property::AccessExact).is_some_and(|finding| finding.checked > 100), "{}", report);
    }
}

proptest! {
    #[test]
    fn a_good_history_of_edits_passes(seed in any::<u64>()) {
        let report = judge(&edits::history(seed, 0));
        prop_assert!(report.findings.iter().all(|finding| finding.violations == 0), "{}", report);
        for property in Property::WITH_EDITS {
            prop_assert!(report.finding(property).is_some_and(|finding| finding.checked > 0), "{}", report);
        }
    }
}

/// Every kind of damage.
fn damages() -> impl Iterator<Item = &'static Damage> {
    damage::ALL.iter().chain(edits::ALL)
}

proptest! {
    // Each case judges some two dozen histories.
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Applies every kind of damage at a position that the seed chooses.
    #[test]
    fn a_damaged_history_violates_the_damaged_property(seed in any::<u64>()) {
        let lines = good::history(seed, &Shape::default());
        prop_assert!(judge(&lines).passed(), "{}", judge(&lines));
        for damage in damages() {
            let mut damaged = lines.clone();
            (damage.does)(&mut damaged, seed);
            prop_assert!(damaged != lines, "{} does nothing", damage.name);
            let report = judge(&damaged);
            let finding = report.finding(damage.breaks).unwrap();
            prop_assert!(finding.violations > 0, "{} passes:\n{}", damage.name, report);
            let witness = finding.witness.as_ref().unwrap();
            prop_assert!((1..=3).contains(&witness.lines.len()), "{:?}", witness);
            prop_assert_eq!(report.outcome, Outcome::Violated);
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    (1..5_u64, 1..4_u64, 0..4_usize, 0..400_usize).prop_map(|(sessions, rooms, subscribers, steps)| Shape {
        sessions,
        rooms,
        subscribers,
        steps,
    })
}

#[test]
fn every_property_has_a_mutant() {
    for property in Property::every() {
        let mutants = damages().filter(|damage| damage.breaks == property).count();
        assert!(mutants >= 2, "{} has {mutants} mutants", property.name());
    }
}

#[test]
fn the_longest_gap_counts_only_while_a_client_waits() {
    let line = |kind: &str, at: u64, no: u64| json!({"kind": kind, "at": at, "session": 1, "room": 1, "no": no, "what": "message", "body": "x", "seq": no});
    let gap = |lines: &[(&str, u64, u64)]| {
        judge(&lines.iter().map(|(kind, at, no)| line(kind, *at, *no)).collect::<Vec<_>>()).longest_gap
    };
    assert_eq!(gap(&[]), 0);
    // No client waits from 20 to 100.
    assert_eq!(gap(&[("invoke", 10, 1), ("ok", 20, 1), ("invoke", 100, 2), ("ok", 130, 2)]), 30);
    // Other sends are acked while the first one waits.
    assert_eq!(gap(&[("invoke", 10, 1), ("invoke", 15, 2), ("ok", 40, 2), ("ok", 60, 1)]), 30);
    // A client no longer waits for a send that it gave up or that was refused.
    assert_eq!(gap(&[("invoke", 10, 1), ("unknown", 20, 1), ("invoke", 90, 2), ("refused", 95, 2)]), 0);
    assert_eq!(gap(&[("invoke", 10, 1), ("unknown", 20, 1), ("invoke", 90, 2), ("ok", 95, 2)]), 5);
}

#[test]
fn an_empty_history_proves_nothing() {
    assert_eq!(judge(&[]).outcome, Outcome::TooLittle);
}

#[test]
fn with_others_the_events_of_unrecorded_clients_are_no_phantoms() {
    let mut lines = good::history(3, &Shape::default());
    lines.retain(|line| {
        line["session"] != 4 || ["observed", "final"].iter().any(|kind| line["kind"] == *kind)
    });
    assert!(judge(&lines).finding(Property::NoPhantom).unwrap().violations > 0);
    let text: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
    let options = Options { others: true, ..Options::default() };
    let report = check(&Records::read(text.as_slice()).unwrap(), &options);
    assert!(report.passed(), "{report}");
}
