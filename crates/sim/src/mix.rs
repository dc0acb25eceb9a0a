//! An experiment generated from a seed: all kinds of faults, several at a time.

use std::time::Duration;

use conclave_chaos::experiment::{Expect, Experiment, Steady, Step, When, Workload};
use conclave_chaos::fault::{Fault, Grudge, Nodes};
use conclave_chaos::schedule::Draws;
use conclave_chaos::time::Span;

/// The experiment's name.
pub(crate) const NAME: &str = "mix";
/// No fault begins later than this, milliseconds.
const FAULTS_UNTIL_MS: u64 = 24_000;
/// The duration of the workload.
const DURATION: Duration = Duration::from_secs(30);

/// The experiment of a seed.
pub(crate) fn experiment(seed: u64) -> Experiment {
    // Another sequence than the one that chooses the targets.
    let mut draws = Draws::new(!seed);
    let mut method = Vec::new();
    let mut at_ms = 1_000 + draws.below(2_000);
    // Some seeds have many faults, and some leave time between two faults.
    let between = [300, 1_500, 4_000][usize::try_from(draws.below(3)).unwrap_or(0)];
    while at_ms < FAULTS_UNTIL_MS {
        let (fault, nodes) = draw_fault(&mut draws);
        // Some faults last so long that the other nodes purge their logs meanwhile.
        let at_most = if draws.below(5) == 0 { 14_000 } else { 4_000 };
        let lasts = Duration::from_millis(200 + draws.below(at_most));
        let lasts = lasts.min(DURATION.saturating_sub(Duration::from_millis(at_ms)));
        method.push(Step { when: When::At(Span(Duration::from_millis(at_ms))), fault, nodes, lasts });
        at_ms += 200 + draws.below(2 * between);
    }
    method.extend(resolver_steps(seed));
    let rate = [40, 100, 200][usize::try_from(draws.below(3)).unwrap_or(0)];
    Experiment {
        name: NAME.to_owned(),
        proves: "Every promise holds under any mix of faults on three nodes.".to_owned(),
        seed: Some(seed),
        workload: Workload {
            senders: 4,
            readers: 3,
            rooms: 2,
            visitors: 2,
            rate,
            duration: DURATION,
            ..Workload::default()
        },
        steady: Steady { acked_per_second: 20, p99: Duration::from_secs(1) },
        method,
        recover: Duration::from_secs(30),
        finish: Duration::from_secs(60),
        expect: Expect::default(),
    }
}

/// Faults of the name servers, from a separate sequence, so that adding them did not change the faults of the nodes.
fn resolver_steps(seed: u64) -> Vec<Step> {
    let mut draws = Draws::new(seed.rotate_left(16));
    let mut steps = Vec::new();
    let mut at_ms = 1_000 + draws.below(4_000);
    while at_ms < FAULTS_UNTIL_MS {
        let fault = match draws.below(10) {
            0..2 => Fault::Kill,
            2 => Fault::PowerCut { torn: false },
            3 => Fault::Restart,
            4 => Fault::Pause,
            5 => Fault::Isolate,
            6..8 => Fault::ResolverStale,
            _ => Fault::ResolverSlow { delay: Duration::from_millis(1 + draws.below(2_000)) },
        };
        let lasts = Duration::from_millis(500 + draws.below(5_000));
        let lasts = lasts.min(DURATION.saturating_sub(Duration::from_millis(at_ms)));
        let when = When::At(Span(Duration::from_millis(at_ms)));
        steps.push(Step { when, fault, nodes: Nodes::Resolver, lasts });
        at_ms += 1_500 + draws.below(5_000);
    }
    steps
}

fn draw_fault(draws: &mut Draws) -> (Fault, Nodes) {
    let nodes = match draws.below(8) {
        0..3 => Nodes::Leader,
        3..5 => Nodes::Follower,
        5 => Nodes::One,
        6 => Nodes::Minority,
        _ => Nodes::Majority,
    };
    let fault = match draws.below(20) {
        0..3 => Fault::Kill,
        3..6 => Fault::PowerCut { torn: draws.below(3) > 0 },
        6 => Fault::Restart,
        7 => Fault::Pause,
        8..10 => Fault::Isolate,
        10 => Fault::Partition { grudge: Grudge::Both },
        11 => Fault::Partition { grudge: Grudge::OneWay },
        12 => Fault::Partition { grudge: Grudge::MajoritiesRing },
        13 => Fault::Partition { grudge: Grudge::Bridge },
        14 => Fault::Delay {
            delay: Duration::from_millis(1 + draws.below(80)),
            jitter: Duration::from_millis(draws.below(60)),
        },
        15 => Fault::Loss { percent: u8::try_from(1 + draws.below(25)).unwrap_or(1) },
        16 => Fault::SlowDisk { delay: Duration::from_millis(5 + draws.below(200)) },
        17 => Fault::FailSync,
        18 => Fault::FullDisk,
        _ => {
            let step = i64::try_from(draws.below(7_200_000)).unwrap_or(0);
            Fault::ClockStep { offset_ms: step - 3_600_000 }
        }
    };
    // A fault of all nodes at once shows what a restart of the whole cluster loses.
    let everybody =
        matches!(fault, Fault::Kill | Fault::PowerCut { .. } | Fault::Restart) && draws.below(5) == 0;
    (fault, if everybody { Nodes::All } else { nodes })
}
