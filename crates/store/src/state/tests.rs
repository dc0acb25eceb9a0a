//! The store's view of a shard against the model's: the same commands, the same answers.

use crate::work::Work;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use conclave_core::access::{PolicyChange, Powers, Role, RoomKind};
use conclave_core::action::Target;
use conclave_core::level::FEATURE_LEVEL;
use conclave_core::limits::HISTORY_READS_MAX;
use conclave_core::mem::MemView;
use conclave_core::message::Answer;
use conclave_core::record::{Founding, Person};
use conclave_core::{
    Action, Command, Origin, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp, UserId, View as _,
};
use conclave_proto::{command, event};
use openraft::EntryPayload;
use proptest::prelude::*;
use tokio::sync::{Notify, Semaphore};

use super::db::{StateDb, begin};
use super::key::Key;
use super::view::ApplyView;
use super::writer::StateWriterQueue;
use super::{ShardState, StoreContext};
use crate::convert::log_id_of;
use crate::disk::RealDisk;
use crate::failure::Failure;
use crate::lock;
use crate::types::{Entry, Payload, Replies};

const SHARD: ShardId = ShardId(1);

/// Writes everything as the writer does, and then evicts as much as possible.
fn write_and_forget(state: &ShardState) {
    if let Some(mut taken) = state.take() {
        let write = begin(&state.shared.db.db, false).unwrap();
        taken.write(&write).unwrap();
        write.commit().unwrap();
        state.mark_flushed(&taken);
    }
    let mut inner = lock(&state.inner);
    let written = inner.written;
    // Twice: the first time, what was used lately stays.
    (0..2).for_each(|_| inner.rows.evict(0, written));
    inner.tails.evict(0, written);
}

fn target() -> impl Strategy<Value = Target> {
    (0..4_u64).prop_map(|user| Target { name: format!("u{user}"), user: UserId(user) })
}

fn place() -> impl Strategy<Value = Seq> {
    (0..16_u64).prop_map(Seq)
}

fn commands() -> impl Strategy<Value = Command> {
    let room = (1..4_u64).prop_map(RoomId);
    let founding = proptest::option::of(prop_oneof![Just(RoomKind::Open), Just(RoomKind::Private)])
        .prop_map(|kind| kind.map(|kind| Founding { kind, people: Vec::new() }));
    let open = (room.clone(), founding).prop_map(|(room, founding)| Command::OpenRoom {
        room,
        name: format!("room{room}"),
        creator: Person { user: UserId(1), name: "ana".into() },
        founding,
    });
    let action = prop_oneof![
        4 => "[a-z]{0,300}".prop_map(Action::Post),
        1 => "[a-z]{0,20}".prop_map(Action::SetTopic),
        2 => Just(Action::Join),
        2 => Just(Action::Leave),
        1 => (0..9_u64, any::<bool>()).prop_map(|(seq, off)| Action::Pin { target: Seq(seq), off }),
        1 => target().prop_map(|who| Action::AddMember { who, role: Role::Member }),
        1 => target().prop_map(|who| Action::AddMember { who, role: Role::Owner }),
        2 => (target(), any::<bool>()).prop_map(|(who, ban)| Action::RemoveMember { who, ban, reason: String::new() }),
        1 => (target(), 0..30_u64).prop_map(|(who, for_ms)| Action::Mute { who, for_ms }),
        1 => any::<bool>().prop_map(|archived| Action::SetPolicy(PolicyChange { archived: Some(archived), ..PolicyChange::default() })),
        2 => (place(), place()).prop_map(|(reply_to, thread)| Action::Answer(Answer { text: "answer".into(), reply_to, thread, also_in_room: false })),
        3 => (place(), "[a-z]{1,300}").prop_map(|(target, text)| Action::Edit { target, text }),
        1 => place().prop_map(|target| Action::Delete { target, reason: String::new() }),
        3 => (place(), any::<bool>()).prop_map(|(target, off)| Action::React { target, emoji: "👍".into(), off }),
        1 => place().prop_map(|upto| Action::Read { upto }),
    ];
    let act = (room, 1..4_u64, 0..12_u64, 0..12_u64, action).prop_map(
        |(room, session, request, settled, action)| {
            let origin = Origin {
                session: SessionId(session),
                author: UserId(session),
                author_name: "ana".into(),
                request: RequestNo(request),
                settled: RequestNo(settled),
                powers: Powers::default(),
            };
            Command::Act { room, origin, action }
        },
    );
    prop_oneof![1 => open, 8 => act]
}

fn shared(dir: &std::path::Path) -> Arc<StoreContext> {
    Arc::new(StoreContext {
        db: StateDb::open(&RealDisk, dir, 1, true).unwrap(),
        failure: Arc::new(Failure::new()),
        writer_queue: StateWriterQueue::default(),
        unwritten: AtomicUsize::new(0),
        work: Work::default(),
        history_reads: Arc::new(Semaphore::new(HISTORY_READS_MAX)),
        feature_level: FEATURE_LEVEL,
        written: Notify::new(),
    })
}

fn entry(index: i64, commands: &[Command]) -> Entry {
    let encoded: Vec<_> = commands.iter().map(command::encode).collect();
    let payload = Payload(command::encode_batch(Stamp::at_level(index, FEATURE_LEVEL), &encoded));
    Entry { log_id: log_id_of(1, index.cast_unsigned()), payload: EntryPayload::Normal(payload) }
}

/// A reader reads a row from the file; before it can keep the row in memory, the row changes, is written and leaves
/// memory. The reader must not put the old row in the place of the new one.
#[tokio::test]
async fn a_row_that_changed_while_it_was_read_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(ShardState::load(SHARD, shared(dir.path())).unwrap());
    let room = RoomId(1);
    let open = Command::OpenRoom {
        room,
        name: "room".into(),
        creator: Person { user: UserId(1), name: "ana".into() },
        founding: Some(Founding::default()),
    };
    state.apply(std::iter::once(entry(1, &[open]))).await.unwrap();
    write_and_forget(&state);
    let epoch = lock(&state.inner).epoch;
    let read = state.shared.db.rows(SHARD, [Key::Room(room)]).unwrap();
    let origin = Origin {
        session: SessionId(1),
        author: UserId(1),
        author_name: "ana".into(),
        request: RequestNo(1),
        settled: RequestNo(0),
        powers: Powers::default(),
    };
    let post = Command::Act { room, origin, action: Action::Post("hello".into()) };
    state.apply(std::iter::once(entry(2, &[post]))).await.unwrap();
    write_and_forget(&state);
    state.keep(&read, epoch);
    assert_eq!(state.room(room).await.unwrap().unwrap().0.last.0, 2);
}

/// The file was found not to have a message; before its command is applied, the message is written and leaves memory.
#[tokio::test]
async fn a_message_that_was_written_since_the_file_was_read_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(ShardState::load(SHARD, shared(dir.path())).unwrap());
    let room = RoomId(1);
    let origin = |request| Origin {
        session: SessionId(1),
        author: UserId(1),
        author_name: "ana".into(),
        request: RequestNo(request),
        settled: RequestNo(0),
        powers: Powers::default(),
    };
    let open = Command::OpenRoom {
        room,
        name: "room".into(),
        creator: Person { user: UserId(1), name: "ana".into() },
        founding: Some(Founding::default()),
    };
    let post = Command::Act { room, origin: origin(1), action: Action::Post("hello".into()) };
    state.apply(std::iter::once(entry(1, &[open, post]))).await.unwrap();
    let key = Key::Message(room, Seq(2));
    assert!(state.shared.db.row(SHARD, &key).unwrap().is_none(), "it is not written yet");
    write_and_forget(&state);
    let mut inner = lock(&state.inner);
    inner.absent.insert(key);
    let view = ApplyView { inner: &inner, db: &state.shared.db, shard: SHARD };
    assert_eq!(view.message(room, Seq(2)).unwrap().map(|message| message.author), Some(UserId(1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_same_commands_get_the_same_answers(
        batches in proptest::collection::vec((proptest::collection::vec(commands(), 1..20), 0..3_u8), 1..30)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path());
        let state = Arc::new(ShardState::load(SHARD, shared.clone()).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut model = MemView::default();
        for (index, (commands, then)) in (1..).zip(&batches) {
            let applied = runtime.block_on(state.apply(std::iter::once(entry(index, commands)))).unwrap();
            let mut replies = Vec::new();
            for command in commands {
                let Ok(outcome) = conclave_core::apply(&model, SHARD, Stamp::at_level(index, FEATURE_LEVEL), command);
                model.commit(&outcome);
                replies.push(outcome.reply);
            }
            prop_assert_eq!(&applied.replies, &[Replies(replies)]);
            if *then == 0 {
                write_and_forget(&state);
            }
            for (room, (head, info)) in &model.rooms {
                let page = runtime.block_on(state.read(*room, Seq(0), usize::MAX, usize::MAX)).unwrap();
                let events: Vec<_> = model.events.iter().filter(|event| event.room == *room).map(event::to_proto).collect();
                prop_assert_eq!(event::decode_records(&page.records).unwrap(), events);
                let (folded, cut) = runtime.block_on(state.folded_messages(*room, Seq(1), head.last, usize::MAX)).unwrap();
                let folded: Vec<_> = folded.into_iter().map(|message| (message.seq, message.state)).collect();
                let all = model.messages.iter().filter(|((of, _), message)| of == room && !message.is_plain());
                prop_assert_eq!(folded, all.map(|((_, seq), message)| (*seq, message.clone())).collect::<Vec<_>>());
                prop_assert_eq!(cut, None);
                let all = (*room, UserId(0))..=(*room, UserId(u64::MAX));
                let present: Vec<_> = model.members.range(all).filter(|(_, member)| member.is_present()).map(|((_, user), member)| (*user, member.clone())).collect();
                let members = runtime.block_on(state.members(*room, UserId(0), 100)).unwrap().members;
                prop_assert_eq!(&members, &present);
                let second = runtime.block_on(state.members(*room, UserId(1), 1)).unwrap().members;
                let after = present.into_iter().find(|(user, _)| *user > UserId(1));
                prop_assert_eq!(second, Vec::from_iter(after));
                let known = runtime.block_on(state.room(*room)).unwrap();
                prop_assert_eq!(known, Some((*head, info.clone())));
                for user in 1..4 {
                    let member = model.members.get(&(*room, UserId(user))).cloned();
                    prop_assert_eq!(runtime.block_on(state.member(*room, UserId(user))).unwrap(), member);
                }
            }
        }
        // Memory and file together hold every event, once and in order; and so does the file alone.
        write_and_forget(&state);
        for state in [&state, &Arc::new(ShardState::load(SHARD, shared).unwrap())] {
            for room in model.rooms.keys() {
                let page = state.read(*room, Seq(0), usize::MAX, usize::MAX);
                let page = runtime.block_on(page).unwrap();
                let events = event::decode_records(&page.records).unwrap();
                let wanted: Vec<_> =
                    model.events.iter().filter(|event| event.room == *room).map(event::to_proto).collect();
                prop_assert_eq!(events, wanted);
            }
        }
    }
}
