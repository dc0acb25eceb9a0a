//! Private rooms, members, roles and direct conversations from the command line.

use crate::harness::{Ran, Up, run};

/// Runs a command as somebody.
fn by(up: &Up, user: &str, args: &[&str]) -> Ran {
    run(up.command(args).env("CONCLAVE_USER", user), b"")
}

#[test]
fn a_private_room_its_members_and_their_roles() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2"]);
    for user in ["bob", "carol"] {
        by(&up, user, &["send", "general", "hello"]).expect(0);
    }
    by(&up, "ana", &["create", "--private", "plans"]).expect(0);
    by(&up, "ana", &["send", "plans", "between us"]).expect(0);
    for refused in [
        &["history", "plans", "--linearizable"][..],
        &["send", "plans", "hello?"],
        &["join", "plans"],
        &["members", "plans"],
        &["tail", "plans", "--no-follow"],
    ] {
        let refused = by(&up, "bob", refused).expect(4);
        assert!(refused.err.contains("you are not a member of #plans"), "{refused:#?}");
    }
    assert!(!by(&up, "bob", &["rooms", "--linearizable"]).expect(0).out.contains("plans"));
    by(&up, "ana", &["add", "plans", "@bob"]).expect(0);
    let unknown = by(&up, "ana", &["add", "plans", "nobody-here"]).expect(4);
    assert!(unknown.err.contains("there is no user of this name"), "{unknown:#?}");
    let read = by(&up, "bob", &["history", "plans", "--linearizable", "--json"]).expect(0).json();
    let kinds: Vec<_> = read.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["created", "message", "member_added"]);
    assert_eq!((&read[2]["user"], &read[2]["role"]), (&"bob".into(), &"member".into()));

    let refused = by(&up, "bob", &["role", "plans", "bob", "owner"]).expect(4);
    assert!(refused.err.contains("your role in the room does not allow this"), "{refused:#?}");
    by(&up, "ana", &["role", "plans", "bob", "moderator"]).expect(0);
    by(&up, "bob", &["add", "plans", "carol", "--role", "guest"]).expect(0);
    by(&up, "bob", &["mute", "plans", "carol", "--for", "1h"]).expect(0);
    assert!(by(&up, "carol", &["send", "plans", "mmm"]).expect(4).err.contains("muted"));
    by(&up, "bob", &["unmute", "plans", "carol"]).expect(0);
    by(&up, "carol", &["send", "plans", "free"]).expect(0);
    let members = by(&up, "ana", &["members", "plans", "--json"]).expect(0).json();
    let members: Vec<_> =
        members.iter().map(|one| (one["user"].as_str().unwrap(), one["role"].as_str().unwrap())).collect();
    assert_eq!(members, [("ana", "owner"), ("bob", "moderator"), ("carol", "guest")]);

    by(&up, "bob", &["remove", "plans", "carol", "--reason", "done here"]).expect(0);
    by(&up, "ana", &["send", "plans", "without carol"]).expect(0);
    let seen = by(&up, "carol", &["tail", "plans", "--since", "0", "--no-follow"]).expect(4);
    assert!(
        seen.out.contains("bob removed carol: done here") && !seen.out.contains("without carol"),
        "{seen:#?}"
    );
    by(&up, "ana", &["policy", "plans", "--past", "since-join"]).expect(0);
    by(&up, "ana", &["add", "plans", "carol"]).expect(0);
    let seen = by(&up, "carol", &["history", "plans", "--linearizable"]).expect(0).out;
    assert!(!seen.contains("without carol") && seen.contains("ana added carol"), "{seen}");
    by(&up, "ana", &["policy", "plans", "--posting", "moderators"]).expect(0);
    by(&up, "ana", &["archive", "plans"]).expect(0);
    assert!(by(&up, "ana", &["send", "plans", "too late"]).expect(1).err.contains("archived"));
    up.stop();
}

#[test]
fn a_direct_conversation_is_one_whoever_begins_it() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2", "--nodes", "1"]);
    for user in ["ana", "bob", "carol"] {
        by(&up, user, &["send", "general", "hello"]).expect(0);
    }
    by(&up, "ana", &["dm", "bob", "lunch?"]).expect(0);
    let name = by(&up, "bob", &["dm", "@ana"]).expect(0).out.trim().to_owned();
    assert!(name.starts_with(":d:"), "{name}");
    by(&up, "bob", &["send", &name, "yes"]).expect(0);
    let read = by(&up, "ana", &["history", &name, "--json"]).expect(0).json();
    let bodies: Vec<_> =
        read.iter().filter(|event| event["kind"] == "message").map(|event| &event["body"]).collect();
    assert_eq!(bodies, ["lunch?", "yes"]);
    by(&up, "carol", &["history", &name]).expect(4);
    let rooms = by(&up, "bob", &["rooms"]).expect(0);
    assert!(rooms.out.lines().any(|line| line.contains(&name) && line.contains("ana, bob")), "{rooms:#?}");
    let notes = by(&up, "ana", &["dm", "ana", "note to self", "--json"]).expect(0).json();
    assert_ne!(notes[0]["room"], name);
    up.stop();
}
