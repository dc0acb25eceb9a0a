use super::*;

fn listed(text: &str) -> Vec<Listed> {
    serde_json::from_str(text).unwrap()
}

/// A container as the engine lists it: its service, more labels, its network and its address there.
fn container(service: &str, labels: &str, network: &str, address: &str) -> String {
    let id = format!("{:0<64}", service.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    format!(
        r#"{{"Id": "{id}", "State": "running", "HostConfig": {{"NetworkMode": "{network}"}},
            "Labels": {{"{PROJECT}": "chat", "{SERVICE}": "{service}", "com.docker.compose.oneoff": "False" {labels}}},
            "NetworkSettings": {{"Networks": {{"{network}": {{"IPAMConfig": null, "IPAddress": "{address}"}}}}}}}}"#
    )
}

fn server(service: &str, address: &str) -> String {
    container(
        service,
        r#", "org.conclave.chaos": "allowed", "org.conclave.chaos.kind": "server""#,
        "mesh",
        address,
    )
}

fn all(containers: &[String]) -> Vec<Listed> {
    listed(&format!("[{}]", containers.join(",")))
}

fn targets(containers: &[String], own: Option<&Own>) -> Result<Vec<(String, Kind, String)>, String> {
    let parts = parts("chat", &all(containers), own, None).map_err(|error| error.to_string())?;
    Ok(parts.into_iter().map(|part| (part.target.name, part.target.kind, part.target.client)).collect())
}

#[test]
fn labels_decide_membership_and_kind() {
    let resolver = r#", "org.conclave.chaos": "allowed", "org.conclave.chaos.kind": "resolver""#;
    let odd = r#", "org.conclave.chaos": "allowed", "org.conclave.chaos.kind": "server", "org.conclave.chaos.port": "7500""#;
    let containers = [
        server("n2", "10.0.0.2"),
        server("n1", "10.0.0.1"),
        container("n3", odd, "mesh", "10.0.0.3"),
        container("dns1", resolver, "mesh", "10.0.0.53"),
        // Neither is what nobody called a part, nor what somebody runs once.
        container("prometheus", "", "mesh", "10.0.0.9"),
        server("n1", "10.0.0.7").replace("\"False\"", "\"True\""),
        server("n1", "10.9.0.1").replace("\"chat\"", "\"another\""),
    ];
    let expected = [
        ("dns1", Kind::Resolver, ""),
        ("n1", Kind::Server, "10.0.0.1:7400"),
        ("n2", Kind::Server, "10.0.0.2:7400"),
        ("n3", Kind::Server, "10.0.0.3:7500"),
    ];
    let expected = expected.map(|(name, kind, client)| (name.to_owned(), kind, client.to_owned()));
    assert_eq!(targets(&containers, None).unwrap(), expected);
}

#[test]
fn a_server_is_reached_by_name_in_a_shared_network_and_else_by_address() {
    let own = |network: &str| Own { networks: [network.to_owned()].into(), project: None };
    let asked = r#"{"IPAMConfig": {"IPv4Address": "10.0.0.3"}, "IPAddress": ""}"#;
    let down = server("n3", "").replace(r#"{"IPAMConfig": null, "IPAddress": ""}"#, asked);
    let cut_off = server("n4", "").replace(r#"{"mesh": {"IPAMConfig": null, "IPAddress": ""}}"#, "{}");
    let containers = [server("n1", "10.0.0.1"), server("n2", ""), down, cut_off];
    let clients = |own: Option<&Own>| {
        let all = targets(&containers, own).unwrap().into_iter();
        all.map(|(_, _, client)| client.trim_end_matches(":7400").to_owned()).collect::<Vec<_>>()
    };
    // A container without an address cannot be reached, but its name must appear in the error.
    assert_eq!(clients(None), ["10.0.0.1", "n2", "10.0.0.3", "n4"]);
    assert_eq!(clients(Some(&own("elsewhere"))), ["10.0.0.1", "n2", "10.0.0.3", "n4"]);
    assert_eq!(clients(Some(&own("mesh"))), ["n1", "n2", "n3", "n4"]);
}

#[test]
fn a_container_that_does_not_allow_faults_is_named_in_the_refusal() {
    for (label, value) in [("org.conclave.chaos", "no"), ("org.conclave.chaos.other", "allowed")] {
        let labels = format!(r#", "org.conclave.chaos.kind": "server", "{label}": "{value}""#);
        let error =
            targets(&[server("n1", "10.0.0.1"), container("n2", &labels, "mesh", "")], None).unwrap_err();
        for part in ["n2", "org.conclave.chaos=allowed", "docker/chaos.env"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn wrong_labels_are_reported() {
    let bad =
        |from: &str, to: &str| targets(&[server("n1", "10.0.0.1").replace(from, to)], None).unwrap_err();
    let kind = bad(r#"kind": "server""#, r#"kind": "cook""#);
    assert!(kind.contains("n1") && kind.contains("cook") && kind.contains("resolver"), "{kind}");
    let port = bad(r#"kind": "server""#, r#"kind": "server", "org.conclave.chaos.port": "77777""#);
    assert!(port.contains("n1") && port.contains("port"), "{port}");
    let twice = targets(&[server("n1", "10.0.0.1"), server("n1", "10.0.0.2")], None).unwrap_err();
    assert!(twice.contains("n1") && twice.contains("two containers"), "{twice}");
    let nobody = targets(&[], None).unwrap_err();
    assert!(nobody.contains("chat") && nobody.contains("docker compose up"), "{nobody}");
}

#[test]
fn the_project_is_the_named_one_or_ours_or_the_only_one() {
    let one = all(&[server("n1", ""), server("n2", "")]);
    let two = all(&[server("n1", ""), server("n1", "").replace("\"chat\"", "\"another\"")]);
    let own = Own { project: Some("mine".to_owned()), ..Own::default() };
    let alone = Own::default();
    let chosen = |named: Option<&str>, own: Option<&Own>, parts: &[Listed]| {
        project(named, own, parts).map_err(|error| error.to_string())
    };
    assert_eq!(chosen(Some("named"), Some(&own), &two).unwrap(), "named");
    assert_eq!(chosen(None, Some(&own), &two).unwrap(), "mine");
    assert_eq!(chosen(None, Some(&alone), &one).unwrap(), "chat");
    assert_eq!(chosen(None, None, &one).unwrap(), "chat");
    let several = chosen(None, None, &two).unwrap_err();
    assert!(several.contains("--project: another, chat"), "{several}");
    assert!(chosen(None, None, &[]).unwrap_err().contains("docker compose up"));
}

#[test]
fn the_newest_version_that_both_sides_have_is_used() {
    let agreed = |newest: &str, oldest: &str| {
        let text = format!(r#"{{"ApiVersion": "{newest}", "MinAPIVersion": "{oldest}"}}"#);
        agree(&serde_json::from_str(&text).unwrap())
    };
    assert_eq!(agreed("1.41", "1.12").unwrap(), "1.41");
    assert_eq!(agreed("1.51", "1.44").unwrap(), "1.51");
    assert_eq!(agreed("1.99", "1.44").unwrap(), "1.51");
    assert!(agreed("1.39", "1.12").unwrap_err().contains("1.40"));
    assert!(agreed("2.1", "1.60").unwrap_err().contains("1.60"));
    assert!(agreed("new", "").unwrap_err().contains("new"));
}

#[test]
fn container_states_are_distinguished() {
    let state = |text: &str| serde_json::from_str::<ContainerState>(text).unwrap();
    let running =
        state(r#"{"Status": "running", "Running": true, "Paused": false, "Restarting": false, "Pid": 7}"#);
    assert!(running.is_up() && !running.is_down());
    let paused = state(r#"{"Status": "paused", "Running": true, "Paused": true}"#);
    assert!(!paused.is_up() && !paused.is_down() && paused.is_paused());
    let dead = state(r#"{"Status": "exited", "Running": false, "ExitCode": 137}"#);
    assert!(!dead.is_up() && dead.is_down() && !dead.is_restarting());
    // An engine says of those that wait for their next start that they run.
    let waiting = state(r#"{"Status": "restarting", "Running": true, "Restarting": true}"#);
    assert!(!waiting.is_up() && waiting.is_down() && waiting.is_restarting());
}

#[test]
fn fault_injection_is_enabled_by_argument_or_environment() {
    let allows = |text: &str| serde_json::from_str::<Config>(text).unwrap().allows_faults();
    assert!(allows(r#"{"Env": ["A=b", "CONCLAVE_ALLOW_FAULTS=true"], "Cmd": ["server"]}"#));
    assert!(allows(r#"{"Env": null, "Cmd": ["server", "--allow-faults"]}"#));
    assert!(!allows(r#"{"Env": ["CONCLAVE_ALLOW_FAULTS=false"], "Cmd": ["server"]}"#));
    assert!(!allows(r#"{"Env": ["CONCLAVE_ALLOW_FAULTS="], "Cmd": null}"#));
    assert!(!allows(r#"{"Env": ["X_CONCLAVE_ALLOW_FAULTS=true"]}"#));
    assert!(!allows("{}"));
}

#[test]
fn a_container_id_is_twelve_lowercase_hex_digits() {
    assert!(is_container_id("0123456789ab") && !is_container_id("n1") && !is_container_id("0123456789aB"));
}

#[test]
fn servers_and_name_servers_have_the_authority_of_their_cluster() {
    let labels = r#", "org.conclave.chaos": "allowed", "org.conclave.chaos.kind": "resolver""#;
    let there = all(&[server("n1", "10.0.0.1"), container("dns1", labels, "mesh", "10.0.0.53")]);
    for authority in [None, Some(CaId(7))] {
        let found = parts("chat", &there, None, authority).unwrap();
        let of = |part: &Part| part.target.authority;
        assert_eq!(found.iter().map(of).collect::<Vec<_>>(), [authority, authority]);
    }
}

#[test]
fn the_zone_address_lists_the_name_servers_that_have_an_address() {
    let resolver = |name: &str, port: &str, address: &str| {
        let labels =
            format!(r#", "org.conclave.chaos": "allowed", "org.conclave.chaos.kind": "resolver"{port}"#);
        container(name, &labels, "mesh", address)
    };
    let odd = r#", "org.conclave.chaos.port": "7453""#;
    let there =
        [resolver("dns1", "", "10.0.0.53"), resolver("dns2", odd, "10.0.0.54"), resolver("dns3", "", "")];
    let found = parts("chat", &all(&there), None, None).unwrap();
    assert_eq!(zone("here", &found).unwrap(), "conclave+srv://here?ns=10.0.0.53:53,10.0.0.54:7453");
    let without =
        parts("chat", &all(&[server("n1", "10.0.0.1"), resolver("dns1", "", "")]), None, None).unwrap();
    assert_eq!(zone("here", &without), None);
    // In several networks: the address in the network of this program's container, if it has one there.
    let one = r#"{"mesh": {"IPAMConfig": null, "IPAddress": "10.0.0.53"}}"#;
    let two = r#"{"mesh": {"IPAddress": "10.0.0.53"}, "watch": {"IPAddress": "10.0.9.53"}}"#;
    let there = resolver("dns1", "", "10.0.0.53").replace(one, two);
    for (network, expected) in [("watch", "10.0.9.53"), ("mesh", "10.0.0.53"), ("elsewhere", "10.0.0.53")] {
        let own = Own { networks: [network.to_owned()].into(), project: None };
        let found = parts("chat", &all(std::slice::from_ref(&there)), Some(&own), None).unwrap();
        assert_eq!(found[0].asked_at, Some(format!("{expected}:53")), "{network}");
    }
    let config = |text: &str| serde_json::from_str::<Config>(text).unwrap();
    assert_eq!(config(r#"{"Env": ["A=b", "CONCLAVE_ZONE=x.example"]}"#).zone(), Some("x.example"));
    assert_eq!(config(r#"{"Env": ["A=b"]}"#).zone(), None);
}
