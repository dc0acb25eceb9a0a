//! The async runtime never waits for the disk: elections and heartbeats run on its threads.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use conclave_core::access::Powers;
use conclave_core::record::Person;
use conclave_core::{Action, Command, Origin, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp, UserId};
use conclave_proto::command::{self, Encoded};
use conclave_store::convert::log_id_of;
use conclave_store::{Disk, Entry, Options, Payload, RealDisk, StateMachine, Vote};
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::{EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _};
use redb::StorageBackend;

use crate::support::{open, open_with};

const ROOMS: u64 = 20_000;
const SHARD: ShardId = ShardId(1);

/// The real disk, and the threads that have read from it since the last [`ReadingThreads::take`].
#[derive(Clone, Debug, Default)]
struct ReadingThreads(Arc<Mutex<HashSet<ThreadId>>>);

impl ReadingThreads {
    fn take(&self) -> HashSet<ThreadId> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn StorageBackend>,
    readers: ReadingThreads,
}

impl Disk for ReadingThreads {
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(WatchedFile { file: RealDisk.open(path)?, readers: self.clone() }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealDisk.exists(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.readers.0.lock().unwrap().insert(std::thread::current().id());
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

fn act(room: u64, session: u64, request: u64, action: Action) -> Encoded {
    let origin = Origin {
        session: SessionId(session),
        author: UserId(session),
        author_name: "ana".into(),
        request: RequestNo(request),
        settled: RequestNo(request.saturating_sub(1)),
        powers: Powers::default(),
    };
    command::encode(&Command::Act { room: RoomId(room), origin, action })
}

fn open_room(room: u64) -> Encoded {
    command::encode(&Command::OpenRoom {
        room: RoomId(room),
        name: format!("room{room}"),
        creator: Person { user: UserId(1), name: "ana".into() },
        founding: None,
    })
}

fn create_room(room: u64) -> Encoded {
    command::encode(&Command::CreateRoom { name: format!("room{room}"), creator: UserId(1), kind: None })
}

fn open_session(user: u64) -> Encoded {
    command::encode(&Command::OpenSession {
        user: format!("user{user}"),
        secret_digest: [0; 16],
        client: "test".into(),
    })
}

fn entry(index: u64, commands: &[Encoded]) -> Entry {
    let batch = command::encode_batch(Stamp::first(1), commands);
    Entry { log_id: log_id_of(1, index), payload: EntryPayload::Normal(Payload(batch)) }
}

async fn apply(machine: &mut StateMachine, entry: Entry) {
    machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap();
}

/// Fills shard 1 and the meta shard with more rows and log entries than a store that opens them reads at once.
async fn fill(dir: &Path) -> u64 {
    let store = open(dir);
    let (mut log, mut machine) = store.shard(SHARD);
    let (_, mut meta) = store.shard(ShardId::META);
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    let mut index = 0;
    for first in (1..=ROOMS).step_by(1_000) {
        index += 1;
        let rooms = first..first + 1_000;
        let both = |room| [open_room(room), act(room, 7, 0, Action::Join)];
        let commands: Vec<_> = rooms.clone().flat_map(both).collect();
        let opened = entry(index, &commands);
        log.blocking_append([opened.clone()]).await.unwrap();
        apply(&mut machine, opened).await;
        let listed: Vec<_> = rooms.flat_map(|room| [create_room(room), open_session(room)]).collect();
        apply(&mut meta, entry(index, &listed)).await;
    }
    for request in 1..3_000 {
        index += 1;
        let post = entry(index, &[act(1, 7, request, Action::Post("x".repeat(16_000)))]);
        log.blocking_append([post.clone()]).await.unwrap();
        apply(&mut machine, post).await;
    }
    index
}

#[tokio::test]
async fn no_read_of_a_data_file_runs_on_a_thread_of_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let last = fill(dir.path()).await;
    let disk = ReadingThreads::default();
    let store = open_with(dir.path(), Options { disk: Arc::new(disk.clone()), ..Options::default() });
    let (mut log, mut machine) = store.shard(SHARD);
    let (state, meta) = (store.state(SHARD), store.state(ShardId::META));
    let (_, mut meta_machine) = store.shard(ShardId::META);
    let runtime = std::thread::current().id();
    disk.take();
    let check = |what: &str| {
        let readers = disk.take();
        assert!(!readers.is_empty(), "{what} did not read from the disk, so this case checks nothing");
        assert!(!readers.contains(&runtime), "{what} read from the disk on the runtime's thread");
    };

    let read = log.get_log_reader().await.limited_get_log_entries(1, last + 1).await.unwrap();
    assert!(!read.is_empty());
    check("reading the log");
    apply(&mut machine, entry(last + 1, &[act(17_000, 7, 1, Action::Post("hello".into()))])).await;
    check("a post in a room that is not in memory");
    apply(&mut machine, entry(last + 2, &[act(9_000, 7, 0, Action::Leave)])).await;
    check("leaving a room that is not in memory");
    apply(&mut machine, entry(last + 3, &[act(12_000, 9, 1, Action::Join)])).await;
    check("a first request of a session");
    assert_eq!(state.room(RoomId(14_000)).await.unwrap().unwrap().1.name, "room14000");
    check("a room");
    assert!(state.member(RoomId(4_000), UserId(7)).await.unwrap().is_some());
    check("a member");
    let rooms: Vec<_> = (2_000..2_100).map(RoomId).collect();
    assert!(state.rooms(&rooms, UserId(7)).await.unwrap().iter().all(Option::is_some));
    check("a list of rooms");
    assert_eq!(state.read(RoomId(1), Seq(1), 10, 100_000).await.unwrap().first, Seq(2));
    check("history");
    assert_eq!(meta.session(SessionId(8_000)).await.unwrap().unwrap().user_name, "user8000");
    check("a session");
    assert!(meta.room_named("room15000").await.unwrap().is_some());
    check("a name in the room directory");
    assert!(meta.directory_entry(RoomId(6_000)).await.unwrap().is_some());
    check("an id in the room directory");
    assert_eq!(meta.directory_page("room3", 10).await.unwrap().len(), 10);
    check("a page of the room directory");
    let named =
        command::encode(&Command::CreateRoom { name: "new".into(), creator: UserId(11_000), kind: None });
    apply(&mut meta_machine, entry(last + 1, &[named, open_session(1_500)])).await;
    check("a new room of a user who is not in memory");
    machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    assert!(!disk.take().contains(&runtime), "a snapshot read from the disk on the runtime's thread");
}
