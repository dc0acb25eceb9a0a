//! The lines of a transcript: the commands that a person writes after `>`.

use conclave_core::access::{Past, PolicyChange, Posting, Powers, Role, RoomKind};
use conclave_core::action::Target;
use conclave_core::message::Answer;
use conclave_core::people::{AccountChange, Closing, LogIn};
use conclave_core::record::{
    ClusterRole, Founding, Invite, NodeRecord, Person, Phc, Registration, SessionKind, UserKind,
};
use conclave_core::ring::Layout;
use conclave_core::{
    Action, Command, DataDirId, NodeId, Origin, Refusal, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp,
    UserId,
};

/// The users of the transcripts; a user's id is the position in this list, from 1.
const PEOPLE: [&str; 3] = ["ana", "bo", "kim"];

/// One line.
pub(crate) enum Line {
    /// `at 1000`: sets the leader's clock for the following lines. `at 1000 level 2`: in a cluster of this feature level.
    At(Stamp),
    /// `shard 0`: selects the shard for the following lines. Each shard has its own state.
    Shard(ShardId),
    /// `show`: prints the state.
    Show,
    /// Every other line: its commands. More than one where request numbers are a range.
    Commands(Vec<Command>),
}

struct Words<'a> {
    rest: &'a str,
    line: &'a str,
}

pub(crate) fn parse(line: &str) -> Line {
    let mut words = Words { rest: line, line };
    let verb = words.word();
    let command = match verb {
        "at" => return Line::At(at(&mut words)),
        "shard" => return Line::Shard(ShardId(words.number())),
        "show" => return Line::Show,
        "open-room" => open_room(&mut words),
        "create-room" => {
            let name = words.word().to_owned();
            words.expect("by");
            let creator = person(words.word());
            let kind = (!words.is_empty()).then(|| room_kind(words.word()));
            Command::CreateRoom { name, creator, kind }
        }
        "open-direct" => {
            let people: Vec<_> = words.word().split(',').map(person).collect();
            words.expect("by");
            Command::OpenDirect { creator: person(words.word()), people }
        }
        "open-session" => {
            let user = words.word().to_owned();
            words.expect("client");
            Command::OpenSession { user, secret_digest: [7; 16], client: words.text() }
        }
        "register-node" => register_node(&mut words),
        "set-layout" => set_layout(&mut words),
        "feature-level" => Command::SetFeatureLevel(words.number()),
        "account" => account(&mut words),
        "password" => password(&mut words),
        "invite" => invite(&mut words),
        "register" => register(&mut words),
        "log-in" => log_in(&mut words),
        "registration" => Command::SetRegistration(match words.word() {
            "open" => Registration::Open,
            "invite" => Registration::Invite,
            _ => Registration::Closed,
        }),
        "close" => close(&mut words),
        "forget" => Command::ForgetSessions(vec![SessionId(words.number())]),
        "seen" => {
            let session = SessionId(words.number());
            words.expect("day");
            Command::SeenSessions(vec![(session, words.number())])
        }
        "end-session" => Command::EndSession { session: SessionId(words.number()) },
        who => return Line::Commands(act(who, &mut words)),
    };
    Line::Commands(vec![command])
}

/// `at 1000` or `at 1000 level 2`
fn at(words: &mut Words<'_>) -> Stamp {
    let time_ms = words.number();
    if words.is_empty() {
        return Stamp::first(time_ms);
    }
    words.expect("level");
    Stamp::at_level(time_ms, words.number())
}

/// `account ana [guest|bot|person] [admin|operator|none] [disabled|enabled]`
fn account(words: &mut Words<'_>) -> Command {
    let mut change = AccountChange { name: words.word().to_owned(), ..AccountChange::default() };
    while !words.is_empty() {
        match words.word() {
            "person" => change.kind = Some(UserKind::Person),
            "guest" => change.kind = Some(UserKind::Guest),
            "bot" => change.kind = Some(UserKind::Bot),
            "admin" => change.role = Some(ClusterRole::Admin),
            "operator" => change.role = Some(ClusterRole::Operator),
            "none" => change.role = Some(ClusterRole::None),
            "disabled" => change.disabled = Some(true),
            "enabled" => change.disabled = Some(false),
            other => panic!("{}: {other}", words.line),
        }
    }
    Command::SetAccount(change)
}

fn phc(words: &mut Words<'_>) -> Phc {
    Phc(format!("$argon2id${}", words.word()))
}

/// `password 1 first expects 0 [keeps 3]`: of user 1; with `keeps` all other sessions end
fn password(words: &mut Words<'_>) -> Command {
    let user = UserId(words.number());
    let phc = phc(words);
    words.expect("expects");
    let expects_revision = words.number();
    let closing = (!words.is_empty()).then(|| {
        words.expect("keeps");
        Closing::AllBut(user, SessionId(words.number()))
    });
    Command::SetPassword { user, phc, expects_revision, closing }
}

/// `invite 7 for bo uses 1 until 5000 [admin]`; `for -` is for any name.
fn invite(words: &mut Words<'_>) -> Command {
    let digest = [words.number(); 16];
    words.expect("for");
    let name = words.word().replace('-', "");
    words.expect("uses");
    let uses = words.number();
    words.expect("until");
    let expires_ms = words.number();
    let role = if words.is_empty() { ClusterRole::None } else { ClusterRole::Admin };
    let by = UserId(1);
    Command::PutInvite(Invite { digest, name, kind: UserKind::Person, role, uses, expires_ms, by })
}

/// `register bo first [invite 7]`
fn register(words: &mut Words<'_>) -> Command {
    let name = words.word().to_owned();
    let phc = phc(words);
    let mut invite = None;
    if !words.is_empty() {
        words.expect("invite");
        invite = Some([words.number(); 16]);
    }
    Command::Register { invite, name, phc }
}

/// `log-in 1 revision 1 secret 9 until 0`: user 1
fn log_in(words: &mut Words<'_>) -> Command {
    let user = UserId(words.number());
    words.expect("revision");
    let credential_revision = words.number();
    words.expect("secret");
    let secret_digest = [words.number(); 16];
    words.expect("until");
    let expires_ms = words.number();
    Command::LogIn(LogIn {
        user,
        credential_revision,
        secret_digest,
        kind: SessionKind::Login,
        label: "desk".to_owned(),
        client: "cli".to_owned(),
        expires_ms,
    })
}

/// `close 4`, `close of 1`, `close all-but 1 4`
fn close(words: &mut Words<'_>) -> Command {
    Command::CloseSessions(match words.word() {
        "of" => Closing::Of(UserId(words.number())),
        "all-but" => Closing::AllBut(UserId(words.number()), SessionId(words.number())),
        session => Closing::One(SessionId(session.parse().unwrap())),
    })
}

/// `open-room 1 general by ana`; from level 2 on also `open-room 1 general by ana private` and
/// `open-room 1 :d:1:2 by ana direct ana,bo`.
fn open_room(words: &mut Words<'_>) -> Command {
    let room = RoomId(words.number());
    let name = words.word().to_owned();
    words.expect("by");
    let creator = known(words.word());
    let founding = (!words.is_empty()).then(|| {
        let kind = room_kind(words.word());
        let people =
            if kind == RoomKind::Direct { words.word().split(',').map(known).collect() } else { Vec::new() };
        Founding { kind, people }
    });
    Command::OpenRoom { room, name, creator, founding }
}

fn room_kind(word: &str) -> RoomKind {
    match word {
        "open" => RoomKind::Open,
        "private" => RoomKind::Private,
        "direct" => RoomKind::Direct,
        other => panic!("{other} is no kind of room"),
    }
}

fn role(word: &str) -> Role {
    match word {
        "guest" => Role::Guest,
        "member" => Role::Member,
        "moderator" => Role::Moderator,
        "owner" => Role::Owner,
        other => panic!("{other} is no role"),
    }
}

/// `private`, `open`, `posting=all|moderators`, `past=all|since-join`, `archived`, `unarchived`
fn policy(word: &str) -> PolicyChange {
    let same = PolicyChange::default();
    match word {
        "posting=all" => PolicyChange { posting: Some(Posting::All), ..same },
        "posting=moderators" => PolicyChange { posting: Some(Posting::Moderators), ..same },
        "past=all" => PolicyChange { past: Some(Past::All), ..same },
        "past=since-join" => PolicyChange { past: Some(Past::SinceJoin), ..same },
        "archived" => PolicyChange { archived: Some(true), ..same },
        "unarchived" => PolicyChange { archived: Some(false), ..same },
        kind => PolicyChange { kind: Some(room_kind(kind)), ..same },
    }
}

/// A user by name; `nobody` is a name that no user has.
fn target(name: &str) -> Target {
    let user = if name == "nobody" { UserId(0) } else { person(name) };
    Target { name: name.to_owned(), user }
}

/// `ana/5 room 1 no 3 [settled 2] post "hello"`; `no 3..9` is seven requests, `no 0` is none. `ana!/5` is an admin of the
/// cluster, `ana?/5` is a guest.
fn act(who: &str, words: &mut Words<'_>) -> Vec<Command> {
    let (user, session) = who.split_once('/').unwrap_or_else(|| panic!("{}: unknown verb", words.line));
    words.expect("room");
    let room = RoomId(words.number());
    words.expect("no");
    let numbers = words.word();
    let powers = Powers { admin: user.ends_with('!'), guest: user.ends_with('?') };
    let user = user.trim_end_matches(['!', '?']);
    let (first, last) = numbers.split_once("..").unwrap_or((numbers, numbers));
    let mut verb = words.word();
    let mut settled = RequestNo(0);
    if verb == "settled" {
        settled = RequestNo(words.number());
        verb = words.word();
    }
    let action = match verb {
        "post" => Action::Post(words.text()),
        "topic" => Action::SetTopic(words.text()),
        "join" => Action::Join,
        "leave" => Action::Leave,
        "add" => Action::AddMember { who: target(words.word()), role: role(words.word()) },
        "remove" => {
            let who = target(words.word());
            Action::RemoveMember { who, ban: false, reason: words.text() }
        }
        "ban" => Action::RemoveMember { who: target(words.word()), ban: true, reason: String::new() },
        "role" => Action::SetRole { who: target(words.word()), role: role(words.word()) },
        "mute" => Action::Mute { who: target(words.word()), for_ms: words.number() },
        "policy" => Action::SetPolicy(policy(words.word())),
        "reply" => {
            let reply_to = Seq(words.number());
            Action::Answer(Answer { text: words.text(), reply_to, ..Answer::default() })
        }
        "thread" => {
            let thread = Seq(words.number());
            Action::Answer(Answer { text: words.text(), thread, ..Answer::default() })
        }
        "read" => Action::Read { upto: Seq(words.number()) },
        "edit" => Action::Edit { target: Seq(words.number()), text: words.text() },
        "delete" => Action::Delete { target: Seq(words.number()), reason: words.text() },
        "react" | "unreact" => {
            let target = Seq(words.number());
            Action::React { target, emoji: words.word().to_owned(), off: verb == "unreact" }
        }
        "pin" => Action::Pin { target: Seq(words.number()), off: false },
        "unpin" => Action::Pin { target: Seq(words.number()), off: true },
        // A gateway turns a text that is too long into this command.
        "void" => {
            let digest = Action::Post(words.text()).digest();
            Action::Void { refusal: Refusal::TextTooLong, digest }
        }
        other => panic!("{}: {other} is no action", words.line),
    };
    (first.parse::<u64>().unwrap()..=last.parse().unwrap())
        .map(|request| Command::Act {
            room,
            origin: Origin {
                session: SessionId(session.parse().unwrap()),
                author: person(user),
                author_name: user.to_owned(),
                request: RequestNo(request),
                settled,
                powers,
            },
            action: action.clone(),
        })
        .collect()
}

/// `register-node 1 n1 directory 17 level 1`
fn register_node(words: &mut Words<'_>) -> Command {
    let node = NodeId(words.number());
    let name = words.word().to_owned();
    words.expect("directory");
    let directory = DataDirId(words.number());
    words.expect("level");
    Command::RegisterNode(NodeRecord {
        node,
        client_address: format!("{name}:7400"),
        peer_address: format!("{name}:7401"),
        http_address: format!("{name}:7480"),
        web_address: String::new(),
        name,
        directory,
        version: "0.1.0".to_owned(),
        feature_level: words.number(),
    })
}

/// `set-layout 1 replaces 0 shards 1,2,3 2,3,1`; `-` is a shard without replicas.
fn set_layout(words: &mut Words<'_>) -> Command {
    let version = words.number();
    words.expect("replaces");
    let replaces = words.number();
    words.expect("shards");
    let replicas = |shard: &str| {
        shard.split(',').filter(|node| *node != "-").map(|node| NodeId(node.parse().unwrap())).collect()
    };
    let shards = words.rest.split_whitespace().map(replicas).collect();
    Command::SetLayout { layout: Layout { version, shards }, replaces }
}

fn known(name: &str) -> Person {
    Person { user: person(name), name: name.to_owned() }
}

fn person(name: &str) -> UserId {
    let at = PEOPLE.iter().position(|known| *known == name);
    UserId(at.unwrap_or_else(|| panic!("{name} is nobody; there are {PEOPLE:?}")) as u64 + 1)
}

impl<'a> Words<'a> {
    fn is_empty(&self) -> bool {
        self.rest.trim().is_empty()
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest.trim_start();
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        self.rest = rest;
        assert!(!word.is_empty(), "{}: something is missing at the end", self.line);
        word
    }

    fn number<T: std::str::FromStr>(&mut self) -> T {
        let word = self.word();
        word.parse().unwrap_or_else(|_| panic!("{}: {word} is no number here", self.line))
    }

    fn expect(&mut self, word: &str) {
        let found = self.word();
        assert_eq!(found, word, "{}", self.line);
    }

    /// `"text"`, with `\n` for a line's end, or `"x"*3` for `xxx`.
    fn text(&mut self) -> String {
        let rest = self.rest.trim().strip_prefix('"').unwrap_or_else(|| panic!("{}: no text", self.line));
        let (text, times) = rest.rsplit_once('"').unwrap_or_else(|| panic!("{}: open text", self.line));
        let times = times.strip_prefix('*').map_or(1, |times| times.parse().unwrap());
        text.replace("\\n", "\n").repeat(times)
    }
}
