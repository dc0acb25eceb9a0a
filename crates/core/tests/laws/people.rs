//! The laws of accounts and sessions, over random commands of several people at both feature levels.

use conclave_core::access::Powers;
use conclave_core::level::{FEATURE_LEVEL, FIRST};
use conclave_core::mem::MemView;
use conclave_core::people::{AccountChange, Closing, LogIn};
use conclave_core::record::{
    ClusterRole, Founding, Invite, Person, Phc, Registration, SessionKind, SessionRecord, UserKind,
    UserRecord,
};
use conclave_core::session::ENDED;
use conclave_core::{
    Action, Command, Origin, Outcome, Refusal, Reply, RequestNo, RoomId, SessionId, ShardId, Stamp, UserId,
    apply,
};
use proptest::prelude::*;

const NAMES: [&str; 4] = ["ana", "bo", "kim", "una"];

fn name() -> impl Strategy<Value = String> {
    (0..NAMES.len()).prop_map(|at| NAMES[at].to_owned())
}

fn phc() -> impl Strategy<Value = Phc> {
    (0..3_u8).prop_map(|which| Phc(format!("$argon2id${which}")))
}

fn role() -> impl Strategy<Value = ClusterRole> {
    prop_oneof![2 => Just(ClusterRole::None), 1 => Just(ClusterRole::Operator), 2 => Just(ClusterRole::Admin)]
}

fn command() -> impl Strategy<Value = Command> {
    let user = || (1..5_u64).prop_map(UserId);
    let session = || (1..12_u64).prop_map(SessionId);
    prop_oneof![
        6 => (name(), any::<u8>()).prop_map(|(user, secret)| Command::OpenSession {
            user,
            secret_digest: [secret; 16],
            client: "cli".to_owned(),
        }),
        2 => (name(), proptest::option::of(role()), proptest::option::of(any::<bool>()), any::<bool>()).prop_map(
            |(name, role, disabled, guest)| {
                let kind = guest.then_some(UserKind::Guest);
                Command::SetAccount(AccountChange { name, kind, role, disabled })
            }
        ),
        2 => (user(), phc(), 0..3_u32)
            .prop_map(|(user, phc, expects_revision)| Command::SetPassword { user, phc, expects_revision, closing: None }),
        2 => (0..4_u8, name(), any::<bool>(), role(), 0..3_u32).prop_map(|(digest, name, any, role, uses)| {
            Command::PutInvite(Invite {
                digest: [digest; 16],
                name: if any { String::new() } else { name },
                kind: UserKind::Person,
                role,
                uses,
                expires_ms: 0,
                by: UserId(0),
            })
        }),
        3 => (proptest::option::of(0..4_u8), name(), phc()).prop_map(|(invite, name, phc)| Command::Register {
            invite: invite.map(|digest| [digest; 16]),
            name,
            phc,
        }),
        4 => (user(), 0..3_u32, any::<u8>()).prop_map(|(user, credential_revision, secret)| {
            Command::LogIn(LogIn {
                user,
                credential_revision,
                secret_digest: [secret; 16],
                kind: SessionKind::Login,
                label: "label".repeat(30),
                client: "cli".to_owned(),
                expires_ms: 0,
            })
        }),
        3 => prop_oneof![
            session().prop_map(Closing::One),
            user().prop_map(Closing::Of),
            (user(), session()).prop_map(|(user, session)| Closing::AllBut(user, session)),
        ].prop_map(Command::CloseSessions),
        2 => proptest::collection::vec(session(), 0..3).prop_map(Command::ForgetSessions),
        2 => proptest::collection::vec((session(), 0..9_u32), 0..4).prop_map(Command::SeenSessions),
        1 => prop_oneof![4 => Just(Registration::Open), 1 => Just(Registration::Invite)]
            .prop_map(Command::SetRegistration),
    ]
}

fn decide(view: &mut MemView, shard: ShardId, stamp: Stamp, command: &Command) -> Outcome {
    let Ok(outcome) = apply(view, shard, stamp, command);
    view.commit(&outcome);
    outcome
}

/// What holds after every command.
fn check(view: &MemView) -> Result<(), TestCaseError> {
    let admins = view.users.values().filter(|user| user.is_active_admin()).count();
    prop_assert_eq!(view.meta.admins as usize, admins);
    prop_assert_eq!(view.meta.invites as usize, view.invites.len());
    for user in view.users.values() {
        let of_user = view.session_records.values().filter(|session| session.user == user.user);
        let listed = of_user.filter(|session| session.listed && !session.closed);
        let listed: Vec<_> = listed.map(|session| (session.session, session.seen_day)).collect();
        let list = view.open_sessions.get(&user.user).cloned().unwrap_or_default();
        let list: Vec<_> = list.iter().map(|open| (open.session, open.seen_day)).collect();
        prop_assert_eq!(&list, &listed, "the list of {}", &user.name);
        prop_assert_eq!(user.sessions_open as usize, list.len());
        prop_assert_eq!(view.credentials.contains_key(&user.user), user.is_claimed());
        if user.disabled {
            prop_assert!(list.is_empty() && user.unlisted_ended, "{} is disabled", &user.name);
        }
    }
    for session in view.session_records.values().filter(|session| session.closed) {
        prop_assert!(view.endings.contains(&session.session), "shards hear of {}", session.session);
    }
    Ok(())
}

/// Whether a name without a password leads to this account.
fn is_free(user: Option<&UserRecord>) -> bool {
    user.is_none_or(|user| {
        !user.is_claimed()
            && !user.disabled
            && user.kind == UserKind::Person
            && user.role == ClusterRole::None
    })
}

proptest! {
    #[test]
    fn accounts_and_lists_of_sessions_agree(commands in proptest::collection::vec((command(), any::<bool>()), 1..60)) {
        let mut view = MemView::default();
        for (at, (command, newer)) in commands.iter().enumerate() {
            let stamp = Stamp::at_level(at as i64 * 50_000_000, if *newer { FEATURE_LEVEL } else { FIRST });
            let before = view.clone();
            let outcome = decide(&mut view, ShardId::META, stamp, command);
            check(&view)?;
            prop_assert!(before.meta.admins == 0 || view.meta.admins > 0, "an admin stays");
            if let Command::OpenSession { user, .. } = command {
                let opened = matches!(outcome.reply, Reply::SessionOpened { .. });
                let is_open = before.meta.settings.registration == Registration::Open;
                prop_assert_eq!(opened, is_open && is_free(before.users.get(user)));
            }
            if let (Command::LogIn(log_in), Reply::SessionOpened { .. }) = (command, outcome.reply) {
                let user = view.users.values().find(|user| user.user == log_in.user).unwrap();
                prop_assert_eq!(log_in.credential_revision, user.credential_revision);
            }
            // A session that has ended stays ended, until it is gone.
            for (id, record) in before.session_records.iter().filter(|(_, record)| record.closed) {
                prop_assert!(view.session_records.get(id).is_none_or(|now: &SessionRecord| now == record));
            }
        }
    }

    #[test]
    fn a_repeated_command_changes_nothing_more(commands in proptest::collection::vec(command(), 1..40)) {
        let mut view = MemView::default();
        let stamp = Stamp::at_level(86_400_000, FEATURE_LEVEL);
        for command in &commands {
            decide(&mut view, ShardId::META, stamp, command);
            // Opening a session by a name alone has no secret of the client to know a repeat by: each opens one.
            if matches!(command, Command::OpenSession { .. }) {
                continue;
            }
            let once = view.clone();
            let again = decide(&mut view, ShardId::META, stamp, command);
            let refused = matches!(again.reply, Reply::Refused(_));
            prop_assert!(view == once || !refused, "{:?} was refused and changed the state", command);
            if !matches!(command, Command::PutInvite(_)) {
                prop_assert_eq!(&view, &once, "{:?}", command);
            }
        }
    }

    #[test]
    fn nothing_of_an_ended_session_is_decided(
        sends in proptest::collection::vec((1..4_u64, 1..6_u64, any::<bool>()), 1..40),
    ) {
        let (shard, room) = (ShardId(1), RoomId(1));
        let stamp = Stamp::at_level(1, FEATURE_LEVEL);
        let mut view = MemView::default();
        let open = Command::OpenRoom { room, name: "general".into(), creator: Person { user: UserId(1), name: "ana".into() }, founding: Some(Founding::default()) };
        decide(&mut view, shard, stamp, &open);
        for (session, request, ends) in sends {
            let session = SessionId(session);
            if ends && request == 5 {
                decide(&mut view, shard, stamp, &Command::EndSession { session });
                prop_assert!(view.sessions.keys().all(|(known, _)| *known != session));
                prop_assert_eq!(view.session_rooms[&session], ENDED);
                continue;
            }
            let has_ended = view.session_rooms.get(&session) == Some(&ENDED);
            let events = view.events.len();
            let origin = Origin {
                session,
                author: UserId(1),
                author_name: "ana".into(),
                request: RequestNo(request),
                settled: RequestNo(0),
                powers: Powers::default(),
            };
            let act = Command::Act { room, origin, action: Action::Post(request.to_string()) };
            let outcome = decide(&mut view, shard, stamp, &act);
            if has_ended {
                prop_assert_eq!(outcome.reply, Reply::Refused(Refusal::SessionEnded));
                prop_assert!(view.events.len() == events && outcome.changes.is_empty());
            }
            let numbers: Vec<_> = view.events.iter().map(|event| (event.session, event.request)).collect();
            let once: std::collections::BTreeSet<_> = numbers.iter().copied().collect();
            prop_assert_eq!(once.len(), numbers.len(), "no request is decided twice");
        }
    }
}
