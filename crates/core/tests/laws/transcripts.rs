//! The answers of the state machine, as transcripts in `tests/machine/`: a line after `>` is a
//! command, the indented lines below it are its outcome. `BLESS=1` rewrites the transcripts; the
//! change then shows in the diff.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use conclave_core::access::{Member, RoomPolicy};
use conclave_core::mem::MemView;
use conclave_core::message::{Answer, MessageState, Reaction};
use conclave_core::record::{Founding, SessionRecord, UserRecord};
use conclave_core::session::{ENDED, StoredOutcome};
use conclave_core::{Change, EventKind, Outcome, Reply, ShardId, Stamp, apply};

use crate::script::{Line, parse};

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there are no transcripts");
    let mut wrong = Vec::new();
    for file in files {
        let said = std::fs::read_to_string(&file).unwrap();
        let says = run(&said);
        if said == says {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, says).unwrap();
        } else {
            wrong.push(format!("{}\n{}", file.display(), first_difference(&said, &says)));
        }
    }
    assert!(
        wrong.is_empty(),
        "the machine answers differently (BLESS=1 accepts that):\n{}",
        wrong.join("\n")
    );
}

fn first_difference(said: &str, says: &str) -> String {
    let mut says = says.lines();
    for (number, line) in said.lines().enumerate() {
        let now = says.next().unwrap_or("nothing");
        if now != line {
            return format!("line {}:\n  was {line}\n  is  {now}", number + 1);
        }
    }
    format!("at the end: {}", says.next().unwrap_or("white space"))
}

/// Runs the commands of the transcript, and returns it with the current answers.
fn run(script: &str) -> String {
    let mut out = String::new();
    let (mut stamp, mut shard) = (Stamp::first(0), ShardId(1));
    let mut views: BTreeMap<ShardId, MemView> = BTreeMap::new();
    for line in script.lines() {
        if line.starts_with("    ") {
            continue;
        }
        writeln!(out, "{line}").unwrap();
        let Some(line) = line.strip_prefix("> ") else { continue };
        let view = views.entry(shard).or_default();
        match parse(line) {
            Line::At(now) => stamp = now,
            Line::Shard(other) => shard = other,
            Line::Show => show(&mut out, view),
            Line::Commands(commands) => {
                let last = commands.len() - 1;
                for (at, command) in commands.iter().enumerate() {
                    let Ok(outcome) = apply(view, shard, stamp, command);
                    view.commit(&outcome);
                    if at == last {
                        print(&mut out, &outcome);
                    }
                }
            }
        }
    }
    out
}

fn print(out: &mut String, outcome: &Outcome) {
    let reply = match outcome.reply {
        Reply::Acked { seq, time_ms, duplicate } => {
            format!("acked seq {seq} time {time_ms}{}", if duplicate { " (again)" } else { "" })
        }
        Reply::Refused(refusal) => format!("refused {}: {refusal}", refusal.word()),
        Reply::RoomCreated { room, created: true } => format!("room {room} created"),
        Reply::RoomCreated { room, created: false } => format!("room {room} was there"),
        Reply::SessionOpened { session, user } => format!("session {session} of user {user}"),
        Reply::Unchanged => "unchanged".to_owned(),
        Reply::Forgotten => "forgotten".to_owned(),
        Reply::Done => "done".to_owned(),
        Reply::Account { user, credential_revision } => {
            format!("account of user {user}, password {credential_revision}")
        }
    };
    writeln!(out, "    {reply}").unwrap();
    if let Some(event) = &outcome.event {
        writeln!(
            out,
            "    event {}:{} time {} {}/{} no {} {}",
            event.room,
            event.seq,
            event.time_ms,
            event.author_name,
            event.session,
            event.request,
            kind(&event.kind)
        )
        .unwrap();
    }
    for change in &outcome.changes {
        writeln!(out, "    write {}", written(change)).unwrap();
    }
}

fn kind(kind: &EventKind) -> String {
    match kind {
        EventKind::Created { name, founding } => format!("created {name}{}", founded(founding.as_ref())),
        EventKind::MemberAdded { who, role } => format!("added {} {} as {role:?}", who.user, who.name),
        EventKind::MemberRemoved { who, banned, reason } => {
            let banned = if *banned { " and banned" } else { "" };
            format!("removed {} {}{banned} {}", who.user, who.name, short(reason))
        }
        EventKind::RoleChanged { who, role } => format!("{} {} is {role:?}", who.user, who.name),
        EventKind::Muted { who, until_ms } => format!("{} {} muted until {until_ms}", who.user, who.name),
        EventKind::PolicyChanged(now) => format!("policy{}", policy(*now)),
        EventKind::Message(text) => format!("message {}", short(text)),
        EventKind::Answer(answer) => {
            let Answer { text, reply_to, thread, also_in_room } = answer;
            let also = if *also_in_room { " also in the room" } else { "" };
            format!("message {} to {reply_to} thread {thread}{also}", short(text))
        }
        EventKind::Edited { target, text } => format!("edited {target} {}", short(text)),
        EventKind::Deleted { target, reason } => format!("deleted {target} {}", short(reason)),
        EventKind::Reacted { target, emoji, off: false } => format!("reacted {target} {emoji}"),
        EventKind::Reacted { target, emoji, off: true } => format!("took back {target} {emoji}"),
        EventKind::Erased { by, thread, edit_of } => {
            format!("erased by {by} thread {thread} edit of {edit_of}")
        }
        EventKind::TopicChanged(topic) => format!("topic {}", short(topic)),
        EventKind::Joined => "joined".to_owned(),
        EventKind::Left => "left".to_owned(),
        EventKind::Pinned { target, off: false } => format!("pinned {target}"),
        EventKind::Pinned { target, off: true } => format!("unpinned {target}"),
    }
}

fn message(state: &MessageState) -> String {
    let MessageState { author, thread, edits, deleted, reactions, answers, last_answer } = state;
    let edits: Vec<_> = edits.iter().map(|seq| seq.0).collect();
    let given = |one: &Reaction| {
        let users: Vec<_> = one.users.iter().map(|user| user.0).collect();
        format!("{} by {users:?}", one.emoji)
    };
    let reactions: Vec<_> = reactions.iter().map(given).collect();
    let reactions = reactions.join(" ");
    format!(
        "author {author} thread {thread} edits {edits:?} deleted {deleted} reactions [{reactions}] answers {answers} last {last_answer}"
    )
}

fn short(text: &str) -> String {
    if text.len() <= 60 { format!("{text:?}") } else { format!("({} bytes)", text.len()) }
}

fn written(change: &Change) -> String {
    match change {
        Change::RoomHead(room, head) => {
            format!(
                "room {room}: last {} time {} members {}{}",
                head.last,
                head.last_time_ms,
                head.members,
                policy(head.policy)
            )
        }
        Change::RoomInfo(room, info) => {
            format!("room {room}: name {} created {}", info.name, info.created_ms)
        }
        Change::Topic(room, topic) => format!("room {room}: topic {}", short(topic)),
        Change::Member { room, user, member: member @ Some(_) }
            if *member == Some(Member::of_first_level()) =>
        {
            format!("room {room}: user {user} is a member")
        }
        Change::Member { room, user, member: None } => format!("room {room}: user {user} is no member"),
        Change::Member { room, user, member: Some(member) } => {
            format!("room {room}: user {user} {}", known(member))
        }
        Change::Message { room, seq, state } => format!("message {room}:{seq}: {}", message(state)),
        Change::Erase { room, seqs, by } => {
            let seqs: Vec<_> = seqs.iter().map(|seq| seq.0).collect();
            format!("room {room}: events {seqs:?} erased by {by}")
        }
        Change::Replied { session, room, reply, settled } => {
            let verdict = match reply.verdict {
                StoredOutcome::Event(seq) => format!("event {seq}"),
                StoredOutcome::Unchanged => "unchanged".to_owned(),
                StoredOutcome::Refused(refusal) => format!("refused {}", refusal.word()),
            };
            format!("session {session} in room {room}: no {} is {verdict}, settled {settled}", reply.request)
        }
        Change::SessionRooms(session, rooms) => format!("session {session}: rooms {rooms}"),
        Change::Meta(head) => format!(
            "meta: rooms {} users {} sessions {} level {}",
            head.last_room, head.last_user, head.last_session, head.feature_level
        ),
        Change::Directory(entry) => {
            let founded = founded(entry.founding.as_ref());
            format!("directory: {} is room {} by {:?}{founded}", entry.name, entry.room, entry.creator_name)
        }
        Change::User(user) => written_user(user),
        Change::Session(session) => written_session(session),
        Change::SessionForgotten(session) => format!("session {session}: forgotten"),
        Change::OpenSessions(user, list) => {
            let list: Vec<_> = list.iter().map(|open| (open.session.0, open.seen_day)).collect();
            format!("user {user}: open sessions and days {list:?}")
        }
        Change::Ending(session) => format!("session {session}: shards must hear of its end"),
        Change::Credential(credential) => {
            format!("user {}: password {:?}", credential.user, credential.phc.0)
        }
        Change::Folded { folded, name } => format!("name {name}: no other {folded}"),
        Change::Invite(invite) => format!(
            "invite {:02x}: for {:?} {:?} {:?} uses {} until {}",
            invite.digest[0], invite.name, invite.kind, invite.role, invite.uses, invite.expires_ms
        ),
        Change::SessionEnded(session) => format!("session {session}: ended"),
        Change::Node(node) => format!("node {}: {} level {}", node.node, node.name, node.feature_level),
        Change::Layout(layout) => format!("layout {}: {:?}", layout.version, ids(layout)),
    }
}

/// What a policy says besides that everybody may read and write; the policy of an open room is empty.
fn policy(policy: RoomPolicy) -> String {
    if policy == RoomPolicy::default() {
        return String::new();
    }
    let RoomPolicy { kind, posting, past, archived } = policy;
    let archived = if archived { " archived" } else { "" };
    format!(" {kind:?} posting={posting:?} past={past:?}{archived}")
}

fn founded(founding: Option<&Founding>) -> String {
    founding.map_or(String::new(), |Founding { kind, people }| {
        let people: Vec<_> = people.iter().map(|person| format!("{} {}", person.user, person.name)).collect();
        format!(" as {kind:?} {people:?}")
    })
}

fn known(member: &Member) -> String {
    let role = member.role.map_or("no role".to_owned(), |role| format!("{role:?}"));
    let sees = member.sees_from.map_or("is out".to_owned(), |from| format!("sees {from}.."));
    let past: Vec<_> = member.past.iter().map(|span| format!("{}..={}", span.from, span.upto)).collect();
    let banned = if member.banned { " banned" } else { "" };
    let muted = if member.muted_until_ms > 0 {
        format!(" muted until {}", member.muted_until_ms)
    } else {
        String::new()
    };
    let read = if member.read.0 > 0 { format!(" has read {}", member.read) } else { String::new() };
    format!("{role} {sees} past {past:?}{banned}{muted}{read}")
}

fn written_user(user: &UserRecord) -> String {
    let mut line = format!("user {}: {} with {} sessions", user.user, user.name, user.sessions);
    let UserRecord { kind, role, disabled, credential_revision, sessions_open, unlisted_ended, .. } = user;
    // What feature level 1 does not have is not written for it.
    if user.created_ms != 0 || *credential_revision > 0 || *sessions_open > 0 || *unlisted_ended {
        write!(line, ", {sessions_open} open, {kind:?} {role:?}, password {credential_revision}").unwrap();
    }
    line + if *unlisted_ended { ", unlisted ended" } else { "" } + if *disabled { ", disabled" } else { "" }
}

fn written_session(session: &SessionRecord) -> String {
    let mut line =
        format!("session {}: user {} client {}", session.session, session.user, short(&session.client));
    if session.listed {
        let SessionRecord { kind, label, expires_ms, seen_day, .. } = session;
        write!(line, " {kind:?} label {} until {expires_ms} seen {seen_day}", short(label)).unwrap();
    }
    line + if session.closed { ", closed" } else { "" }
}

fn ids(layout: &conclave_core::ring::Layout) -> Vec<Vec<u64>> {
    layout.shards.iter().map(|shard| shard.iter().map(|node| node.0).collect()).collect()
}

fn show(out: &mut String, view: &MemView) {
    for (room, (head, info)) in &view.rooms {
        writeln!(
            out,
            "    room {room} {}: last {} time {} members {} topic {}",
            info.name,
            head.last,
            head.last_time_ms,
            head.members,
            short(&info.topic)
        )
        .unwrap();
    }
    for ((room, user), member) in &view.members {
        if *member == Member::of_first_level() {
            writeln!(out, "    room {room}: user {user} is a member").unwrap();
        } else {
            writeln!(out, "    room {room}: user {user} {}", known(member)).unwrap();
        }
    }
    for ((session, room), known) in &view.sessions {
        writeln!(
            out,
            "    session {session} in room {room}: last no {}, {} replies stored",
            known.last,
            known.replies.len()
        )
        .unwrap();
    }
    for (session, rooms) in &view.session_rooms {
        let ended = if *rooms == ENDED { "ended".to_owned() } else { format!("rooms {rooms}") };
        writeln!(out, "    session {session}: {ended}").unwrap();
    }
    writeln!(out, "    events: {}", view.events.len()).unwrap();
}
