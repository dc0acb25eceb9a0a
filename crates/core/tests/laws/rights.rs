//! The table of rights in `docs/rights.md` is what [`may`] decides. `BLESS=1` rewrites it.

use std::fmt::Write as _;
use std::path::Path;

use conclave_core::access::{Actor, Deed, Posting, Powers, Role, RoomKind, RoomPolicy, may};

const ACTORS: [&str; 8] = [
    "owner",
    "moderator",
    "member",
    "guest of the room",
    "user",
    "banned user",
    "guest account",
    "cluster admin",
];

/// Each column of the table. The last four are no members of the room.
fn actor(name: &str) -> Actor {
    let none = Actor::default();
    let member = |role| Actor { role: Some(role), ..none };
    match name {
        "owner" => member(Role::Owner),
        "moderator" => member(Role::Moderator),
        "member" => member(Role::Member),
        "guest of the room" => member(Role::Guest),
        "user" => none,
        "banned user" => Actor { banned: true, ..none },
        "guest account" => Actor { powers: Powers { guest: true, ..Powers::default() }, ..none },
        "cluster admin" => Actor { powers: Powers { admin: true, ..Powers::default() }, ..none },
        other => panic!("{other} is no column"),
    }
}

fn deeds() -> Vec<(&'static str, Deed)> {
    let add = |role, banned| Deed::Add { role, banned };
    vec![
        ("find and read the room (`ListRooms`, `History`, `JoinChat`, `Members`)", Deed::Read),
        ("join (`join`)", Deed::Join),
        ("leave (`leave`)", Deed::Leave),
        ("write (`text`)", Deed::Post),
        ("reply, edit an own message (`post`, `edit`)", Deed::Post),
        ("react (`react`)", Deed::React),
        ("delete an own message (`delete`)", Deed::Retract),
        ("delete somebody else's message", Deed::Erase),
        ("set the topic, pin (`topic`, `pin`)", Deed::Arrange),
        ("add a guest or a member (`add_member`)", add(Role::Member, false)),
        ("add a moderator or an owner", add(Role::Owner, false)),
        ("add a banned user again", add(Role::Member, true)),
        ("remove or mute a member (`remove_member`, `mute`)", Deed::Restrain { of: Some(Role::Member) }),
        ("remove or mute a moderator", Deed::Restrain { of: Some(Role::Moderator) }),
        ("remove or mute an owner", Deed::Restrain { of: Some(Role::Owner) }),
        ("ban somebody who is no member", Deed::Restrain { of: None }),
        ("give a role, change the policy, archive (`set_role`, `set_policy`)", Deed::Govern),
    ]
}

fn table() -> String {
    let mut out = String::new();
    let mut part = |title: &str, policy: RoomPolicy| {
        writeln!(out, "### {title}\n\n| | {} |\n|---{}|", ACTORS.join(" | "), "|---".repeat(ACTORS.len()))
            .unwrap();
        for (name, deed) in deeds() {
            write!(out, "| {name} ").unwrap();
            for column in ACTORS {
                let cell = match may(actor(column), policy, deed) {
                    Ok(()) => "yes".to_owned(),
                    Err(refusal) => format!("`{}`", refusal.word()),
                };
                write!(out, "| {cell} ").unwrap();
            }
            out.push_str("|\n");
        }
        out.push('\n');
    };
    let policy = RoomPolicy::default();
    let moderated = RoomPolicy { posting: Posting::Moderators, ..policy };
    part("Open rooms", policy);
    part("Private rooms", RoomPolicy { kind: RoomKind::Private, ..policy });
    part("Direct conversations", RoomPolicy { kind: RoomKind::Direct, ..policy });
    part("Open rooms where moderators write", moderated);
    part("Archived open rooms", RoomPolicy { archived: true, ..policy });
    out
}

#[test]
fn the_documented_rights_are_those_of_the_state_machine() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rights.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, rest) = text.split_once("<!-- rights begin -->\n").unwrap();
    let (said, tail) = rest.split_once("<!-- rights end -->").unwrap();
    let says = format!("\n{}", table());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, format!("{head}<!-- rights begin -->\n{says}<!-- rights end -->{tail}"))
            .unwrap();
    } else {
        assert_eq!(said, says, "docs/rights.md says something else (BLESS=1 rewrites it)");
    }
}

/// A higher role may do everything that a lower one may, in every room.
#[test]
fn a_higher_role_may_do_no_less() {
    let kinds = [RoomKind::Open, RoomKind::Private, RoomKind::Direct];
    let roles = [None, Some(Role::Guest), Some(Role::Member), Some(Role::Moderator), Some(Role::Owner)];
    for kind in kinds {
        for posting in [Posting::All, Posting::Moderators] {
            for archived in [false, true] {
                let policy = RoomPolicy { kind, posting, archived, ..RoomPolicy::default() };
                for (_, deed) in deeds() {
                    // Leaving is for whoever is there, and changes nothing for others.
                    let allowed =
                        roles.map(|role| may(Actor { role, ..Actor::default() }, policy, deed).is_ok());
                    assert!(allowed.is_sorted(), "{policy:?} {deed:?}: {allowed:?}");
                }
            }
        }
    }
}
