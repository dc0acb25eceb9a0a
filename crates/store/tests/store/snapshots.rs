//! Snapshots into empty and lagging stores, damaged ones, and power failures while installing.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use conclave_core::access::Powers;
use conclave_core::mem::MemView;
use conclave_core::record::Person;
use conclave_core::{Action, Command, Origin, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp, UserId};
use conclave_proto::command::{self, Encoded};
use conclave_proto::raft::SnapshotChunk;
use conclave_store::convert::log_id_of;
use conclave_store::{
    Entry, Options, Payload, ReadError, Snapshot, SnapshotData, StateMachine, Store, StoreError,
};
use openraft::storage::RaftStateMachine as _;
use openraft::{EntryPayload, RaftSnapshotBuilder as _, SnapshotMeta};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::commands::{Commands, apply, sorted, view_of};
use crate::support::{SHARDS, identity, open, open_with};
use conclave_store::simulated::SimDisk;

const SHARD: ShardId = ShardId(1);

fn entry(index: u64, batch: Bytes) -> Entry {
    Entry { log_id: log_id_of(1, index), payload: EntryPayload::Normal(Payload(batch)) }
}

/// Applies batches from an index on.
async fn apply_all(machine: &mut StateMachine, first: u64, batches: &[Bytes]) {
    let entries = (first..).zip(batches).map(|(index, batch)| Ok((entry(index, batch.clone()), None)));
    machine.apply(futures::stream::iter(entries.collect::<Vec<_>>())).await.unwrap();
}

async fn snapshot(machine: &mut StateMachine) -> Snapshot {
    machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap()
}

fn model(batches: &[Bytes]) -> MemView {
    let mut view = MemView::default();
    batches.iter().for_each(|batch| apply(&mut view, SHARD, batch));
    sorted(view)
}

fn batches(seed: u64, count: usize) -> Vec<Bytes> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut commands = Commands::new(SHARD);
    (0..count).map(|_| commands.batch(&mut random)).collect()
}

/// Sends a snapshot as a server would.
fn send(to: &Store, snapshot: Snapshot) -> Result<(SnapshotData, Vec<SnapshotChunk>), StoreError> {
    let left_out = to.prefixes(SHARD).unwrap();
    let SnapshotData::Local(local) = snapshot.snapshot else { panic!("a snapshot of this node") };
    let digest = local.digest();
    let mut receiver = to.receive_snapshot(SHARD, snapshot.meta, left_out.clone(), digest)?;
    let mut sent = Vec::new();
    for chunk in local.chunks(left_out) {
        let chunk = chunk?;
        receiver.chunk(&chunk)?;
        sent.push(chunk);
    }
    Ok((receiver.finish()?, sent))
}

fn bytes(chunks: &[SnapshotChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.rows.len()).sum()
}

#[tokio::test]
async fn an_empty_and_a_lagging_store_get_the_same_state() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, empty, lagging] = [0, 1, 2].map(|n: usize| open(dirs[n].path()));
    let batches = batches(1, 400);
    let (_, mut source) = from.shard(SHARD);
    apply_all(&mut source, 1, &batches).await;
    // The lagging store has most of the entries, some of them not written yet.
    let (_, mut behind) = lagging.shard(SHARD);
    apply_all(&mut behind, 1, &batches[..350]).await;
    snapshot(&mut behind).await;
    apply_all(&mut behind, 351, &batches[350..360]).await;

    let mut sizes = Vec::new();
    for (store, dir) in [(empty, &dirs[1]), (lagging, &dirs[2])] {
        let taken = snapshot(&mut source).await;
        let meta = taken.meta.clone();
        let (data, sent) = send(&store, taken).unwrap();
        sizes.push(bytes(&sent));
        let (_, mut machine) = store.shard(SHARD);
        machine.install_snapshot(&meta, data).await.unwrap();
        assert_eq!(machine.applied_state().await.unwrap().0, meta.last_log_id);
        assert_eq!(*store.state(SHARD).applied().borrow(), 400);
        assert_eq!(view_of(snapshot(&mut machine).await), model(&batches));
        let digest = from.state(SHARD).digest();
        assert_eq!((digest.entries, digest.total.since), (401, 0));
        assert_eq!(store.state(SHARD).digest(), digest, "the digest came with the snapshot");
        assert_eq!(store.failed().borrow().clone(), None);
        drop((machine, store));
        // The installed snapshot is on disk.
        let again = open(dir.path());
        let current = again.shard(SHARD).1.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta, meta);
        assert_eq!(view_of(current), model(&batches));
        assert_eq!(again.state(SHARD).digest(), digest);
    }
    assert!(sizes[1] * 3 < sizes[0], "the prefix is not sent again: {sizes:?}");
}

/// What was applied a moment ago may be in memory only.
#[tokio::test]
async fn a_snapshot_without_rooms_that_were_just_applied_is_refused() {
    let batches = batches(7, 50);
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (_, mut machine) = store.shard(SHARD);
        apply_all(&mut machine, 1, &batches).await;
        let meta = SnapshotMeta { last_log_id: Some(log_id_of(2, 1_000)), ..SnapshotMeta::default() };
        let mut receiver = store.receive_snapshot(SHARD, meta, Vec::new(), None).unwrap();
        receiver.chunk(&SnapshotChunk { last: true, ..SnapshotChunk::default() }).unwrap();
        let refused = receiver.finish().map(drop).unwrap_err();
        assert!(refused.to_string().contains("which this node has"), "{refused}");
    }
}

#[tokio::test]
async fn a_damaged_transfer_changes_nothing() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|n: usize| open(dirs[n].path()));
    let batches = batches(3, 4_500);
    let (_, mut source) = from.shard(SHARD);
    apply_all(&mut source, 1, &batches).await;
    let taken = snapshot(&mut source).await;
    let meta = taken.meta.clone();
    let SnapshotData::Local(local) = taken.snapshot else { panic!("a snapshot of this node") };
    let chunks: Vec<_> = local.chunks(Vec::new()).map(Result::unwrap).collect();
    assert!(chunks.len() > 3);

    type Damage = fn(&mut Vec<SnapshotChunk>);
    let damages: [Damage; 6] = [
        |chunks| drop(chunks.pop()),
        |chunks| drop(chunks.remove(1)),
        |chunks| chunks.insert(1, chunks[0].clone()),
        |chunks| {
            let mut rows = chunks[2].rows.to_vec();
            rows[100] ^= 1;
            chunks[2].rows = rows.into();
        },
        |chunks| chunks.last_mut().unwrap().total_rows += 1,
        // Complete and in order, but with a gap in the history.
        |chunks| {
            chunks.remove(2);
            (0..).zip(chunks).for_each(|(number, chunk)| chunk.number = number);
        },
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let mut chunks = chunks.clone();
        damage(&mut chunks);
        let mut receiver = to.receive_snapshot(SHARD, meta.clone(), Vec::new(), None).unwrap();
        let result = chunks.iter().try_for_each(|chunk| receiver.chunk(chunk));
        let result = result.and_then(|()| receiver.finish());
        assert!(matches!(result, Err(StoreError::Snapshot(_))), "damage {n}: {result:?}");
    }
    // The receiver must have the history that is left out.
    let left_out = vec![(RoomId(1), Seq(1))];
    let taken = snapshot(&mut source).await;
    let SnapshotData::Local(local) = taken.snapshot else { panic!("a snapshot of this node") };
    let mut receiver = to.receive_snapshot(SHARD, meta, left_out.clone(), None).unwrap();
    let busy = to.receive_snapshot(SHARD, taken.meta, Vec::new(), None);
    assert!(matches!(busy, Err(StoreError::Snapshot(_))), "one at a time");
    local.chunks(left_out).for_each(|chunk| receiver.chunk(&chunk.unwrap()).unwrap());
    assert!(matches!(receiver.finish(), Err(StoreError::Snapshot(_))));
    assert_eq!(to.shard(SHARD).1.applied_state().await.unwrap().0, None);
    assert_eq!(to.failed().borrow().clone(), None);
}

#[tokio::test]
async fn an_installation_survives_power_failures() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(dir.path());
    let batches = batches(3, 500);
    let (_, mut machine) = source.shard(SHARD);
    apply_all(&mut machine, 1, &batches).await;
    let (old, new) = (model(&batches[..300]), model(&batches));
    let mut outcomes = [0, 0];
    for seed in 0..40_u64 {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::new(seed);
        let options = || Options { disk: Arc::new(disk.clone()), ..Options::default() };
        let store = open_with(dir.path(), options());
        let (_, mut behind) = store.shard(SHARD);
        apply_all(&mut behind, 1, &batches[..300]).await;
        snapshot(&mut behind).await;
        let taken = snapshot(&mut machine).await;
        let meta = taken.meta.clone();
        let (data, _) = send(&store, taken).unwrap();
        disk.fail_after(seed * 2);
        let installed = behind.install_snapshot(&meta, data).await.is_ok();
        disk.crash();
        drop((behind, store));
        // A second power failure during the repair.
        disk.fail_after(seed * 3);
        drop(Store::open(dir.path(), &identity(dir.path()), 2, options(), Arc::new(())));
        disk.crash();
        let found = found(dir.path(), options()).await;
        if found == new {
            outcomes[1] += 1;
        } else {
            assert!(!installed && found == old, "seed {seed}: neither the old state nor the new one");
            outcomes[0] += 1;
        }
    }
    assert!(outcomes.iter().all(|count| *count > 2), "both were seen: {outcomes:?}");
}

async fn found(dir: &Path, options: Options) -> MemView {
    let store = open_with(dir, options);
    let (_, mut machine) = store.shard(SHARD);
    view_of(machine.get_current_snapshot().await.unwrap().unwrap())
}

fn post(request: u64, text: String) -> Encoded {
    command::encode(&Command::Act {
        room: RoomId(1),
        origin: Origin {
            session: SessionId(1),
            author: UserId(1),
            author_name: "ana".into(),
            request: RequestNo(request),
            settled: RequestNo(request - 1),
            powers: Powers::default(),
        },
        action: Action::Post(text),
    })
}

#[tokio::test]
async fn readers_never_see_half_a_snapshot() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|n: usize| open(dirs[n].path()));
    let begin = command::encode(&Command::OpenRoom {
        room: RoomId(1),
        name: "big".into(),
        creator: Person { user: UserId(1), name: "ana".into() },
        founding: None,
    });
    let batch = |first: u64| {
        let posts: Vec<_> =
            (first..first + 100).map(|n| post(n, format!("{n} {}", "x".repeat(900)))).collect();
        command::encode_batch(Stamp::first(1), &posts)
    };
    let mut batches = vec![command::encode_batch(Stamp::first(1), &[begin])];
    batches.extend((0..200).map(|n| batch(1 + n * 100)));
    let (_, mut source) = from.shard(SHARD);
    apply_all(&mut source, 1, &batches).await;
    let (_, mut target) = to.shard(SHARD);
    apply_all(&mut target, 1, &batches[..2]).await;

    let taken = snapshot(&mut source).await;
    let meta = taken.meta.clone();
    let (data, sent) = send(&to, taken).unwrap();
    assert!(sent.iter().all(|chunk| chunk.rows.len() <= 300 * 1024), "chunks are small");
    assert!(bytes(&sent) > 15 * 1024 * 1024);
    let state = to.state(SHARD);
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut refused = 0;
        loop {
            match runtime.block_on(state.read(RoomId(1), Seq(0), 10, 64 * 1024)) {
                Ok(page) if page.head == Seq(20_001) => return refused,
                Ok(page) => assert_eq!((page.head, page.first, page.last), (Seq(101), Seq(1), Seq(10))),
                Err(ReadError::Installing) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    });
    target.install_snapshot(&meta, data).await.unwrap();
    assert!(reader.join().unwrap() > 0, "it was noticed");
    let state = to.state(SHARD);
    let mut after = Seq(0);
    while after < Seq(20_001) {
        let page = state.read(RoomId(1), after, 1_000, 256 * 1024).await.unwrap();
        assert_eq!(page.first, after.next());
        assert!(page.records.len() <= 256 * 1024);
        after = page.last;
    }
}

/// The last seq of each room, as its subscribers were notified.
#[derive(Debug, Default)]
struct Heads(std::sync::Mutex<std::collections::BTreeMap<RoomId, Seq>>);

impl conclave_store::Observer for Heads {
    fn published(&self, _: ShardId, heads: &[(RoomId, Seq)]) {
        self.0.lock().unwrap().extend(heads.iter().copied());
    }
}

#[tokio::test]
async fn subscribers_are_notified_of_events_that_came_with_a_snapshot() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = open(dirs[0].path());
    let heads = Arc::new(Heads::default());
    let identity = identity(dirs[1].path());
    let to = Store::open(dirs[1].path(), &identity, SHARDS, Options::default(), heads.clone()).unwrap();
    let batches = batches(3, 100);
    let (_, mut source) = from.shard(SHARD);
    apply_all(&mut source, 1, &batches).await;
    let taken = snapshot(&mut source).await;
    let meta = taken.meta.clone();
    let (data, _) = send(&to, taken).unwrap();
    to.shard(SHARD).1.install_snapshot(&meta, data).await.unwrap();
    let ends = model(&batches).rooms.into_iter().map(|(room, (head, _))| (room, head.last));
    assert_eq!(*heads.0.lock().unwrap(), ends.collect());
}
