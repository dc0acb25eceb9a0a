//! openraft's own tests of a storage.

use conclave_core::ShardId;
use conclave_store::{LogStore, StateMachine, Store, TypeConfig};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::support::open;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (Store, TempDir)> for Builder {
    async fn build(&self) -> Result<((Store, TempDir), LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (log, machine) = store.shard(ShardId(1));
        Ok(((store, dir), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite() {
    Suite::test_all(Builder).await.unwrap();
}
