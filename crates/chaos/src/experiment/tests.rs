use super::*;

fn with(method: &str) -> Result<Experiment, Unusable> {
    Experiment::parse(&format!("name: x\nproves: y\nworkload: {{duration: 30s}}\nmethod:\n{method}"))
}

fn why(method: &str) -> String {
    with(method).unwrap_err().to_string()
}

#[test]
fn a_step_is_parsed_with_the_keys_of_its_fault() {
    let read = with(
        "  - {at: 5s, fault: kill, nodes: leader, for: 3s}
  - {every: 4s, between: [6s, 20s], fault: delay, delay: 50ms, jitter: 10ms, nodes: node2}
  - {at: 20s, fault: partition, grudge: one-way}
",
    )
    .unwrap();
    let span = |seconds| Span(Duration::from_secs(seconds));
    assert_eq!(
        read.method[0],
        Step {
            when: When::At(span(5)),
            fault: Fault::Kill,
            nodes: Nodes::Leader,
            lasts: Duration::from_secs(3),
        }
    );
    assert_eq!(read.method[1].when, When::Every(span(4), span(6)..span(20)));
    assert_eq!(read.method[1].nodes, Nodes::Named("node2".to_owned()));
    assert_eq!(read.method[2].fault, Fault::Partition { grudge: Grudge::OneWay });
}

#[test]
fn every_mistake_is_reported() {
    for (method, part) in [
        ("  - {at: 5s, fault: explode}", "no fault called"),
        ("  - {at: 5s, fault: delay}", "delay needs `delay`"),
        ("  - {at: 5s, fault: kill, percent: 4}", "kill does not take `percent`"),
        ("  - {fault: kill}", "either `at`"),
        ("  - {at: 29s, fault: kill, for: 5s}", "after the workload"),
        ("  - {every: 1s, between: [9s, 8s], fault: kill, for: 1s}", "never done"),
        ("  - {at: 1s, fault: loss, percent: 95}", "use `isolate`"),
        ("  - {at: 1s, fault: loss, percent: 300}", "1 to 100"),
        ("  - {at: 1s, fault: duplicate, percent: 0, delay: 1s}", "1 to 100"),
        ("  - {at: 1s, fault: duplicate, percent: 5}", "needs `delay`"),
        ("  - {at: 1s, fault: clock-skew, percent: -95}", "-90 to 1000"),
        ("  - {at: 1s, fault: resolver-slow}", "needs `delay`"),
        ("  - {at: soon, fault: kill}", "250ms"),
        ("  - {at: 1s, fault: kill, colour: red}", "colour"),
        ("  []", "0 steps"),
    ] {
        let error = why(method);
        assert!(error.contains(part), "{method}: {error}");
    }
}

#[test]
fn a_copy_is_put_back_only_where_it_was_made_and_while_it_is_kept() {
    let method = |copy: &str, restore: &str| {
        with(&format!("  - {{fault: copy-data-dir, {copy}}}\n  - {{fault: restore-old-copy, {restore}}}"))
    };
    let copy = "at: 1s, nodes: \"#3\", for: 20s";
    let read = method(copy, "at: 9s, nodes: \"#3\", for: 12s").unwrap();
    assert_eq!((&read.method[0].fault, &read.method[1].fault), (&Fault::CopyDataDir, &Fault::RestoreOldCopy));
    for (copy, restore) in [
        (copy, "at: 9s, nodes: \"#3\", for: 13s"),
        (copy, "at: 1s, nodes: \"#3\""),
        (copy, "at: 9s, nodes: \"#2\""),
        (copy, "every: 5s, between: [5s, 9s], nodes: \"#3\""),
        ("at: 1s, nodes: one, for: 20s", "at: 9s, nodes: one"),
    ] {
        let error = method(copy, restore).unwrap_err().to_string();
        assert!(error.contains("step 2 puts back a copy that is not there"), "{copy} {restore}: {error}");
    }
    assert!(why("  - {at: 1s, fault: restore-old-copy, nodes: node3}").contains("step 1 puts back"));
    assert!(
        why("  - {at: 1s, fault: copy-data-dir, nodes: node3, torn: true}").contains("does not take `torn`")
    );
}

#[test]
fn a_message_longer_than_servers_accept_is_refused() {
    let sends = |bytes: usize| {
        Experiment::parse(&format!(
            "{{name: x, proves: y, workload: {{text_bytes: {bytes}}}, method: [{{at: 5s, fault: kill}}]}}"
        ))
    };
    assert!(sends(TEXT_BYTES_MAX).is_ok());
    assert!(sends(TEXT_BYTES_MAX + 1).unwrap_err().to_string().contains("16384"));
}

#[test]
fn every_shipped_experiment_is_valid_and_names_its_claim() {
    for name in Experiment::names() {
        let experiment = Experiment::parse(Experiment::shipped(name).unwrap()).unwrap();
        assert_eq!(experiment.name, name);
        assert!(experiment.proves.len() > 20, "{name} proves {:?}", experiment.proves);
    }
}
