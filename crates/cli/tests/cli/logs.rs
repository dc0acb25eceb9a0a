//! The logs of servers while one of them is dead: few lines, and no unexpected warning.

use std::time::Instant;

use rustix::process::Signal;

use crate::harness::{Up, free_base_port, signal, until};

/// Lines for each second and survivor while a node is dead.
const LINES_PER_SECOND: f64 = 10.0;
/// Lines of one survivor for the death itself: the lost link, and a change of leader in each shard, more than once on a
/// busy machine.
const LINES_ONCE: f64 = 60.0;
/// Messages that are sent meanwhile: work that takes a while, and that a dead node must not make noisy.
const SENDS: usize = 40;

/// Warnings and errors that are allowed when a node dies: the beginning of each line, and the reason.
const ANNOUNCED: [(&str, &str); 0] = [];

#[test]
fn a_dead_node_costs_the_others_few_lines_and_no_unannounced_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cluster");
    let port = free_base_port().to_string();
    let args = ["--dir", dir.to_str().expect("a path in UTF-8"), "--base-port", &port, "--no-restart"];
    // Long election timeouts, so that a busy machine causes no elections.
    let up = Up::start_in(scratch.path(), &args, &[("CONCLAVE_TIMING", "wan")]);
    up.until_healthy();
    let lines = |node: &str| -> Vec<String> {
        let text = std::fs::read_to_string(dir.join(format!("{node}.log"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let survivors = ["node1", "node2"];
    let before = survivors.map(|node| lines(node).len());
    let began = Instant::now();
    signal(up.pid_of("node3"), Signal::KILL);
    until("the others notice", || {
        survivors.iter().all(|node| lines(node)[..].iter().any(|line| line.contains("link lost")))
    });
    for number in 0..SENDS {
        up.run(&["send", "general", &format!("message {number}")]).expect(0);
    }
    let seconds = began.elapsed().as_secs_f64();
    for (node, before) in survivors.into_iter().zip(before) {
        let new = lines(node).split_off(before);
        let most = LINES_ONCE + LINES_PER_SECOND * seconds;
        assert!((new.len() as f64) < most, "{node} wrote {} lines in {seconds} s: {new:#?}", new.len());
        let surprising: Vec<&String> = new
            .iter()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
            .filter(|line| !ANNOUNCED.iter().any(|(beginning, _)| line.contains(beginning)))
            .collect();
        assert!(surprising.is_empty(), "{node} warned of what no list announces: {surprising:#?}");
    }
    up.stop();
}
