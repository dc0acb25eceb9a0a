//! Replies, edits, deletions and reactions from the command line.

use crate::harness::{Ran, Up, run};

/// Runs a command as somebody.
fn by(up: &Up, user: &str, args: &[&str]) -> Ran {
    run(up.command(args).env("CONCLAVE_USER", user), b"")
}

#[test]
fn messages_are_edited_answered_reacted_to_and_deleted() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2"]);
    by(&up, "ana", &["create", "plans"]).expect(0);
    let said = by(&up, "ana", &["send", "plans", "lunch at noon?"]).expect(0).out.trim().to_owned();
    assert_eq!(said, "#plans:2");
    by(&up, "ana", &["edit", &said, "lunch", "at", "one?"]).expect(0);
    by(&up, "bob", &["reply", &said, "fine with me"]).expect(0);
    by(&up, "bob", &["reply", "--thread", &said, "where?"]).expect(0);
    by(&up, "bob", &["react", &said, ":+1:"]).expect(0);
    let again = by(&up, "bob", &["react", &said, "👍", "--json"]).expect(0).json();
    assert_eq!(again[0]["changed"], false, "a name and its emoji are the same reaction");

    let refused = by(&up, "bob", &["edit", &said, "dinner?"]).expect(4);
    assert!(refused.err.contains("only its author can edit it"), "{refused:#?}");
    assert!(by(&up, "bob", &["delete", &said]).expect(4).err.contains("does not allow this"));
    assert!(by(&up, "bob", &["react", &said, "lunch"]).expect(2).err.contains("is no emoji"));
    assert!(by(&up, "bob", &["edit", "plans", "x"]).expect(2).err.contains("as `send` prints it"));

    let shown = by(&up, "carol", &["history", "plans", "--linearizable"]).expect(0).out;
    assert!(shown.contains("ana: lunch at one? (edited) [👍 1] (1 in thread)"), "{shown}");
    assert!(
        shown.contains("bob: (to 2) fine with me") && shown.contains("bob: (thread 2) where?"),
        "{shown}"
    );
    assert!(!shown.contains("noon") && !shown.contains("reacted"), "{shown}");
    let log = by(&up, "carol", &["history", "plans", "--linearizable", "--events"]).expect(0).out;
    assert!(log.contains("ana: lunch at noon?") && log.contains("* ana edited 2: lunch at one?"), "{log}");
    let json = by(&up, "carol", &["history", "plans", "--linearizable", "--json"]).expect(0).json();
    let fold = &json[1]["fold"];
    assert_eq!((&fold["body"], &fold["reactions"][0]["count"]), (&"lunch at one?".into(), &1.into()));

    by(&up, "ana", &["delete", &said, "--reason", "moved to the calendar"]).expect(0);
    for args in [
        &["history", "plans", "--linearizable", "--events"][..],
        &["tail", "plans", "--since", "0", "--no-follow"],
    ] {
        let log = by(&up, "carol", args).expect(0).out;
        assert!(!log.contains("lunch"), "{log}");
        assert!(log.contains("* ana deleted 2: moved to the calendar"), "{log}");
    }
    let refused = by(&up, "bob", &["react", &said, ":+1:"]).expect(1);
    assert!(refused.err.contains("the message was deleted"), "{refused:#?}");
    up.stop();
}

#[test]
fn what_is_unread_is_the_same_wherever_one_asks() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2"]);
    for room in ["plans", "ops"] {
        by(&up, "ana", &["create", room]).expect(0);
        by(&up, "bob", &["join", room]).expect(0);
    }
    by(&up, "ana", &["read", "--all"]).expect(0);
    by(&up, "bob", &["send", "plans", "one"]).expect(0);
    let two = by(&up, "bob", &["send", "plans", "two"]).expect(0).out.trim().to_owned();
    by(&up, "bob", &["reply", "--thread", &two, "in its thread"]).expect(0);
    by(&up, "ana", &["send", "plans", "my own does not count"]).expect(0);
    let unread = |args: &[&str]| {
        let listed = by(&up, "ana", args).expect(0).json();
        let row =
            |row: &serde_json::Value| (row["room"].as_str().unwrap().to_owned(), row["unread"].as_u64());
        listed.iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(unread(&["unread", "--json"]), [("plans".to_owned(), Some(2))]);
    by(&up, "bob", &["delete", &two]).expect(0);
    assert_eq!(unread(&["unread", "--json"]), [("plans".to_owned(), Some(1))]);
    assert!(by(&up, "ana", &["unread"]).expect(0).out.contains("#plans"));
    by(&up, "ana", &["read", "plans"]).expect(0);
    assert_eq!(unread(&["unread", "--json"]), []);
    by(&up, "ana", &["read", "plans", "--upto", "1"]).expect(0);
    assert_eq!(unread(&["unread", "--json"]), [], "a marker never goes back");
    let refused = by(&up, "carol", &["read", "plans"]).expect(4);
    assert!(refused.err.contains("not a member"), "{refused:#?}");
    up.stop();
}

#[test]
fn slash_commands_act_upon_messages() {
    let scratch = tempfile::tempdir().unwrap();
    let up = Up::ephemeral(scratch.path(), &["--shards", "2", "--nodes", "1"]);
    let typed = b"helo\n/edit 3 hello\n/react 3 :wave:\n/reply 3 and goodbye\n/delete 99\n";
    let ran = run(up.command(&["chat", "general"]).env("CONCLAVE_USER", "ana"), typed);
    assert!(ran.err.contains("no such event") || ran.out.contains("no such event"), "{ran:#?}");
    let shown = by(&up, "ana", &["history", "general", "--linearizable"]).expect(0).out;
    assert!(shown.contains("ana: hello (edited) [👋 1]"), "{shown}");
    assert!(shown.contains("ana: (to 3) and goodbye"), "{shown}");
    up.stop();
}
