//! The state file: opening it, and reading single rows of it.

use std::ops::Range;
use std::path::Path;

use conclave_core::limits::STATE_CACHE_BYTES;
use conclave_core::message::MessageState;
use conclave_core::{DataDirId, NodeId, RoomId, Seq, ShardId};
use conclave_proto::log;
use prost::Message as _;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, TableDefinition, TableError,
    WriteTransaction,
};

use super::block::{self, Block};
use super::digest::AppliedDigest;
use super::key::{self, Key};
use super::row::{self, Row};
use crate::boots::BootId;
use crate::convert::{
    log_id_from_proto, log_id_to_proto, stored_membership_from_proto, stored_membership_to_proto,
};
use crate::disk::{Backend, DataFile, Disk, begin_again};
use crate::error::{OpenError, StoreError};
use crate::types::{LogId, StoredMembership};
use crate::{checksum, identity};

/// The state of all shards; see [`key`].
pub(crate) const STATE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("state");
/// Rows that belong to this node alone and not to a shard, by name.
pub(crate) const LOCAL: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("local");

const FILE: &str = DataFile::STATE;
const FORMAT: &str = "format";
const SHARDS: &str = "shards";
/// Set once the log has been created: from then on the log file must exist.
pub(crate) const HAS_LOG: &str = "has-log";

/// Name of the local row that marks a snapshot's installation as unfinished.
pub(crate) fn installing(shard: ShardId) -> String {
    format!("installing/{shard}")
}

/// Name of the local row with the identity of a peer's data dir.
pub(crate) fn peer(node: NodeId) -> String {
    format!("peer/{node}")
}

/// Name of the local row with the last boot of a peer.
pub(crate) fn peer_boot(node: NodeId) -> String {
    format!("peer-boot/{node}")
}

/// A redb error of this file.
pub(crate) fn broken(error: impl Into<redb::Error>) -> StoreError {
    StoreError::redb(FILE, error)
}

/// The state file.
#[derive(Debug)]
pub(crate) struct StateDb {
    pub(crate) db: Database,
}

impl StateDb {
    /// Opens the file. `fresh`: a crash may have interrupted its creation.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, shards: u32, fresh: bool) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let backend = disk
            .open(&path)
            .and_then(|file| if fresh { begin_again(file.as_ref()).map(|()| file) } else { Ok(file) });
        let backend = backend.map_err(|error| OpenError::access(&path, error))?;
        let store = |error| OpenError::Store { dir: dir.to_owned(), error };
        let db = Database::builder()
            .set_cache_size(STATE_CACHE_BYTES)
            .create_with_backend(Backend(backend))
            .map_err(|error| store(broken(error)))?;
        let state = Self { db };
        state.make(shards).map_err(store)?;
        let number = |name| -> Result<u32, StoreError> {
            let value = state.local(name)?;
            let value = value.and_then(|value| value.try_into().ok());
            value
                .map(u32::from_le_bytes)
                .ok_or_else(|| StoreError::damaged(FILE, format!("the row {name} is missing")))
        };
        let found = number(FORMAT).map_err(store)?;
        if found > identity::FORMAT {
            return Err(OpenError::Newer { path, found, known: identity::FORMAT });
        }
        let found = number(SHARDS).map_err(store)?;
        if found != shards {
            return Err(OpenError::OtherShards { dir: dir.to_owned(), found, expected: shards });
        }
        Ok(state)
    }

    /// Creates the tables of a new file.
    fn make(&self, shards: u32) -> Result<(), StoreError> {
        let read = self.db.begin_read().map_err(broken)?;
        match read.open_table(LOCAL) {
            Ok(_) => return Ok(()),
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(broken(error)),
        }
        drop(read);
        let write = begin(&self.db, true).map_err(broken)?;
        write.open_table(STATE).map_err(broken)?;
        put_local(&write, FORMAT, Some(&identity::FORMAT.to_le_bytes()))?;
        put_local(&write, SHARDS, Some(&shards.to_le_bytes()))?;
        write.commit().map_err(broken)
    }

    pub(crate) fn read(&self) -> Result<ReadView, StoreError> {
        ReadView::new(&self.db.begin_read().map_err(broken)?)
    }

    /// A local row's value.
    pub(crate) fn local(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.db.begin_read().map_err(broken)?;
        let table = read.open_table(LOCAL).map_err(broken)?;
        let row = table.get(name).map_err(broken)?;
        row.map(|row| checksum::verify(FILE, name.as_bytes(), row.value()).map(<[u8]>::to_vec)).transpose()
    }

    /// The known identities of the peers' data dirs.
    pub(crate) fn peers(&self) -> Result<Vec<(NodeId, DataDirId)>, StoreError> {
        let directory = |value: &[u8]| value.try_into().ok().map(u128::from_be_bytes).map(DataDirId);
        self.by_node("peer/".."peer0", directory)
    }

    /// The last boots of the peers.
    pub(crate) fn peer_boots(&self) -> Result<Vec<(NodeId, BootId)>, StoreError> {
        let boot = |value: &[u8]| value.try_into().ok().map(u64::from_be_bytes).map(BootId);
        self.by_node("peer-boot/".."peer-boot0", boot)
    }

    /// Local rows whose names end with a node id.
    fn by_node<T>(
        &self,
        names: Range<&str>,
        read_value: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<(NodeId, T)>, StoreError> {
        let read = self.db.begin_read().map_err(broken)?;
        let table = read.open_table(LOCAL).map_err(broken)?;
        let mut rows = Vec::new();
        for row in table.range(names.clone()).map_err(broken)? {
            let (name, row) = row.map_err(broken)?;
            let value = checksum::verify(FILE, name.value().as_bytes(), row.value())?;
            let node = name.value().strip_prefix(names.start).and_then(|node| node.parse().ok());
            let (Some(node), Some(value)) = (node, read_value(value)) else {
                return Err(StoreError::damaged(FILE, format!("the row {}", name.value())));
            };
            rows.push((NodeId(node), value));
        }
        Ok(rows)
    }

    /// These rows of the newest written state, each as it is at the same moment; `None` for a row that does not exist.
    pub(crate) fn rows(
        &self,
        shard: ShardId,
        keys: impl IntoIterator<Item = Key>,
    ) -> Result<Vec<(Key, Option<Row>)>, StoreError> {
        let read = self.read()?;
        let row = |key: Key| Ok((key.clone(), read.row(shard, &key)?));
        keys.into_iter().map(row).collect()
    }

    /// A row of the newest written state.
    pub(crate) fn row(&self, shard: ShardId, key: &Key) -> Result<Option<Row>, StoreError> {
        self.read()?.row(shard, key)
    }
}

/// Begins a transaction. A checkpoint is committed such that opening the file after a crash is quick,
/// however large the file is. Every synced commit must do this, because each replaces the last one's.
pub(crate) fn begin(db: &Database, checkpoint: bool) -> Result<WriteTransaction, redb::Error> {
    let mut write = db.begin_write()?;
    write.set_durability(if checkpoint { Durability::Immediate } else { Durability::None })?;
    write.set_quick_repair(checkpoint);
    Ok(write)
}

/// Writes or removes a local row.
pub(crate) fn put_local(
    write: &WriteTransaction,
    name: &str,
    value: Option<&[u8]>,
) -> Result<(), StoreError> {
    let mut table = write.open_table(LOCAL).map_err(broken)?;
    match value {
        Some(value) => {
            table.insert(name, checksum::add(name.as_bytes(), value).as_slice()).map_err(broken)?
        }
        None => table.remove(name).map_err(broken)?,
    };
    Ok(())
}

/// Key and value of a row.
pub(crate) type KeyValue = (Vec<u8>, Vec<u8>);

/// A read view of the state file, consistent as of its creation.
#[derive(Debug)]
pub(crate) struct ReadView {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl ReadView {
    pub(crate) fn new(read: &ReadTransaction) -> Result<Self, StoreError> {
        Ok(Self { table: read.open_table(STATE).map_err(broken)? })
    }

    /// Every room of the shard, and the seq of its last event.
    pub(crate) fn heads(&self, shard: ShardId) -> Result<Vec<(RoomId, Seq)>, StoreError> {
        let prefix = key::with_kind(shard, key::kind::ROOM);
        let room = |row: Result<KeyValue, StoreError>| {
            let (key, value) = row?;
            let damaged = || StoreError::damaged(FILE, format!("the row {key:02x?}"));
            let room = key::parse_room(&key[key::SHARD..]).ok_or_else(damaged)?;
            Ok((room, row::room_head(&value).map_err(|_| damaged())?))
        };
        self.range(&prefix..&key::end_of(&prefix))?.map(room).collect()
    }

    /// A row's value.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.table.get(key).map_err(broken)?;
        row.map(|row| checksum::verify(FILE, key, row.value()).map(<[u8]>::to_vec)).transpose()
    }

    /// A row. A message to which nothing refers has none in the file, and is made from its event.
    fn row(&self, shard: ShardId, key: &Key) -> Result<Option<Row>, StoreError> {
        match (self.get(&key.encode(shard))?, key) {
            (Some(value), _) => Row::decode(key, &value),
            (None, Key::Message(room, seq)) => {
                let event = match self.block_with(shard, *room, *seq)? {
                    Some(block) => block.event(*room, *seq)?,
                    None => None,
                };
                Ok(event.as_ref().and_then(MessageState::of).map(Row::Message))
            }
            (None, _) => Ok(None),
        }
    }

    /// The block of a room's history that has the event at `seq`, if there is one: the last block that begins there or before.
    pub(crate) fn block_with(
        &self,
        shard: ShardId,
        room: RoomId,
        seq: Seq,
    ) -> Result<Option<Block>, StoreError> {
        let (start, _) = key::history(shard, room);
        let Some((key, value)) = self.last(&start..&key::end_of(&key::block(shard, room, seq)))? else {
            return Ok(None);
        };
        let (_, first) = key::parse_block(&key[key::SHARD..]).ok_or_else(|| block::damaged(room, Seq(0)))?;
        Block::decode(room, first, value).map(Some)
    }

    /// Keys and values of a range, in order, with checked checksums.
    pub(crate) fn range(
        &self,
        range: Range<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<KeyValue, StoreError>> + use<>, StoreError> {
        let rows = self.table.range(range).map_err(broken)?;
        Ok(rows.map(|row| {
            let (key, row) = row.map_err(broken)?;
            let value = checksum::verify(FILE, key.value(), row.value())?.to_vec();
            Ok((key.value().to_vec(), value))
        }))
    }

    /// The last row of a range.
    pub(crate) fn last(&self, range: Range<&[u8]>) -> Result<Option<KeyValue>, StoreError> {
        let row = self.table.range(range).map_err(broken)?.next_back();
        row.map(|row| {
            let (key, row) = row.map_err(broken)?;
            let value = checksum::verify(FILE, key.value(), row.value())?.to_vec();
            Ok((key.value().to_vec(), value))
        })
        .transpose()
    }

    /// The shard's position in the log.
    pub(crate) fn applied(&self, shard: ShardId) -> Result<Option<AppliedPosition>, StoreError> {
        let Some(value) = self.get(&key::applied(shard))? else { return Ok(None) };
        decode_applied(&value).map(Some)
    }
}

/// A shard's position in the log, the membership at that position, and the digest of what was applied up to it.
pub(crate) type AppliedPosition = (LogId, StoredMembership, AppliedDigest);

/// The value of a shard's position in the log.
pub(crate) fn encode_applied(
    applied: &LogId,
    membership: &StoredMembership,
    digest: &AppliedDigest,
) -> Vec<u8> {
    log::AppliedRow {
        applied: Some(log_id_to_proto(applied)),
        membership: Some(stored_membership_to_proto(membership)),
        digest: Some(digest.to_proto()),
    }
    .encode_to_vec()
}

/// A shard's position in the log from its value.
pub(crate) fn decode_applied(value: &[u8]) -> Result<AppliedPosition, StoreError> {
    let damaged = |what: &str| StoreError::damaged(FILE, format!("a shard's applied row {what}"));
    let row = log::AppliedRow::decode(value).map_err(|error| damaged(&error.to_string()))?;
    let applied = row.applied.ok_or_else(|| damaged("has no position"))?;
    let applied = log_id_from_proto(applied);
    let digest = AppliedDigest::stored(applied.index, row.digest);
    Ok((applied, stored_membership_from_proto(row.membership), digest))
}
