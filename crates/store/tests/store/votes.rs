//! The hard state: a vote never waits for other groups, and neither a crash nor damage restores an older vote.

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use conclave_core::ShardId;
use conclave_store::convert::log_id_of;
use conclave_store::{Disk as _, Entry, LogStore, OpenError, Options, Payload, Store, TypeConfig, Vote};
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::type_config::TypeConfigExt as _;
use openraft::{EntryPayload, RaftLogReader as _};

use crate::support::{SHARDS, identity};
use conclave_store::simulated::SimDisk;

const DEADLINE: Duration = Duration::from_secs(60);
/// Size of one copy of the table in the votes file, bytes; see the store's `votes` module.
const COPY: usize = 4096;

fn entry(index: u64) -> Entry {
    Entry { log_id: log_id_of(1, index), payload: EntryPayload::Normal(Payload(vec![7; 100].into())) }
}

fn open(dir: &Path, disk: &SimDisk) -> Result<Store, OpenError> {
    let options = Options { disk: Arc::new(disk.clone()), ..Options::default() };
    Store::open(dir, &identity(dir), SHARDS, options, Arc::new(()))
}

async fn saved(log: &mut LogStore) -> Option<Vote> {
    log.get_log_reader().await.read_vote().await.unwrap()
}

#[tokio::test]
async fn a_vote_never_waits_for_the_writes_of_other_groups() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(1);
    let store = open(dir.path(), &disk).unwrap();
    let [(mut busy, _), (mut idle, _)] = [1, 2].map(|n| store.shard(ShardId(n)));
    busy.save_vote(&Vote::new(1, 1)).await.unwrap();

    disk.hold(&dir.path().join("log.redb"));
    let (done, mut flushed) = TypeConfig::oneshot();
    busy.append([entry(1)], IOFlushed::signal(done)).await.unwrap();
    assert!(disk.until_held(), "nothing is synced");
    // The log's commit is held in its sync; more entries of the same group wait behind it.
    let (done, second) = TypeConfig::oneshot();
    busy.append([entry(2)], IOFlushed::signal(done)).await.unwrap();
    for term in 1..20 {
        let vote = Vote::new(term, 1);
        tokio::time::timeout(DEADLINE, idle.save_vote(&vote)).await.expect("it waits for nobody").unwrap();
        assert_eq!(saved(&mut idle).await, Some(vote));
    }
    // A group's own entries are written before its vote.
    let vote = Vote::new(2, 1);
    let mut own = Box::pin(busy.save_vote(&vote));
    assert!(matches!(futures::poll!(&mut own), Poll::Pending));
    assert!(matches!(futures::poll!(&mut flushed), Poll::Pending), "nothing has been synced meanwhile");

    disk.release();
    tokio::time::timeout(DEADLINE, own).await.expect("the log goes on").unwrap();
    // The vote is saved, so the group's own entries are on disk, too.
    disk.crash();
    drop((flushed, second, idle, store));
    let store = open(dir.path(), &disk).unwrap();
    let (mut busy, _) = store.shard(ShardId(1));
    assert_eq!(busy.get_log_state().await.unwrap().last_log_id, Some(log_id_of(1, 2)));
    assert_eq!(saved(&mut busy).await, Some(Vote::new(2, 1)));
    assert_eq!(saved(&mut store.shard(ShardId(2)).0).await, Some(Vote::new(19, 1)));
}

#[tokio::test]
async fn a_vote_that_cannot_be_synced_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(2);
    let store = open(dir.path(), &disk).unwrap();
    let [(mut one, _), (mut two, _)] = [1, 2].map(|n| store.shard(ShardId(n)));
    one.save_vote(&Vote::new(1, 1)).await.unwrap();
    two.save_vote(&Vote::new(1, 1)).await.unwrap();
    disk.fail_after(2);
    let error = one.save_vote(&Vote::new(2, 1)).await.unwrap_err().to_string();
    assert!(error.contains("votes: the power is off"), "{error}");
    assert_eq!(saved(&mut one).await, Some(Vote::new(1, 1)), "it was not saved");
    assert!(store.failed().borrow().as_ref().unwrap().contains("votes"));
    assert!(two.blocking_append([entry(1)]).await.is_err(), "nothing is written after it");
    drop((one, two, store));
    disk.crash();
    let store = open(dir.path(), &disk).unwrap();
    // No caller got an answer.
    let found = saved(&mut store.shard(ShardId(1)).0).await.unwrap();
    assert!([Vote::new(1, 1), Vote::new(2, 1)].contains(&found), "{found}");
}

#[tokio::test]
async fn damage_in_one_place_is_repaired_and_more_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(3);
    let path = dir.path().join("votes");
    let newest = Vote::new_committed(7, 2);
    {
        let store = open(dir.path(), &disk).unwrap();
        let (mut log, _) = store.shard(ShardId(1));
        for vote in [Vote::new(6, 1), Vote::new(7, 2), newest] {
            log.save_vote(&vote).await.unwrap();
        }
        log.blocking_append([Entry { log_id: log_id_of(7, 1), payload: EntryPayload::Blank }]).await.unwrap();
    }
    for round in 0..8 {
        // Each time in another place, after the previous damage was repaired.
        disk.change(&path, |bytes| bytes[round % 4 * COPY + 20] ^= 1);
        let store = open(dir.path(), &disk).unwrap();
        assert_eq!(saved(&mut store.shard(ShardId(1)).0).await, Some(newest), "round {round}");
    }
    let good = std::cell::RefCell::new(Vec::new());
    disk.change(&path, |bytes| good.borrow_mut().clone_from(bytes));
    let refused = |says: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        disk.change(&path, |bytes| damage(bytes));
        let error = open(dir.path(), &disk).map(drop).unwrap_err().to_string();
        assert!(error.contains("votes is damaged") && error.contains(says), "{error}");
        assert!(error.contains("keep this data dir as it is"), "{error}");
        disk.change(&path, |bytes| bytes.clone_from(&good.borrow()));
    };
    refused("only 2 of its 4 copies", &|bytes| bytes[..2 * COPY].fill(0));
    refused("only 1 of its 4 copies", &|bytes| bytes[COPY..].fill(0xff));
    refused("only 0 of its 4 copies", &|bytes| bytes.fill(0));
    refused("it has 4096 bytes instead of 16384", &|bytes| bytes.truncate(COPY));
    drop(open(dir.path(), &disk).unwrap());
}

#[tokio::test]
async fn a_stale_votes_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(4);
    let path = dir.path().join("votes");
    let old = std::cell::RefCell::new(Vec::new());
    {
        let store = open(dir.path(), &disk).unwrap();
        disk.change(&path, |bytes| old.borrow_mut().clone_from(bytes));
        let (mut log, _) = store.shard(ShardId(2));
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        log.blocking_append([entry(1)]).await.unwrap();
    }
    disk.change(&path, |bytes| bytes.clone_from(&old.borrow()));
    let error = open(dir.path(), &disk).map(drop).unwrap_err().to_string();
    assert!(error.contains("shard 2 has a vote of term 0, older than its entries of term 1"), "{error}");

    disk.remove(&path).unwrap();
    let error = open(dir.path(), &disk).map(drop).unwrap_err().to_string();
    assert!(error.contains(&format!("{} is missing", path.display())), "{error}");
    assert!(error.contains("put back the data dir") && !disk.exists(&path).unwrap(), "{error}");
}

#[tokio::test]
async fn a_vote_is_synced_again_when_the_store_opens() {
    for seed in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::new(seed);
        let store = open(dir.path(), &disk).unwrap();
        store.shard(ShardId(1)).0.save_vote(&Vote::new(1, 1)).await.unwrap();
        drop(store);
        // The process is killed between writing a vote and syncing it: the operating system keeps it.
        let store = open(dir.path(), &disk).unwrap();
        disk.ignore_syncs();
        store.shard(ShardId(1)).0.save_vote(&Vote::new(2, 1)).await.unwrap();
        drop(store);
        disk.obey_syncs();
        // The next process reports the vote to other nodes, and then the power fails.
        let store = open(dir.path(), &disk).unwrap();
        assert_eq!(saved(&mut store.shard(ShardId(1)).0).await, Some(Vote::new(2, 1)));
        disk.crash();
        drop(store);
        let store = open(dir.path(), &disk).unwrap();
        assert_eq!(saved(&mut store.shard(ShardId(1)).0).await, Some(Vote::new(2, 1)), "seed {seed}");
    }
}
