//! The laws of the state machine, over random interleavings of several sessions that repeat, skip
//! and misuse request numbers, in two rooms of which one may be missing, under a jumping clock.

use std::collections::{BTreeMap, BTreeSet};

use conclave_core::access::{Past, PolicyChange, Posting, Powers, Role, RoomKind, RoomPolicy};
use conclave_core::action::Target;
use conclave_core::level::{FEATURE_LEVEL, FIRST};
use conclave_core::limits::{NODES_MAX, ROOM_TIME_AHEAD_MAX_MS, ROOMS_PER_SESSION_MAX, TEXT_BYTES_MAX};
use conclave_core::mem::MemView;
use conclave_core::message::Answer;
use conclave_core::record::{Founding, Person};
use conclave_core::{
    Action, Command, EventKind, NodeId, Origin, Outcome, Refusal, Reply, RequestNo, RoomEvent, RoomId, Seq,
    SessionId, ShardId, Stamp, UserId, apply,
};
use proptest::prelude::*;

const SHARD: ShardId = ShardId(1);

/// One step of a client. Numbers are relative to the requests that the session has sent in the room.
#[derive(Clone, Debug)]
enum Step {
    /// The next request.
    Send { session: u64, room: u64, action: Action },
    /// One of the requests that were sent before, exactly as it was.
    Repeat { which: usize },
    /// A number that was used before, with another body.
    Reuse { which: usize },
    /// A number beyond the next one.
    Skip { session: u64, room: u64, by: u64 },
    /// An unnumbered join.
    Join { session: u64, room: u64 },
    /// The room is opened, perhaps again.
    Open { room: u64, kind: RoomKind },
    /// The leader's clock changes.
    Clock(i64),
    /// The cluster's feature level becomes the highest one.
    Raise,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => "[a-z]{1,8}".prop_map(Action::Post),
        1 => Just(Action::Post(String::new())),
        1 => Just(Action::Post("x".repeat(TEXT_BYTES_MAX + 1))),
        1 => prop_oneof![Just("plain"), Just("two\nlines")].prop_map(|topic| Action::SetTopic(topic.to_owned())),
        1 => any::<u64>().prop_map(|digest| Action::Void { refusal: Refusal::TextTooLong, digest }),
        2 => Just(Action::Join),
        2 => Just(Action::Leave),
        1 => (0..9_u64, any::<bool>()).prop_map(|(seq, off)| Action::Pin { target: Seq(seq), off }),
        2 => (target(), role()).prop_map(|(who, role)| Action::AddMember { who, role }),
        2 => (target(), any::<bool>())
            .prop_map(|(who, ban)| Action::RemoveMember { who, ban, reason: String::new() }),
        1 => (target(), role()).prop_map(|(who, role)| Action::SetRole { who, role }),
        1 => (target(), 0..2_000_u64).prop_map(|(who, for_ms)| Action::Mute { who, for_ms }),
        1 => policy().prop_map(Action::SetPolicy),
        6 => message_action(),
    ]
}

/// Messages, and what people do with them.
pub(crate) fn message_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => "[a-z]{1,8}".prop_map(Action::Post),
        2 => ("[a-z]{1,8}", place(), place()).prop_map(|(text, reply_to, thread)| {
            Action::Answer(Answer { text, reply_to, thread, also_in_room: false })
        }),
        1 => place().prop_map(|upto| Action::Read { upto }),
        2 => (place(), "[a-z]{0,8}").prop_map(|(target, text)| Action::Edit { target, text }),
        1 => place().prop_map(|target| Action::Delete { target, reason: String::new() }),
        3 => (place(), "a?", any::<bool>())
            .prop_map(|(target, emoji, off)| Action::React { target, emoji, off }),
    ]
}

/// The place of an event, or 0 for none.
fn place() -> impl Strategy<Value = Seq> {
    prop_oneof![1 => Just(Seq(0)), 3 => (1..12_u64).prop_map(Seq)]
}

/// One of the three users, or a name that nobody has.
fn target() -> impl Strategy<Value = Target> {
    (0..=3_u64).prop_map(|user| Target { name: format!("u{user}"), user: UserId(user) })
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Guest), Just(Role::Member), Just(Role::Moderator), Just(Role::Owner)]
}

fn policy() -> impl Strategy<Value = PolicyChange> {
    let same = PolicyChange::default();
    prop_oneof![
        Just(PolicyChange { kind: Some(RoomKind::Open), ..same }),
        Just(PolicyChange { kind: Some(RoomKind::Private), ..same }),
        Just(PolicyChange { posting: Some(Posting::Moderators), ..same }),
        Just(PolicyChange { past: Some(Past::SinceJoin), ..same }),
        any::<bool>().prop_map(move |archived| PolicyChange { archived: Some(archived), ..same }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let session = 1..=4_u64;
    let room = 1..=2_u64;
    prop_oneof![
        10 => (session.clone(), room.clone(), action())
            .prop_map(|(session, room, action)| Step::Send { session, room, action }),
        6 => any::<usize>().prop_map(|which| Step::Repeat { which }),
        1 => any::<usize>().prop_map(|which| Step::Reuse { which }),
        1 => (session.clone(), room.clone(), 1..5_u64)
            .prop_map(|(session, room, by)| Step::Skip { session, room, by }),
        1 => (session, room.clone()).prop_map(|(session, room)| Step::Join { session, room }),
        1 => (room, prop_oneof![Just(RoomKind::Open), Just(RoomKind::Private)])
            .prop_map(|(room, kind)| Step::Open { room, kind }),
        2 => prop_oneof![-1_000..1_000_000_i64, -1_000..50_000_i64].prop_map(Step::Clock),
        1 => Just(Step::Raise),
    ]
}

/// The commands that result from the steps, each with the stamp of its proposal. A number that the
/// machine does not use up is taken again for the next request, as a client does it.
fn commands(steps: &[Step]) -> Vec<(Stamp, Command)> {
    let mut next: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut opened = BTreeSet::new();
    let mut sent: Vec<Command> = Vec::new();
    let (mut time_ms, mut level) = (0, FIRST);
    let mut commands = Vec::new();
    for step in steps {
        let command = match step {
            Step::Send { session, room, action } => {
                let number = next.entry((*session, *room)).or_insert(1);
                let command = act(*session, *room, *number, action.clone());
                if opened.contains(room) {
                    *number += 1;
                    sent.push(command.clone());
                }
                command
            }
            Step::Repeat { which } => match sent.get(which % sent.len().max(1)) {
                Some(command) => command.clone(),
                None => continue,
            },
            Step::Reuse { which } => match sent.get(which % sent.len().max(1)) {
                Some(Command::Act { room, origin, .. }) => Command::Act {
                    room: *room,
                    origin: origin.clone(),
                    action: Action::Post("REUSED".into()),
                },
                _ => continue,
            },
            Step::Skip { session, room, by } => {
                let number = next.get(&(*session, *room)).copied().unwrap_or(1) + by;
                act(*session, *room, number, Action::Post("SKIPPED".into()))
            }
            Step::Join { session, room } => act(*session, *room, 0, Action::Join),
            Step::Open { room, kind } => {
                opened.insert(*room);
                Command::OpenRoom {
                    room: RoomId(*room),
                    name: format!("room-{room}"),
                    creator: Person { user: UserId(1), name: "u1".into() },
                    founding: (level > FIRST).then(|| Founding { kind: *kind, people: Vec::new() }),
                }
            }
            Step::Clock(now) => {
                time_ms = *now;
                continue;
            }
            Step::Raise => {
                level = FEATURE_LEVEL;
                continue;
            }
        };
        commands.push((Stamp::at_level(time_ms, level), command));
    }
    commands
}

/// Sessions 1 and 2 are of user 1, 3 and 4 of user 2.
pub(crate) fn act(session: u64, room: u64, request: u64, action: Action) -> Command {
    let author = session.div_ceil(2);
    Command::Act {
        room: RoomId(room),
        origin: Origin {
            session: SessionId(session),
            author: UserId(author),
            author_name: format!("u{author}"),
            request: RequestNo(request),
            settled: RequestNo(0),
            powers: Powers::default(),
        },
        action,
    }
}

pub(crate) fn run(commands: &[(Stamp, Command)]) -> (MemView, Vec<Outcome>) {
    let mut view = MemView::default();
    let outcomes = commands
        .iter()
        .map(|(stamp, command)| {
            let Ok(outcome) = apply(&view, SHARD, *stamp, command);
            view.commit(&outcome);
            outcome
        })
        .collect();
    (view, outcomes)
}

/// A room, as somebody derives it from its events alone. Written apart from the machine, so that a mistake there is not
/// made here, too.
#[derive(Debug, Default)]
struct Folded {
    roles: BTreeMap<UserId, Role>,
    banned: BTreeSet<UserId>,
    muted: BTreeMap<UserId, i64>,
    /// Which events each user may see as a present or an earlier member.
    seen: BTreeSet<(UserId, Seq)>,
    /// Users of whom the room knows more than the first level would have known.
    known: BTreeSet<UserId>,
    policy: RoomPolicy,
    last: Seq,
}

impl Folded {
    fn add(&mut self, event: &RoomEvent, stamp: Stamp) {
        self.last = event.seq;
        match &event.kind {
            EventKind::Created { founding: Some(founding), .. } => {
                self.policy.kind = founding.kind;
                self.known.insert(event.author);
                self.enter(event.author, Role::Owner);
            }
            EventKind::Created { founding: None, .. }
            | EventKind::Message(_)
            | EventKind::Answer(_)
            | EventKind::Edited { .. }
            | EventKind::Deleted { .. }
            | EventKind::Reacted { .. }
            | EventKind::Erased { .. }
            | EventKind::TopicChanged(_)
            | EventKind::Pinned { .. } => {}
            // Room 1 and room 2 are user 1's.
            EventKind::Joined => {
                if self.has_rights(event.author, stamp) {
                    self.known.insert(event.author);
                }
                self.enter(event.author, if event.author == UserId(1) { Role::Owner } else { Role::Member });
            }
            EventKind::MemberAdded { who, role } => {
                self.known.insert(who.user);
                self.enter(who.user, *role);
            }
            // The first level forgets who has left.
            EventKind::Left if !self.has_rights(event.author, stamp) => {
                self.roles.remove(&event.author);
                self.seen.retain(|(user, _)| *user != event.author);
            }
            EventKind::Left => {
                self.known.insert(event.author);
                self.leave(event.author);
            }
            EventKind::MemberRemoved { who, banned, .. } => {
                self.known.insert(who.user);
                self.leave(who.user);
                if *banned {
                    self.banned.insert(who.user);
                }
            }
            EventKind::RoleChanged { who, role } => {
                self.known.insert(who.user);
                self.roles.insert(who.user, *role);
            }
            EventKind::Muted { who, until_ms } => {
                self.known.insert(who.user);
                self.muted.insert(who.user, *until_ms);
            }
            EventKind::PolicyChanged(policy) => self.policy = *policy,
        }
        for user in self.roles.keys() {
            self.seen.insert((*user, event.seq));
        }
    }

    /// Whether the room decides by rights about the user: a batch of the first level may come late.
    fn has_rights(&self, user: UserId, stamp: Stamp) -> bool {
        stamp.level() > FIRST || self.policy != RoomPolicy::default() || self.known.contains(&user)
    }

    fn enter(&mut self, user: UserId, role: Role) {
        self.roles.insert(user, role);
        self.banned.remove(&user);
        if self.policy.past == Past::All {
            self.seen.extend((1..=self.last.0).map(|seq| (user, Seq(seq))));
        }
    }

    fn leave(&mut self, user: UserId) {
        if self.roles.remove(&user).is_some() {
            self.seen.insert((user, self.last));
        }
    }
}

pub(crate) fn history() -> impl Strategy<Value = Vec<(Stamp, Command)>> {
    proptest::collection::vec(step(), 0..120).prop_map(|steps| commands(&steps))
}

proptest! {
    #[test]
    fn every_replica_decides_the_same(commands in history()) {
        prop_assert_eq!(run(&commands), run(&commands));
    }

    #[test]
    fn seqs_are_dense_and_heads_are_those_of_the_last_events(commands in history()) {
        let (view, _) = run(&commands);
        let mut heads: BTreeMap<RoomId, (Seq, i64)> = BTreeMap::new();
        for event in &view.events {
            let (last, _) = heads.get(&event.room).copied().unwrap_or((Seq(0), i64::MIN));
            prop_assert_eq!(event.seq, last.next());
            prop_assert_eq!(event.seq == Seq(1), matches!(event.kind, EventKind::Created { .. }));
            heads.insert(event.room, (event.seq, event.time_ms));
        }
        for (room, (head, _)) in &view.rooms {
            prop_assert_eq!(heads.get(room), Some(&(head.last, head.last_time_ms)));
        }
    }

    #[test]
    fn times_fall_only_from_far_ahead_and_only_above_the_first_level(commands in history()) {
        let (_, outcomes) = run(&commands);
        let mut last: BTreeMap<RoomId, i64> = BTreeMap::new();
        for ((stamp, _), event) in commands.iter().zip(&outcomes).filter_map(|(one, outcome)| Some((one, outcome.event.as_ref()?))) {
            let before = last.insert(event.room, event.time_ms).unwrap_or(i64::MIN);
            prop_assert!(event.time_ms >= stamp.time_ms);
            if stamp.may_step_back() {
                prop_assert!(event.time_ms <= stamp.time_ms + ROOM_TIME_AHEAD_MAX_MS);
                let fell = before.saturating_sub(event.time_ms);
                prop_assert!(fell <= 0 || fell > ROOM_TIME_AHEAD_MAX_MS);
            } else {
                prop_assert!(event.time_ms >= before);
            }
        }
    }

    #[test]
    fn a_request_has_one_effect_and_one_answer(commands in history()) {
        let (view, outcomes) = run(&commands);
        let mut answers: BTreeMap<(SessionId, RoomId, RequestNo), (Action, Reply)> = BTreeMap::new();
        for ((_, command), outcome) in commands.iter().zip(&outcomes) {
            let Command::Act { room, origin, action } = command else { continue };
            if !origin.request.is_numbered() {
                continue;
            }
            let key = (origin.session, *room, origin.request);
            match answers.get(&key) {
                Some((first, reply)) if first == action => {
                    let expected = match *reply {
                        Reply::Acked { seq, time_ms, .. } => Reply::Acked { seq, time_ms, duplicate: true },
                        other => other,
                    };
                    prop_assert_eq!(outcome.reply, expected, "{:?} again", key);
                    prop_assert!(outcome.changes.is_empty() && outcome.event.is_none());
                }
                Some(_) => prop_assert_eq!(outcome.reply, Reply::Refused(Refusal::RequestReused)),
                None => {
                    let used = match outcome.reply {
                        Reply::Refused(refusal) => refusal.uses_number(),
                        _ => true,
                    };
                    prop_assert_eq!(used, !outcome.changes.is_empty(), "{:?}", outcome);
                    if used {
                        answers.insert(key, (action.clone(), outcome.reply));
                    }
                }
            }
        }
        let mut seen = BTreeSet::new();
        for event in view.events.iter().filter(|event| event.request.is_numbered()) {
            prop_assert!(seen.insert((event.session, event.room, event.request)), "twice: {event:?}");
        }
    }

    #[test]
    fn a_sessions_events_keep_their_order(commands in history()) {
        let (view, _) = run(&commands);
        let mut last: BTreeMap<(SessionId, RoomId), RequestNo> = BTreeMap::new();
        for event in view.events.iter().filter(|event| event.request.is_numbered()) {
            let before = last.insert((event.session, event.room), event.request);
            prop_assert!(before < Some(event.request), "{before:?} before {event:?}");
        }
    }

    #[test]
    fn members_and_roles_are_a_fold_of_the_events(commands in history()) {
        let (view, outcomes) = run(&commands);
        let mut rooms = BTreeMap::new();
        for ((stamp, _), outcome) in commands.iter().zip(&outcomes) {
            if let Some(event) = &outcome.event {
                rooms.entry(event.room).or_insert_with(Folded::default).add(event, *stamp);
            }
        }
        for (room, (head, _)) in &view.rooms {
            let folded = &rooms[room];
            prop_assert_eq!(head.members as usize, folded.roles.len());
            prop_assert_eq!(head.policy, folded.policy);
            for user in (1..=3).map(UserId) {
                let member = view.members.get(&(*room, user)).cloned().unwrap_or_default();
                prop_assert_eq!(member.role_in_force(user, UserId(1)), folded.roles.get(&user).copied());
                prop_assert_eq!(member.banned, folded.banned.contains(&user), "{:?}", member);
                for seq in (1..=head.last.0).map(Seq) {
                    let visible = member.visible(seq).is_some_and(|(from, _)| from <= seq);
                    let saw = folded.seen.contains(&(user, seq));
                    prop_assert_eq!(visible, saw, "user {} event {} of {:?}", user, seq, view.events);
                }
            }
        }
    }

    #[test]
    fn only_members_who_may_write_become_authors(commands in history()) {
        let (_, outcomes) = run(&commands);
        let mut rooms = BTreeMap::new();
        for ((stamp, _), outcome) in commands.iter().zip(&outcomes) {
            let Some(event) = &outcome.event else { continue };
            let folded = rooms.entry(event.room).or_insert_with(Folded::default);
            if stamp.level() > FIRST && matches!(event.kind, EventKind::Message(_)) {
                let role = folded.roles.get(&event.author).copied();
                prop_assert!(role.is_some(), "an author who is no member: {event:?}");
                prop_assert!(!folded.policy.archived);
                prop_assert!(folded.policy.posting == Posting::All || role >= Some(Role::Moderator));
                let muted = folded.muted.get(&event.author).is_some_and(|until| *until > event.time_ms);
                prop_assert!(!muted || role >= Some(Role::Moderator));
            }
            folded.add(event, *stamp);
        }
    }

    #[test]
    fn a_refused_request_never_becomes_an_event(commands in history()) {
        let (view, outcomes) = run(&commands);
        for outcome in &outcomes {
            let acked = matches!(outcome.reply, Reply::Acked { duplicate: false, .. });
            let opened = outcome.reply == Reply::Done && !outcome.changes.is_empty();
            prop_assert_eq!(outcome.event.is_some(), acked || opened);
            if let (Reply::Acked { seq, time_ms, .. }, Some(event)) = (outcome.reply, &outcome.event) {
                prop_assert_eq!((seq, time_ms), (event.seq, event.time_ms));
            }
        }
        for event in &view.events {
            let text = match &event.kind {
                EventKind::Message(text) | EventKind::Edited { text, .. } => text.as_str(),
                EventKind::Answer(answer) => answer.text.as_str(),
                EventKind::Created { .. }
                | EventKind::Deleted { .. }
                | EventKind::Reacted { .. }
                | EventKind::Erased { .. }
                | EventKind::TopicChanged(_)
                | EventKind::Joined
                | EventKind::Left
                | EventKind::Pinned { .. }
                | EventKind::MemberAdded { .. }
                | EventKind::MemberRemoved { .. }
                | EventKind::RoleChanged { .. }
                | EventKind::Muted { .. }
                | EventKind::PolicyChanged(_) => "",
            };
            prop_assert!(text != "REUSED" && text != "SKIPPED" && text.len() <= TEXT_BYTES_MAX);
        }
    }
}

#[test]
fn a_session_has_request_numbers_in_a_bounded_number_of_rooms() {
    let mut view = MemView::default();
    let mut decide = |command: Command| {
        let Ok(outcome) = apply(&view, SHARD, Stamp::first(0), &command);
        view.commit(&outcome);
        outcome
    };
    let rooms = u64::from(ROOMS_PER_SESSION_MAX);
    for room in 1..=rooms + 1 {
        decide(Command::OpenRoom {
            room: RoomId(room),
            name: format!("r{room}"),
            creator: Person { user: UserId(1), name: "u1".into() },
            founding: None,
        });
    }
    for room in 1..=rooms {
        let outcome = decide(act(1, room, 1, Action::Post("x".into())));
        assert!(matches!(outcome.reply, Reply::Acked { .. }));
    }
    let outcome = decide(act(1, rooms + 1, 1, Action::Post("x".into())));
    assert_eq!(outcome.reply, Reply::Refused(Refusal::TooManyRoomsInSession));
    assert!(outcome.changes.is_empty(), "and nothing is stored");
    // Requests in the session's known rooms still succeed, and so do those of another session.
    let outcome = decide(act(1, 1, 2, Action::Post("x".into())));
    assert!(matches!(outcome.reply, Reply::Acked { .. }));
    let outcome = decide(act(2, rooms + 1, 1, Action::Post("x".into())));
    assert!(matches!(outcome.reply, Reply::Acked { .. }));
}

#[test]
fn a_cluster_has_a_bounded_number_of_nodes() {
    let mut view = MemView::default();
    let mut register = |id: u64| {
        let record = conclave_core::record::NodeRecord {
            node: NodeId(id),
            name: format!("n{id}"),
            client_address: String::new(),
            peer_address: String::new(),
            http_address: String::new(),
            web_address: String::new(),
            directory: conclave_core::DataDirId(u128::from(id)),
            version: String::new(),
            feature_level: 1,
        };
        let Ok(outcome) = apply(&view, ShardId::META, Stamp::first(0), &Command::RegisterNode(record));
        view.commit(&outcome);
        outcome.reply
    };
    for id in 1..=NODES_MAX as u64 {
        assert_eq!(register(id), Reply::Done);
    }
    assert_eq!(register(NODES_MAX as u64 + 1), Reply::Refused(Refusal::TooManyNodes));
    assert_eq!(register(1), Reply::Done, "those that are there may come back");
}
