//! The configuration file.

use std::path::Path;

use crate::harness::{Ran, command, run};

fn show(file: &Path, environment: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = command(args);
    command.env("CONCLAVE_CONFIG", file).envs(environment.iter().copied());
    run(&mut command, b"")
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("conclave.toml");
    std::fs::write(&file, "timeout = \"3s\"\nuser = \"file\"\nzone = \"file.example\"\njson = true\n")
        .unwrap();
    let environment = [("CONCLAVE_USER", "environment"), ("CONCLAVE_ZONE", "environment.example")];
    let ran = show(&file, &environment, &["--zone", "flag.example", "config", "show", "--json"]).expect(0);
    let settings = ran.json();
    let of = |name: &str| {
        let found = settings.iter().find(|one| one["setting"] == name);
        let found = found.unwrap_or_else(|| panic!("{name} is missing in {ran:#?}"));
        (found["value"].as_str(), found["from"].as_str())
    };
    assert_eq!(of("zone"), (Some("flag.example"), Some("flag")));
    assert_eq!(of("user"), (Some("environment"), Some("CONCLAVE_USER")));
    assert_eq!(of("timeout"), (Some("3s"), file.to_str()));
    assert_eq!(of("quiet"), (Some("false"), Some("default")));

    // A command is run with what is shown.
    let ran = show(&file, &[], &["-s", "127.0.0.1:1", "--timeout", "100ms", "ping"]).expect(6);
    assert!(ran.err.starts_with('{'), "json is on: {ran:#?}");
}

#[test]
fn a_file_that_cannot_be_used_ends_the_command_with_2() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("conclave.toml");
    let failed = |text: &str, parts: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let ran = show(&file, &[], &["ping"]).expect(2);
        for part in parts {
            assert!(ran.err.contains(part), "{part:?} is missing in {ran:#?}");
        }
    };
    failed("timeuot = \"3s\"", &["timeuot", "the nearest setting is timeout"]);
    failed("timeout = ", &["conclave.toml"]);
    failed("timeout = \"soon\"", &["'soon'", "the values of", "conclave.toml"]);
    failed(&format!("user = \"{}\"", "a".repeat(70_000)), &["65536 bytes"]);
    std::fs::remove_file(&file).unwrap();
    assert!(show(&file, &[], &["ping"]).expect(2).err.contains("conclave.toml"));
    show(&file, &[], &["version"]).expect(0);
}
