//! Resource use stays bounded: the log by its tail, memory by its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conclave_core::access::Powers;
use conclave_core::limits::{CACHED_ROWS_MAX, TAIL_CACHE_BYTES_MAX};
use conclave_core::record::Person;
use conclave_core::{Action, Command, Origin, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp, UserId};
use conclave_proto::command::Encoded;
use conclave_proto::{command, event};
use conclave_store::convert::log_id_of;
use conclave_store::{Entry, LogStore, Observer, Options, Payload, StateMachine, Store, Vote};
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::{EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _};

use crate::support::{SHARDS, identity, open, open_with};
use conclave_store::simulated::SimDisk;

fn open_room(room: u64) -> Encoded {
    command::encode(&Command::OpenRoom {
        room: RoomId(room),
        name: format!("room{room}"),
        creator: Person { user: UserId(1), name: "ana".into() },
        founding: None,
    })
}

fn post(room: u64, request: u64, text: &str) -> Encoded {
    command::encode(&Command::Act {
        room: RoomId(room),
        origin: Origin {
            session: SessionId(1),
            author: UserId(1),
            author_name: "ana".into(),
            request: RequestNo(request),
            settled: RequestNo(request - 1),
            powers: Powers::default(),
        },
        action: Action::Post(text.to_owned()),
    })
}

fn entry(index: u64, commands: &[Encoded]) -> Entry {
    let batch = command::encode_batch(Stamp::first(1), commands);
    Entry { log_id: log_id_of(1, index), payload: EntryPayload::Normal(Payload(batch)) }
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(futures::stream::iter(entries.collect::<Vec<_>>())).await.unwrap();
}

async fn cut(log: &mut LogStore, machine: &mut StateMachine, upto: u64) {
    let snapshot = machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    assert!(snapshot.meta.last_log_id.unwrap().index >= upto);
    log.purge(log_id_of(1, upto)).await.unwrap();
}

#[tokio::test]
async fn the_log_keeps_its_tail_and_an_idle_group_does_not_hold_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let tail = 1024 * 1024;
    let store = open_with(dir.path(), Options { log_tail_bytes: tail, ..Options::default() });
    let mut groups: Vec<_> = (0..=SHARDS).map(|n| store.shard(ShardId(n))).collect();
    // Every group appends early entries; then two of them are idle.
    for (log, machine) in &mut groups {
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        let first = entry(1, &[open_room(1)]);
        log.blocking_append([first.clone()]).await.unwrap();
        apply(machine, vec![first]).await;
    }
    assert_eq!(store.compaction(), [], "nothing to do yet");
    let mut largest = 0;
    for index in 2..400_u64 {
        let (log, machine) = &mut groups[1];
        let next = entry(index, &[post(1, index, &"x".repeat(16_000)), post(1, index, &"y".repeat(16_000))]);
        log.blocking_append([next.clone()]).await.unwrap();
        apply(machine, vec![next]).await;
        for compaction in store.compaction() {
            let (log, machine) = &mut groups[compaction.shard.0 as usize];
            cut(log, machine, compaction.upto).await;
        }
        largest = largest.max(store.usage().log_bytes);
    }
    // 1.5 times the tail before the purge, and the entries that were appended during it.
    assert!(largest < 2 * tail, "{largest}");
    let usage = store.usage();
    assert!(usage.log_file_bytes < 16 * 1024 * 1024, "{usage:?}");
    let (log, _) = &mut groups[1];
    let state = log.get_log_state().await.unwrap();
    let (purged, last) = (state.last_purged_log_id.unwrap().index, state.last_log_id.unwrap().index);
    assert!(last == 399 && last - purged > 20, "the tail is there: {purged}");
    let read = log.get_log_reader().await.try_get_log_entries(purged + 1..last + 1).await.unwrap();
    assert_eq!(read.len() as u64, last - purged);
    drop((groups, store));
    let store = open(dir.path());
    assert_eq!(store.shard(ShardId(1)).0.get_log_state().await.unwrap(), state);
}

#[tokio::test]
async fn a_group_that_cannot_apply_is_not_purged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), Options { log_tail_bytes: 10_000, ..Options::default() });
    let (mut log, mut machine) = store.shard(ShardId(1));
    let entries: Vec<_> = (1..=20).map(|index| entry(index, &[post(1, index, &"x".repeat(2_000))])).collect();
    for entry in &entries {
        log.blocking_append([entry.clone()]).await.unwrap();
    }
    assert_eq!(store.compaction(), []);
    apply(&mut machine, entries[..3].to_vec()).await;
    let cuts: Vec<_> = store.compaction().iter().map(|cut| (cut.shard, cut.upto)).collect();
    assert_eq!(cuts, [(ShardId(1), 3)]);
}

#[tokio::test]
async fn a_purge_beyond_the_checkpoint_is_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(1);
    let options = || Options { disk: Arc::new(disk.clone()), ..Options::default() };
    let store = open_with(dir.path(), options());
    let (mut log, mut machine) = store.shard(ShardId(1));
    let entries: Vec<_> = (1..=9).map(|index| entry(index, &[open_room(index)])).collect();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    log.blocking_append(entries.clone()).await.unwrap();
    apply(&mut machine, entries[..5].to_vec()).await;
    // openraft never does this; even then, a crash loses nothing.
    log.purge(log_id_of(1, 5)).await.unwrap();
    log.blocking_append([entry(10, &[])]).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id_of(1, 5)));
    disk.crash();
    drop((log, machine, store));
    let store = open_with(dir.path(), options());
    let (mut log, mut machine) = store.shard(ShardId(1));
    let applied = machine.applied_state().await.unwrap().0.map_or(0, |id| id.index);
    let purged = log.get_log_state().await.unwrap().last_purged_log_id.map_or(0, |id| id.index);
    assert!(purged <= applied, "{purged} {applied}");
}

#[derive(Debug, Default)]
struct Counts {
    published: AtomicU64,
    applied: AtomicU64,
    syncs: AtomicU64,
}

impl Observer for Counts {
    fn published(&self, _: ShardId, heads: &[(RoomId, Seq)]) {
        self.published.fetch_add(heads.len() as u64, Ordering::Relaxed);
    }

    fn applied(&self, _: ShardId, _: usize, commands: usize, _: std::time::Duration) {
        self.applied.fetch_add(commands as u64, Ordering::Relaxed);
    }

    fn log_synced(&self, _: std::time::Duration, _: usize, _: usize) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn more_rooms_than_fit_into_memory_can_all_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let counts = Arc::new(Counts::default());
    let store =
        Store::open(dir.path(), &identity(dir.path()), SHARDS, Options::default(), counts.clone()).unwrap();
    let (_, mut machine) = store.shard(ShardId(1));
    let rooms = CACHED_ROWS_MAX as u64 + 20_000;
    let mut index = 0;
    for first in (1..=rooms).step_by(1_000) {
        index += 1;
        let commands: Vec<_> = (first..(first + 1_000).min(rooms + 1)).map(open_room).collect();
        apply(&mut machine, vec![entry(index, &commands)]).await;
    }
    assert_eq!(counts.published.load(Ordering::Relaxed), rooms);
    assert_eq!(counts.applied.load(Ordering::Relaxed), rooms);
    let state = store.state(ShardId(1));
    for room in [1, 2, 1_000, 40_000, rooms] {
        assert_eq!(state.room(RoomId(room)).await.unwrap().unwrap().1.name, format!("room{room}"));
        // Read from the file again, and changed.
        index += 1;
        apply(&mut machine, vec![entry(index, &[post(room, 1, "hello")])]).await;
        let page = state.read(RoomId(room), Seq(0), 10, 10_000).await.unwrap();
        assert_eq!((page.first, page.last, page.head), (Seq(1), Seq(2), Seq(2)));
        assert_eq!(event::decode_records(&page.records).unwrap().len(), 2);
    }
    assert!(state.room(RoomId(rooms + 1)).await.unwrap().is_none());
}

#[tokio::test]
async fn pages_are_the_same_from_memory_and_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_, mut machine) = store.shard(ShardId(1));
    apply(&mut machine, vec![entry(1, &[open_room(1), open_room(2)])]).await;
    let (mut index, mut request) = (1, 0);
    let mut written = 0;
    while written < TAIL_CACHE_BYTES_MAX * 2 {
        index += 1;
        let commands: Vec<_> = (0..20)
            .map(|n: usize| {
                request += 1;
                let text = "x".repeat((written + n * 37) % 5_000 + 1);
                written += text.len();
                post(1, request, &text)
            })
            .collect();
        apply(&mut machine, vec![entry(index, &commands)]).await;
        // A room with few events, whose blocks grow.
        apply(&mut machine, vec![entry(index, &[post(2, index - 1, "now and then")])]).await;
    }
    let check = async |state: Arc<conclave_store::ShardState>, room, head: u64| {
        for (events, bytes) in [(1_000, 1024 * 1024), (7, 1024 * 1024), (1_000, 3_000)] {
            let mut after = Seq(0);
            while after.0 < head {
                let page = state.read(room, after, events, bytes).await.unwrap();
                assert_eq!((page.first, page.head), (after.next(), Seq(head)));
                let list = event::decode_records(&page.records).unwrap();
                assert!(list.len() <= events && (page.records.len() <= bytes || list.len() == 1));
                let seqs: Vec<_> = list.iter().map(|event| event.seq).collect();
                assert_eq!(seqs, (page.first.0..=page.last.0).collect::<Vec<_>>());
                after = page.last;
            }
        }
        let end = state.read(room, Seq(head), 10, 1_000).await.unwrap();
        assert_eq!((end.first, end.last, end.records.len()), (Seq(0), Seq(head), 0));
    };
    check(store.state(ShardId(1)), RoomId(1), request + 1).await;
    check(store.state(ShardId(1)), RoomId(2), index).await;
    drop((machine, store));
    let store = open(dir.path());
    check(store.state(ShardId(1)), RoomId(1), request + 1).await;
    check(store.state(ShardId(1)), RoomId(2), index).await;
    let unknown = store.state(ShardId(1)).read(RoomId(9), Seq(0), 1, 1).await;
    assert!(matches!(unknown, Err(conclave_store::ReadError::RoomUnknown)));
}
