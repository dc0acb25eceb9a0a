//! Helpers of the store's tests.

use std::path::Path;
use std::sync::Arc;

use conclave_core::NodeId;
use conclave_store::{Identity, Options, Store};

/// The number of data shards of the test stores.
pub(crate) const SHARDS: u32 = 2;

/// The identity of the data dir, created if it has none.
pub(crate) fn identity(dir: &Path) -> Identity {
    match Identity::read(dir).unwrap() {
        Some(identity) => identity,
        None => Identity::create(dir, 7, "test", NodeId(1)).unwrap(),
    }
}

/// Opens a store on the real disk.
pub(crate) fn open(dir: &Path) -> Store {
    open_with(dir, Options::default())
}

/// Opens a store.
pub(crate) fn open_with(dir: &Path, options: Options) -> Store {
    Store::open(dir, &identity(dir), SHARDS, options, Arc::new(())).unwrap()
}
