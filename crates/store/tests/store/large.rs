//! Tests that are too slow for every run: a gibibyte of history, and the latency of votes beside a busy log.
//!
//! `cargo test --release -p conclave-store --test store -- --ignored --nocapture large`
//!
//! Peak memory is measured for the whole process, so run the tests one at a time (`--test-threads 1`).
#![expect(clippy::print_stdout, reason = "they are measurements")]

use std::time::{Duration, Instant};

use conclave_core::access::Powers;
use conclave_core::limits::STATE_CACHE_BYTES;
use conclave_core::record::Person;
use conclave_core::{Action, Command, Origin, RequestNo, RoomId, Seq, SessionId, ShardId, Stamp, UserId};
use conclave_proto::command::{self, Encoded};
use conclave_store::convert::log_id_of;
use conclave_store::{Entry, Payload, SnapshotData, StateMachine, Store, Vote};
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::{EntryPayload, RaftSnapshotBuilder as _};

use crate::support::open;

const SHARD: ShardId = ShardId(1);
const ROOMS: u64 = 8;
const GIB: usize = 1024 * 1024 * 1024;

/// Bytes of text in each message, and messages in each entry.
const TEXT: usize = 1_000;
const BATCH: u64 = 200;

fn entry(index: u64, commands: &[Encoded]) -> Entry {
    let batch = command::encode_batch(Stamp::first(1), commands);
    Entry { log_id: log_id_of(1, index), payload: EntryPayload::Normal(Payload(batch)) }
}

fn post(room: u64, request: u64) -> Encoded {
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
        action: Action::Post(format!("{request:0TEXT$}")),
    })
}

/// Applies `bytes` of messages after an index, spread evenly over all rooms; returns the last index.
async fn fill(machine: &mut StateMachine, after: u64, requests: &mut u64, bytes: usize) -> u64 {
    let entries = (bytes / TEXT) as u64 / (BATCH * ROOMS) * ROOMS;
    let mut index = after;
    for n in 0..entries {
        index += 1;
        let (room, first) = (n % ROOMS + 1, *requests + n / ROOMS * BATCH + 1);
        let commands: Vec<_> = (first..first + BATCH).map(|request| post(room, request)).collect();
        let applied = [Ok((entry(index, &commands), None))];
        machine.apply(futures::stream::iter(applied)).await.unwrap();
    }
    *requests += entries / ROOMS * BATCH;
    index
}

/// The process's memory in bytes: now, and the peak since [`begin_peak`].
fn memory() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn begin_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn mib(bytes: usize) -> usize {
    bytes / 1024 / 1024
}

/// Sends and installs a snapshot as two servers would; returns the bytes that were sent.
async fn send(from: &mut StateMachine, to: &Store) -> usize {
    let built = Instant::now();
    let snapshot = from.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
    let meta = snapshot.meta.clone();
    println!("  built in {:?}", built.elapsed());
    let SnapshotData::Local(local) = snapshot.snapshot else { panic!("a snapshot of this node") };
    let receiving = to.clone();
    let for_receiver = meta.clone();
    let sent = Instant::now();
    let transfer = tokio::task::spawn_blocking(move || {
        let left_out = receiving.prefixes(SHARD).unwrap();
        let mut receiver = receiving.receive_snapshot(SHARD, for_receiver, left_out.clone(), None).unwrap();
        let mut bytes = 0;
        for chunk in local.chunks(left_out) {
            let chunk = chunk.unwrap();
            bytes += chunk.rows.len();
            receiver.chunk(&chunk).unwrap();
        }
        (receiver.finish().unwrap(), bytes)
    });
    let (received, bytes) = transfer.await.unwrap();
    println!("  {} MiB sent and checked in {:?}, memory {}", mib(bytes), sent.elapsed(), shown());
    let installed = Instant::now();
    to.shard(SHARD).1.install_snapshot(&meta, received).await.unwrap();
    println!("  installed in {:?}, memory {}", installed.elapsed(), shown());
    bytes
}

fn shown() -> String {
    let (now, peak) = memory();
    format!("{} MiB, at its peak {} MiB", mib(now), mib(peak))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes several GiB and takes minutes"]
async fn a_gibibyte_is_sent_with_bounded_memory() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|n: usize| open(dirs[n].path()));
    let (_, mut source) = from.shard(SHARD);
    let rooms: Vec<_> = (1..=ROOMS)
        .map(|room| {
            command::encode(&Command::OpenRoom {
                room: RoomId(room),
                name: format!("room{room}"),
                creator: Person { user: UserId(1), name: "ana".into() },
                founding: None,
            })
        })
        .collect();
    source.apply(futures::stream::iter([Ok((entry(1, &rooms), None))])).await.unwrap();
    let begun = Instant::now();
    let mut requests = 0;
    let last = fill(&mut source, 1, &mut requests, GIB).await;
    println!("filled with {} MiB in {:?}, memory {}", mib(GIB), begun.elapsed(), shown());
    begin_peak();
    let (before, _) = memory();

    println!("into an empty store:");
    let whole = send(&mut source, &to).await;
    assert!(whole > GIB * 9 / 10, "{whole} bytes");
    let grown = memory().1 - before;
    compare(&from, &to, requests).await;

    println!("into one that lacks the last part:");
    let last = fill(&mut source, last, &mut requests, GIB / 64).await;
    let part = send(&mut source, &to).await;
    assert!(part < whole / 20, "the prefix is not sent again: {part} bytes");
    assert_eq!(*to.state(SHARD).applied().borrow(), last);
    compare(&from, &to, requests).await;
    println!("grown by {} MiB while the whole was sent and installed", mib(grown));
    // Sender and receiver are in this process, and each of them may fill its page cache.
    assert!(grown < 2 * STATE_CACHE_BYTES + 32 * 1024 * 1024, "{} MiB", mib(grown));
}

/// Checks that every room ends at the same seq, and that its last events can be read.
async fn compare(from: &Store, to: &Store, requests: u64) {
    for room in (1..=ROOMS).map(RoomId) {
        let read = async |store: &Store| {
            store.state(SHARD).read(room, Seq(requests - 10), 100, 64 * 1024).await.unwrap()
        };
        let (one, two) = (read(from).await, read(to).await);
        assert_eq!((one.head, one.last, &one.records), (two.head, two.last, &two.records));
        assert_eq!(one.head, Seq(requests + 1));
    }
}

/// Before the hard state had its own file, a vote was as slow as an append of another group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn votes_beside_a_busy_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [(mut busy, _), (mut idle, _)] = [1, 2].map(|n| store.shard(ShardId(n)));
    for log in [&mut busy, &mut idle] {
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
    }
    let load = tokio::spawn(async move {
        let payload = Payload(vec![7; 200_000].into());
        for index in 1_u64.. {
            let log_id = log_id_of(1, index);
            let entry = Entry { log_id, payload: EntryPayload::Normal(payload.clone()) };
            if busy.blocking_append([entry]).await.is_err() {
                return;
            }
            if index % 64 == 0 {
                busy.purge(log_id).await.unwrap();
            }
        }
    });
    let (mut votes, mut appends) = (Vec::new(), Vec::new());
    for n in 1..=1_000 {
        let begun = Instant::now();
        idle.save_vote(&Vote::new(n, 1)).await.unwrap();
        votes.push(begun.elapsed());
        let begun = Instant::now();
        let log_id = log_id_of(1, n);
        idle.blocking_append([Entry { log_id, payload: EntryPayload::Blank }]).await.unwrap();
        appends.push(begun.elapsed());
    }
    store.close();
    load.await.unwrap();
    for (what, mut times) in [("vote", votes), ("through the log", appends)] {
        times.sort_unstable();
        let at = |share: usize| -> Duration { times[times.len() * share / 1_000] };
        println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}", at(500), at(900), at(990), at(999));
    }
}
