//! Data of a newer version: the store stops with an error that asks for an upgrade, and changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use conclave_core::level::FEATURE_LEVEL;
use conclave_core::record::NodeRecord;
use conclave_core::{Command, DataDirId, NodeId, ShardId, Stamp, UserId};
use conclave_proto::command::{encode, encode_batch};
use conclave_store::convert::log_id_of;
use conclave_store::{Entry, OpenError, Options, Payload, SnapshotData, Store, Vote};
use openraft::EntryPayload;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _};

use crate::support::{SHARDS, identity, open, open_with};

/// A batch with one command of a kind that no version has yet.
const UNKNOWN_COMMAND: &[u8] = &[0x12, 0x03, 0xfa, 0x06, 0x00];

fn entry(index: u64, batch: impl Into<Bytes>) -> Entry {
    Entry { log_id: log_id_of(1, index), payload: EntryPayload::Normal(Payload(batch.into())) }
}

fn create_room(name: &str) -> Bytes {
    encode_batch(
        Stamp::first(1),
        &[encode(&Command::CreateRoom { name: name.into(), creator: UserId(1), kind: None })],
    )
}

/// Applies one entry of the meta shard; the error is its text.
async fn apply(store: &Store, entry: Entry) -> Result<(), String> {
    let (_, mut machine) = store.shard(ShardId::META);
    let entries = futures::stream::iter([Ok((entry, None))]);
    machine.apply(entries).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_entry_of_a_newer_version_stops_the_store_and_asks_for_an_upgrade() {
    let raise = encode_batch(Stamp::first(1), &[encode(&Command::SetFeatureLevel(FEATURE_LEVEL + 1))]);
    for unknown in [Bytes::from_static(UNKNOWN_COMMAND), raise] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        apply(&store, entry(1, create_room("before"))).await.unwrap();
        let error = apply(&store, entry(2, unknown)).await.unwrap_err();
        assert!(error.contains("upgrade this node, its data is intact"), "{error}");
        assert!(
            !error.contains("damaged") && !error.contains("delete") && !error.contains("empty"),
            "{error}"
        );
        // Nothing of the entry was applied, and nothing is applied after it.
        assert_eq!(*store.state(ShardId::META).applied().borrow(), 1);
        let error = apply(&store, entry(3, create_room("after"))).await.unwrap_err();
        assert!(error.contains("upgrade this node"), "{error}");
    }
}

#[tokio::test]
async fn garbage_is_damage_and_not_a_newer_version() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = apply(&store, entry(1, Bytes::from_static(&[0x12, 0xff]))).await.unwrap_err();
    assert!(
        error.contains("log.redb is damaged") && error.contains("keep this data dir as it is"),
        "{error}"
    );
}

/// The entries by which a cluster of one node gets this program's feature level.
fn raise_level(directory: DataDirId) -> [Entry; 2] {
    let node = NodeRecord {
        node: NodeId(1),
        name: "node1".into(),
        client_address: "a:1".into(),
        peer_address: "b:2".into(),
        http_address: "c:3".into(),
        web_address: String::new(),
        directory,
        version: "0".into(),
        feature_level: FEATURE_LEVEL,
    };
    let commands = [Command::RegisterNode(node), Command::SetFeatureLevel(FEATURE_LEVEL)];
    let [register, raise] = commands.map(|command| encode_batch(Stamp::first(1), &[encode(&command)]));
    [entry(1, register), entry(2, raise)]
}

#[tokio::test]
async fn a_snapshot_of_a_newer_version_is_refused_and_changes_nothing() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let newer = open(dirs[0].path());
    for entry in raise_level(identity(dirs[0].path()).directory) {
        apply(&newer, entry).await.unwrap();
    }
    let taken = newer.shard(ShardId::META).1.get_current_snapshot().await.unwrap().unwrap();
    let SnapshotData::Local(local) = taken.snapshot else { panic!("a snapshot of this node") };

    let older = open_with(dirs[1].path(), Options { feature_level: FEATURE_LEVEL - 1, ..Options::default() });
    let mut receiver = older.receive_snapshot(ShardId::META, taken.meta, Vec::new(), None).unwrap();
    let refused = local.chunks(Vec::new()).try_for_each(|chunk| receiver.chunk(&chunk?)).unwrap_err();
    assert!(refused.to_string().contains("upgrade the node"), "{refused}");
    assert_eq!(older.shard(ShardId::META).1.applied_state().await.unwrap().0, None);
    assert_eq!(older.failed().borrow().clone(), None);
}

#[tokio::test]
async fn a_data_dir_beyond_the_programs_level_is_not_opened_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let expect = identity(dir.path());
    let store = open(dir.path());
    {
        let (mut log, _) = store.shard(ShardId::META);
        let entries = raise_level(expect.directory);
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        log.blocking_append(entries.clone()).await.unwrap();
        for entry in entries {
            apply(&store, entry).await.unwrap();
        }
        // A snapshot is made of the written and synced state.
        let (_, mut machine) = store.shard(ShardId::META);
        machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(store.state(ShardId::META).meta().feature_level, FEATURE_LEVEL);
    }
    drop(store);
    let older = || {
        let options = Options { feature_level: FEATURE_LEVEL - 1, ..Options::default() };
        Store::open(dir.path(), &expect, SHARDS, options, Arc::new(()))
    };
    for _ in 0..2 {
        let error = match older() {
            Err(error @ OpenError::Store { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(error.contains("upgrade this node, its data is intact"), "{error}");
    }
    let store = open(dir.path());
    assert_eq!(store.state(ShardId::META).meta().feature_level, FEATURE_LEVEL);
}
