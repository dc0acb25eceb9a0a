//! Wrong and damaged data dirs, and full disks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::{DataDirId, NodeId, ShardId};
use conclave_store::convert::log_id_of;
use conclave_store::{
    DiskFaults, Entry, FaultyDisk, Identity, OpenError, Options, Payload, Store, TypeConfig, Vote,
};
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};
use openraft::type_config::TypeConfigExt as _;
use openraft::{EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::commands::Commands;
use crate::support::{SHARDS, identity, open, open_with};
use conclave_store::simulated::SimDisk;

fn try_open(dir: &Path, identity: &Identity, shards: u32) -> Result<Store, OpenError> {
    Store::open(dir, identity, shards, Options::default(), Arc::new(()))
}

fn message(result: Result<Store, OpenError>) -> String {
    result.err().unwrap().to_string()
}

fn entries(range: std::ops::Range<u64>, len: usize) -> Vec<Entry> {
    let entry = |index| Entry {
        log_id: log_id_of(1, index),
        payload: EntryPayload::Normal(Payload(vec![7; len].into())),
    };
    range.map(entry).collect()
}

/// Paths that group or others may use.
fn shared(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let all = files.chain([dir.to_owned()]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    all.filter(|path| mode(path) & 0o077 != 0).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_data_dir_is_for_its_owner_only() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("data");
    let me = Identity::create(&path, 7, "test", NodeId(1)).unwrap();
    drop(try_open(&path, &me, SHARDS).unwrap());
    assert_eq!(shared(&path), Vec::<String>::new());

    // As an older version made it.
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for entry in std::fs::read_dir(&path).unwrap() {
        set(&entry.unwrap().path(), 0o644);
    }
    set(&path, 0o755);
    drop(try_open(&path, &me, SHARDS).unwrap());
    assert_eq!(shared(&path), Vec::<String>::new());
}

#[test]
fn a_data_dir_belongs_to_one_node_and_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let me = identity(path);
    assert_eq!(Identity::read(path).unwrap(), Some(me.clone()));
    assert!(matches!(Identity::create(path, 1, "x", NodeId(1)), Err(OpenError::Access { .. })));
    assert!(matches!(try_open(&path.join("nowhere"), &me, SHARDS), Err(OpenError::Empty { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(try_open(empty.path(), &me, SHARDS), Err(OpenError::Empty { .. })));
    drop(try_open(path, &me, SHARDS).unwrap());

    let other = Identity { cluster: 8, plan: 8, cluster_name: "prod".into(), ..me.clone() };
    assert!(message(try_open(path, &other, SHARDS)).contains("belongs to the cluster test"));
    let other = Identity { node: NodeId(2), ..me.clone() };
    assert!(message(try_open(path, &other, SHARDS)).contains("belongs to node 1, not to node 2"));
    let other = Identity { directory: DataDirId(1), ..me.clone() };
    assert!(matches!(try_open(path, &other, SHARDS), Err(OpenError::OtherDirectory { .. })));
    assert!(message(try_open(path, &me, 5)).contains("was made for 2 shards, not for 5"));

    let text = std::fs::read_to_string(path.join("identity")).unwrap();
    for (bad, says) in [
        (text.replace("node 1", "node 2"), "its checksum is wrong"),
        (text[..20].to_owned(), "damaged"),
        ("hello".to_owned(), "does not begin"),
    ] {
        std::fs::write(path.join("identity"), bad).unwrap();
        assert!(Identity::read(path).unwrap_err().to_string().contains(says));
    }
    std::fs::write(path.join("identity"), text.replacen(" 2\n", " 9\n", 1)).unwrap();
    assert!(matches!(Identity::read(path), Err(OpenError::Newer { found: 9, known: 2, .. })));
    std::fs::write(path.join("identity"), [0xff, 0xfe]).unwrap();
    assert!(matches!(Identity::read(path), Err(OpenError::IdentityDamaged { .. })));
    std::fs::remove_file(path.join("identity")).unwrap();
    assert!(matches!(Identity::read(path), Err(OpenError::IdentityMissing { .. })));
    assert!(matches!(Identity::create(path, 1, "x", NodeId(1)), Err(OpenError::IdentityMissing { .. })));

    // Any name survives encoding.
    let dir = tempfile::tempdir().unwrap();
    let odd = Identity::create(dir.path(), u128::MAX, "a \\ \n\"ü\u{7}' b", NodeId(u64::MAX)).unwrap();
    assert_eq!(Identity::read(dir.path()).unwrap(), Some(odd));
}

#[test]
fn a_data_dir_is_used_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let says = message(try_open(dir.path(), &identity_unlocked(dir.path()), SHARDS));
    assert!(says.contains(&format!("in use by process {}", std::process::id())), "{says}");
    drop(store);
    open(dir.path());
}

fn identity_unlocked(dir: &Path) -> Identity {
    Identity::read(dir).unwrap().unwrap()
}

/// No user can write there, not even root.
#[cfg(target_os = "linux")]
#[test]
fn an_error_names_a_data_dir_that_cannot_be_written() {
    let error = Identity::create(Path::new("/proc/conclave"), 1, "x", NodeId(1)).unwrap_err();
    let says = error.to_string();
    assert!(says.contains("/proc/conclave cannot be used") && says.contains("permissions"), "{says}");
}

#[tokio::test]
async fn missing_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let disk = SimDisk::new(0);
    let options = || Options { disk: Arc::new(disk.clone()), ..Options::default() };
    let me = identity(path);
    let try_open = || Store::open(path, &me, SHARDS, options(), Arc::new(()));
    {
        let store = try_open().unwrap();
        let (mut log, mut machine) = store.shard(ShardId(1));
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        log.blocking_append(entries(1..50, 5_000)).await.unwrap();
        let mut random = StdRng::seed_from_u64(1);
        let mut commands = Commands::new(ShardId(1));
        let entry = |index| Entry {
            log_id: log_id_of(1, index),
            payload: EntryPayload::Normal(Payload(commands.batch(&mut random))),
        };
        let applied: Vec<_> = (1..200).map(entry).map(|entry| Ok((entry, None))).collect();
        machine.apply(futures::stream::iter(applied)).await.unwrap();
    }
    let [log, state] = ["log.redb", "state.redb"].map(|file| path.join(file));
    // A byte of an entry's payload, wherever it lies.
    let flip = |bytes: &mut Vec<u8>| {
        let at = bytes.windows(64).position(|window| window.iter().all(|byte| *byte == 7)).unwrap();
        bytes[at] ^= 1;
    };
    disk.change(&log, flip);
    let says = message(try_open());
    assert!(says.contains("log.redb is damaged") && says.contains("keep this data dir as it is"), "{says}");
    disk.change(&log, |bytes| flip_back(bytes));
    drop(try_open().unwrap());

    // The state's rows are not read when the file is opened; the damage is detected when the row is read.
    let at = std::cell::Cell::new(0);
    disk.change(&state, |bytes| {
        at.set(bytes.windows(40).rposition(|window| window.iter().all(|byte| *byte == b'y')).unwrap());
        bytes[at.get()] ^= 1;
    });
    {
        let store = try_open().unwrap();
        let (_, mut machine) = store.shard(ShardId(1));
        let snapshot =
            machine.try_create_snapshot_builder(true).await.unwrap().build_snapshot().await.unwrap();
        let conclave_store::SnapshotData::Local(local) = snapshot.snapshot else { panic!("a local one") };
        let error = local.chunks(Vec::new()).find_map(Result::err).unwrap().to_string();
        assert!(error.contains("state.redb is damaged"), "{error}");
    }
    disk.change(&state, |bytes| bytes[at.get()] ^= 1);

    for (file, other) in [(&log, &state), (&state, &log)] {
        let kept = std::cell::RefCell::new(Vec::new());
        disk.change(file, |bytes| *kept.borrow_mut() = bytes.clone());
        conclave_store::Disk::remove(&disk, file).unwrap();
        let says = message(try_open());
        assert!(says.contains(&format!("{} is missing", file.display())), "{says}");
        assert!(conclave_store::Disk::exists(&disk, other).unwrap());
        drop(conclave_store::Disk::open(&disk, file).unwrap());
        disk.change(file, |bytes| *bytes = kept.take());
        drop(try_open().unwrap());
    }
    disk.change(&log, |bytes| bytes[..16].copy_from_slice(b"something else!!"));
    assert!(message(try_open()).contains("log.redb"));
}

fn flip_back(bytes: &mut [u8]) {
    let at = bytes.windows(64).position(|window| window[0] == 6 && window[1..].iter().all(|byte| *byte == 7));
    bytes[at.unwrap()] ^= 1;
}

#[tokio::test]
async fn a_full_disk_stops_the_store_and_loses_nothing_acknowledged() {
    for (seed, whose) in [(1, "log.redb"), (2, "state.redb")] {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::new(seed);
        let options = || Options { disk: Arc::new(disk.clone()), ..Options::default() };
        let store = open_with(dir.path(), options());
        let (mut log, mut machine) = store.shard(ShardId(1));
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        let mut acked = 0;
        disk.set_capacity(disk.used() + 2 * 1024 * 1024);
        let mut random = StdRng::seed_from_u64(1);
        let mut commands = Commands::new(ShardId(1));
        let error = loop {
            if whose == "log.redb" {
                let (done, flushed) = TypeConfig::oneshot();
                let appended =
                    log.append(entries(acked + 1..acked + 9, 16_000), IOFlushed::signal(done)).await;
                match (appended, flushed.await) {
                    (Ok(()), Ok(Ok(()))) => acked += 8,
                    (Err(error), _) | (_, Ok(Err(error))) => break error,
                    (_, Err(_)) => panic!("every append is answered"),
                }
            } else {
                let payload = EntryPayload::Normal(Payload(commands.batch(&mut random)));
                let entry = Entry { log_id: log_id_of(1, acked + 1), payload };
                let applied = machine.apply(futures::stream::iter([Ok((entry, None))])).await;
                let built = match applied {
                    Ok(()) => machine
                        .try_create_snapshot_builder(true)
                        .await
                        .unwrap()
                        .build_snapshot()
                        .await
                        .map(drop),
                    Err(error) => Err(error),
                };
                match built {
                    Ok(()) => acked += 1,
                    Err(error) => break error,
                }
            }
        };
        let says = error.to_string();
        assert!(
            says.contains(whose) && says.contains("the disk is full; nothing acknowledged is lost"),
            "{says}"
        );
        let mut failed = store.failed();
        let shown = tokio::time::timeout(Duration::from_secs(60), failed.wait_for(Option::is_some));
        assert!(shown.await.unwrap().unwrap().as_ref().unwrap().contains("the disk is full"));
        // From now on everything is refused, at once.
        assert!(log.save_vote(&Vote::new(9, 1)).await.is_err());
        drop((log, machine, store));

        // Space becomes free.
        disk.crash();
        disk.set_capacity(u64::MAX);
        let store = open_with(dir.path(), options());
        let (mut log, mut machine) = store.shard(ShardId(1));
        if whose == "log.redb" {
            assert!(log.get_log_state().await.unwrap().last_log_id.unwrap().index >= acked);
            assert_eq!(
                log.get_log_reader().await.try_get_log_entries(1..acked + 1).await.unwrap(),
                entries(1..acked + 1, 16_000)
            );
        } else {
            assert!(machine.applied_state().await.unwrap().0.unwrap().index >= acked);
        }
    }
}

#[tokio::test]
async fn a_peers_first_seen_data_dir_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = [DataDirId(11), DataDirId(22)];
    {
        let store = open(dir.path());
        assert_eq!(store.peer_directory(NodeId(2)), None);
        assert_eq!(store.remember_peer(NodeId(2), first).await.unwrap(), Ok(()));
        assert_eq!(store.remember_peer(NodeId(2), first).await.unwrap(), Ok(()));
        assert_eq!(store.remember_peer(NodeId(2), second).await.unwrap(), Err(first));
    }
    let store = open(dir.path());
    assert_eq!(store.peer_directory(NodeId(2)), Some(first));
    store.close();
    assert!(store.remember_peer(NodeId(3), first).await.is_err());
    let (mut log, mut machine) = store.shard(ShardId(1));
    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    assert!(log.blocking_append(entries(1..2, 1)).await.is_err());
    assert!(machine.get_current_snapshot().await.is_err());
}

#[test]
fn the_ballast_is_dropped_where_the_disk_is_full_and_made_again_where_it_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let me = identity(dir.path());
    let faults = Arc::new(DiskFaults::default());
    let options = || Options { disk: Arc::new(FaultyDisk::new(Arc::clone(&faults))), ..Options::default() };
    let open = || Store::open(dir.path(), &me, SHARDS, options(), Arc::new(())).unwrap();
    let ballast = dir.path().join("ballast");
    let store = open();
    store.keep_ballast().unwrap();
    store.keep_ballast().unwrap();
    assert_eq!(ballast.metadata().unwrap().len(), 16 << 20);
    drop(store);
    drop(open());
    assert!(ballast.exists(), "the disk has room");

    faults.set_free_bytes(Some(0));
    let store = open();
    assert!(!ballast.exists(), "the disk is full");
    store.keep_ballast().unwrap();
    assert!(!ballast.exists(), "the disk is still full");
    faults.set_free_bytes(None);
    store.keep_ballast().unwrap();
    assert!(ballast.exists());
}
