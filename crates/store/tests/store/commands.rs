//! Random commands, and the state that they lead to.

use bytes::Bytes;
use conclave_core::access::{Member, Past, PolicyChange, Powers, Role, RoomKind, Span};
use conclave_core::action::Target;
use conclave_core::level::FEATURE_LEVEL;
use conclave_core::mem::MemView;
use conclave_core::message::{Answer, MessageState, Reaction};
use conclave_core::people::{AccountChange, Closing, LogIn};
use conclave_core::record::{
    ClusterRole, DirectoryEntry, Founding, Invite, MetaHead, NodeRecord, Person, Phc, Registration, RoomHead,
    RoomInfo, SessionKind, Settings, UserKind,
};
use conclave_core::ring::Layout;
use conclave_core::session::{ENDED, SessionRoom, StoredOutcome, StoredReply};
use conclave_core::{
    Action, Command, DataDirId, NodeId, Origin, Refusal, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp,
    UserId, level,
};
use conclave_proto::{accounts, command, event, log, rights};
use conclave_store::{LocalSnapshot, Snapshot, SnapshotData};
use prost::Message as _;
use rand::RngExt as _;
use rand::rngs::StdRng;

/// Makes random commands of one shard. Most of them are accepted.
#[derive(Debug)]
pub(crate) struct Commands {
    shard: ShardId,
    /// The state after the commands so far, from which fitting commands are made.
    view: MemView,
}

impl Commands {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, view: MemView::default() }
    }

    fn any(&self, random: &mut StdRng) -> Command {
        if self.shard.is_meta() { meta(random) } else { self.data(random) }
    }

    /// A batch in the form of an entry's payload.
    pub(crate) fn batch(&mut self, random: &mut StdRng) -> Bytes {
        let level = if random.random() { level::FIRST } else { FEATURE_LEVEL };
        let stamp = Stamp::at_level(random.random_range(0..40_000), level);
        let commands = (0..random.random_range(1..6)).map(|_| {
            let command = self.any(random);
            let outcome = conclave_core::apply(&self.view, self.shard, stamp, &command).unwrap();
            self.view.commit(&outcome);
            self.view.events.clear();
            command::encode(&command)
        });
        let commands: Vec<_> = commands.collect();
        command::encode_batch(stamp, &commands)
    }

    fn data(&self, random: &mut StdRng) -> Command {
        let room = RoomId(random.random_range(1..6));
        let name = |id: u64| format!("user{id}");
        if random.random_bool(0.1) {
            let creator = random.random_range(1..4);
            let room_name = format!("room{room}");
            let kind = if random.random() { RoomKind::Open } else { RoomKind::Private };
            let founding = random.random::<bool>().then(|| Founding { kind, people: Vec::new() });
            return Command::OpenRoom {
                room,
                name: room_name,
                creator: Person { user: UserId(creator), name: name(creator) },
                founding,
            };
        }
        // Sessions end one after the other, and further ones take their place.
        let ended = self.view.session_rooms.values().filter(|rooms| **rooms == ENDED).count() as u64;
        if random.random_bool(0.02) {
            return Command::EndSession { session: SessionId(ended + 1) };
        }
        let session = ended + random.random_range(u64::from(ended == 0)..5);
        let known = self.view.sessions.get(&(SessionId(session), room));
        let next = known.map_or(0, |known| known.last.0) + 1;
        let request = match random.random_range(0..20) {
            0 => next.saturating_sub(random.random_range(1..300)).max(1),
            1 => next + 1,
            2 => 0,
            _ => next,
        };
        let settled = RequestNo(next.saturating_sub(random.random_range(1..300)));
        let author = session % 3 + 1;
        let target = random.random_range(0..4);
        let who = Target { name: name(target), user: UserId(target) };
        let member = self.view.members.get(&(room, UserId(author))).is_some_and(Member::is_present);
        let last = self.view.rooms.get(&room).map_or(0, |(head, _)| head.last.0);
        let place = Seq(random.random_range(0..=last.max(1)));
        let emoji = ["👍", ":tada:"][random.random_range(0..2)].to_owned();
        let action = match random.random_range(0..35) {
            _ if !member && random.random_bool(0.7) => Action::Join,
            0 => Action::SetTopic(format!("topic {}", random.random_range(0..9))),
            1..5 => Action::Join,
            5..8 => Action::Leave,
            20..22 => Action::AddMember { who, role: Role::Member },
            22..24 => Action::RemoveMember { who, ban: random.random(), reason: String::new() },
            24 => Action::Mute { who, for_ms: random.random_range(0..5_000) },
            25 => Action::SetPolicy(PolicyChange { past: Some(Past::SinceJoin), ..PolicyChange::default() }),
            8 => Action::Post("x".repeat(random.random_range(0..17_000))),
            26 => Action::Answer(Answer { text: "reply".into(), reply_to: place, ..Answer::default() }),
            27 => Action::Answer(Answer { text: "thread".into(), thread: place, ..Answer::default() }),
            28 | 29 => Action::Edit { target: place, text: "z".repeat(random.random_range(1..300)) },
            30 => Action::Delete { target: place, reason: "reason".into() },
            31..34 => Action::React { target: place, emoji, off: random.random_bool(0.3) },
            34 => Action::Read { upto: place },
            _ => Action::Post("y".repeat(random.random_range(1..300))),
        };
        Command::Act {
            room,
            origin: Origin {
                session: SessionId(session),
                author: UserId(author),
                author_name: name(author),
                request: RequestNo(request),
                settled,
                powers: Powers::default(),
            },
            action,
        }
    }

    /// Continues from another state, after commands were dropped.
    pub(crate) fn follow(&mut self, view: MemView) {
        self.view = view;
    }
}

/// A random command about accounts and sessions.
fn about_people(random: &mut StdRng) -> Command {
    let name = format!("user{}", random.random_range(0..40));
    let user = UserId(random.random_range(1..20));
    let session = SessionId(random.random_range(1..60));
    let phc = Phc(format!("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA${}", random.random_range(0..5)));
    let role = [ClusterRole::None, ClusterRole::Operator, ClusterRole::Admin][random.random_range(0..3)];
    let digest = [random.random_range(0..20); 16];
    match random.random_range(0..10) {
        0 => Command::SetAccount(AccountChange {
            name,
            kind: random.random_bool(0.2).then_some(UserKind::Guest),
            role: random.random_bool(0.5).then_some(role),
            disabled: random.random_bool(0.5).then(|| random.random_bool(0.3)),
        }),
        1 => Command::SetPassword {
            user,
            phc,
            expects_revision: random.random_range(0..3),
            closing: random.random::<bool>().then_some(Closing::Of(user)),
        },
        2 => Command::PutInvite(Invite {
            digest,
            name: if random.random_bool(0.5) { name } else { String::new() },
            kind: UserKind::Person,
            role,
            uses: random.random_range(0..4),
            expires_ms: random.random_range(0..40_000),
            by: user,
        }),
        3 => Command::Register { invite: random.random_bool(0.7).then_some(digest), name, phc },
        4 | 5 => Command::LogIn(LogIn {
            user,
            credential_revision: random.random_range(0..3),
            secret_digest: random.random(),
            kind: SessionKind::Access,
            label: "label".into(),
            client: "test".into(),
            expires_ms: random.random_range(0..40_000),
        }),
        6 => Command::CloseSessions(match random.random_range(0..8) {
            0 => Closing::Of(user),
            1 => Closing::AllBut(user, session),
            _ => Closing::One(session),
        }),
        7 => Command::ForgetSessions(vec![session]),
        8 => Command::SeenSessions(vec![(session, random.random_range(0..5)), (SessionId(session.0 + 1), 3)]),
        _ => Command::SetRegistration(if random.random_bool(0.8) {
            Registration::Open
        } else {
            Registration::Invite
        }),
    }
}

fn meta(random: &mut StdRng) -> Command {
    if random.random_bool(0.4) {
        return about_people(random);
    }
    match random.random_range(0..8) {
        0..3 => Command::CreateRoom {
            name: format!("room-{}", random.random_range(0..400)),
            creator: UserId(random.random_range(1..20)),
            kind: random.random::<bool>().then_some(RoomKind::Private),
        },
        3..6 => Command::OpenSession {
            user: format!("user{}", random.random_range(0..40)),
            secret_digest: random.random(),
            client: "test".into(),
        },
        6 => {
            let node = random.random_range(1..5);
            Command::RegisterNode(NodeRecord {
                node: NodeId(node),
                name: format!("n{node}"),
                client_address: format!("a:{}", random.random_range(1..9)),
                peer_address: "b:1".into(),
                http_address: "c:1".into(),
                web_address: String::new(),
                directory: DataDirId(random.random_range(1..3)),
                version: "0".into(),
                feature_level: 1,
            })
        }
        _ => {
            let replaces = random.random_range(0..6);
            let layout =
                Layout { version: replaces + 1, shards: vec![vec![NodeId(1)], vec![NodeId(2), NodeId(1)]] };
            if random.random_bool(0.2) {
                Command::SetFeatureLevel(1)
            } else {
                Command::SetLayout { layout, replaces }
            }
        }
    }
}

/// Applies an entry's batch to the model.
pub(crate) fn apply(view: &mut MemView, shard: ShardId, batch: &Bytes) {
    let (stamp, commands) = command::decode_batch(batch, FEATURE_LEVEL).unwrap();
    for command in &commands {
        let outcome = conclave_core::apply(view, shard, stamp, command).unwrap();
        view.commit(&outcome);
    }
}

/// The whole state in a snapshot. This code checks the format of the file, so it repeats the numbers of
/// the format.
pub(crate) fn view_of(snapshot: Snapshot) -> MemView {
    let SnapshotData::Local(local) = snapshot.snapshot else { panic!("a snapshot of this node") };
    rows_to_view(&rows_of(local, Vec::new()))
}

pub(crate) fn rows_of(local: LocalSnapshot, left_out: Vec<(RoomId, Seq)>) -> Vec<(Bytes, Bytes)> {
    let mut rows = Vec::new();
    for chunk in local.chunks(left_out) {
        let mut bytes = chunk.unwrap().rows;
        while !bytes.is_empty() {
            let header = bytes.split_to(8);
            let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()) as usize;
            let key = bytes.split_to(number(0));
            rows.push((key, bytes.split_to(number(4))));
        }
    }
    rows
}

pub(crate) fn rows_to_view(rows: &[(Bytes, Bytes)]) -> MemView {
    let mut view = MemView::default();
    for (key, value) in rows {
        let id = |n: usize| u64::from_be_bytes(key[1 + 8 * n..9 + 8 * n].try_into().unwrap());
        match key[0] {
            1 => {
                let row = log::RoomRow::decode(value.clone()).unwrap();
                let head = RoomHead {
                    last: Seq(row.last_seq),
                    last_time_ms: row.last_time_ms,
                    members: row.members,
                    policy: row
                        .policy
                        .map(|policy| rights::policy_from_proto(policy).unwrap())
                        .unwrap_or_default(),
                };
                let creator = UserId(row.creator_id);
                let info = RoomInfo { name: row.name, topic: row.topic, creator, created_ms: row.created_ms };
                view.rooms.insert(RoomId(id(0)), (head, info));
            }
            2 => drop(view.members.insert((RoomId(id(0)), UserId(id(1))), member(value))),
            3 => drop(view.sessions.insert((SessionId(id(0)), RoomId(id(1))), replies(value))),
            4 => {
                let count = u32::from_le_bytes(value[..].try_into().unwrap());
                view.session_rooms.insert(SessionId(id(0)), count);
            }
            5 => {
                let row = log::MessageRow::decode(value.clone()).unwrap();
                view.messages.insert((RoomId(id(0)), Seq(id(1))), message(row));
            }
            64 => {
                let count = u32::from_le_bytes(value[..4].try_into().unwrap());
                let events = event::decode_records(&value.slice(4..)).unwrap();
                assert_eq!(events.len(), count as usize);
                assert_eq!(events[0].seq, id(1));
                view.events.extend(events.into_iter().map(|event| event::from_proto(event).unwrap()));
            }
            kind => meta_row(&mut view, kind, key, value),
        }
    }
    view
}

fn member(value: &Bytes) -> Member {
    // Version 0.1.0 writes nothing for a member.
    if value.is_empty() {
        return Member::of_first_level();
    }
    let row = log::MemberRow::decode(value.clone()).unwrap();
    Member {
        role: rights::role_from_proto(row.role).unwrap(),
        sees_from: (!row.is_out).then_some(Seq(row.sees_from)),
        past: row.past.iter().map(|span| Span { from: Seq(span.from), upto: Seq(span.upto) }).collect(),
        muted_until_ms: row.muted_until_ms,
        banned: row.banned,
        read: Seq(row.read_seq),
    }
}

fn message(row: log::MessageRow) -> MessageState {
    let reaction = |row: log::ReactionRow| Reaction {
        emoji: row.emoji,
        users: row.user_ids.into_iter().map(UserId).collect(),
    };
    MessageState {
        author: UserId(row.author_id),
        thread: Seq(row.thread_seq),
        edits: row.edit_seqs.into_iter().map(Seq).collect(),
        deleted: Seq(row.deleted_seq),
        reactions: row.reactions.into_iter().map(reaction).collect(),
        answers: row.answers,
        last_answer: Seq(row.last_answer_seq),
    }
}

fn replies(value: &Bytes) -> SessionRoom {
    let row = log::SessionRoomRow::decode(value.clone()).unwrap();
    let reply = |stored: log::StoredReply| StoredReply {
        request: RequestNo(stored.request_no),
        digest: stored.digest,
        verdict: match stored.reply.unwrap() {
            log::stored_reply::Reply::Seq(seq) => StoredOutcome::Event(Seq(seq)),
            log::stored_reply::Reply::Unchanged(_) => StoredOutcome::Unchanged,
            log::stored_reply::Reply::Refusal(code) => StoredOutcome::Refused(Refusal::from_code(code, 0)),
        },
        time_ms: stored.time_ms,
    };
    SessionRoom { last: RequestNo(row.last_no), replies: row.replies.into_iter().map(reply).collect() }
}

fn meta_row(view: &mut MemView, kind: u8, key: &Bytes, value: &Bytes) {
    let value = value.clone();
    match kind {
        16 => {
            let row = log::MetaRow::decode(value).unwrap();
            view.meta = MetaHead {
                last_room: RoomId(row.last_room_id),
                last_user: UserId(row.last_user_id),
                last_session: SessionId(row.last_session_id),
                feature_level: row.feature_level,
                admins: row.admins,
                invites: row.invites,
                settings: Settings {
                    registration: accounts::registration_from_log(row.registration).unwrap(),
                },
            };
        }
        17 => {
            let row = log::DirectoryRow::decode(value).unwrap();
            assert_eq!(row.name.as_bytes(), &key[1..]);
            let entry = DirectoryEntry {
                room: RoomId(row.room_id),
                name: row.name.clone(),
                creator: UserId(row.creator_id),
                creator_name: row.creator,
                created_ms: row.created_ms,
                founding: row.founding.map(|founding| rights::founding_from_proto(founding).unwrap()),
            };
            view.directory.insert(row.name, entry);
        }
        18 => {
            let user = accounts::user_from_log(log::UserRow::decode(value).unwrap()).unwrap();
            view.users.insert(user.name.clone(), user);
        }
        19 => assert!(view.users.contains_key(std::str::from_utf8(&value).unwrap())),
        20 => {
            let session = accounts::session_from_log(log::SessionRow::decode(value).unwrap()).unwrap();
            view.session_records.insert(session.session, session);
        }
        21 => {
            let node = command::node_from_proto(log::NodeRecord::decode(value).unwrap()).unwrap();
            view.nodes.insert(node.node, node);
        }
        22 => view.layout = Some(command::layout_from_proto(log::Layout::decode(value).unwrap())),
        23 => assert_eq!(view.directory[std::str::from_utf8(&value).unwrap()].room.0.to_be_bytes(), key[1..]),
        32 => {
            let row = accounts::credential_from_log(log::CredentialRow::decode(value).unwrap());
            view.credentials.insert(row.user, row);
        }
        33 => {
            let user = UserId(u64::from_be_bytes(key[1..9].try_into().unwrap()));
            let row = log::OpenSessionsRow::decode(value).unwrap();
            view.open_sessions.insert(user, accounts::open_sessions_from_log(row));
        }
        34 => drop(view.endings.insert(SessionId(u64::from_be_bytes(key[1..9].try_into().unwrap())))),
        35 => {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            view.folded.insert(text(&key[1..]), text(&value));
        }
        36 => {
            let invite = accounts::invite_from_log(log::InviteRow::decode(value).unwrap()).unwrap();
            view.invites.insert(invite.digest, invite);
        }
        kind => panic!("a row of kind {kind}"),
    }
}

/// The model as the file has it: events by room, and no rows of messages to which nothing refers.
pub(crate) fn sorted(mut view: MemView) -> MemView {
    view.messages.retain(|_, state| !state.is_plain());
    view.events.sort_by_key(|event| (event.room, event.seq));
    view
}
