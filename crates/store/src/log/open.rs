//! Opening the log: the groups' memory is rebuilt from the file.
//!
//! The rows are read once, in the order in which they were written. A later entry replaces an earlier
//! one at the same index, and a truncation removes entries, exactly as when they were written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::BytesMut;
use conclave_core::limits::{LOG_CACHE_BYTES_MAX, LOG_FILE_CACHE_BYTES};
use conclave_proto::log;
use prost::Message as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableError};
use tokio::sync::Notify;

use super::frame::{self, Frame};
use super::{
    Cell, Durable, EntryLocation, FILE_ITSELF, FORMAT, HARD, Log, PURGED, ROWS, Rows, VOTE, VOTES_INSIDE,
    hard_key,
};
use crate::convert::{log_id_from_proto, vote_from_proto};
use crate::disk::{Backend, DataFile, Disk, begin_again};
use crate::error::{OpenError, StoreError};
use crate::failure::Failure;
use crate::identity;
use crate::votes::GroupVotes;
use crate::{checksum, lock};

const FILE: &str = DataFile::LOG;

impl Log {
    /// Opens the file. `fresh`: a crash may have interrupted its creation. Returns the hard state if it is in this
    /// file: then the caller must move it to its own file, and call [`Log::votes_moved`].
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        durable: Arc<Durable>,
        failure: Arc<Failure>,
        fresh: bool,
    ) -> Result<(Self, Option<GroupVotes>), OpenError> {
        let path = dir.join(FILE);
        let backend = disk
            .open(&path)
            .and_then(|file| if fresh { begin_again(file.as_ref()).map(|()| file) } else { Ok(file) });
        let backend = backend.map_err(|error| OpenError::access(&path, error))?;
        let broken = |error| OpenError::Store { dir: dir.to_owned(), error };
        let db = Database::builder()
            .set_cache_size(LOG_FILE_CACHE_BYTES)
            // A full check is cheap because the file is small, and all other recovery relies on it.
            .set_check_integrity_on_open(true)
            .create_with_backend(Backend(backend))
            .map_err(|error| broken(StoreError::redb(FILE, error)))?;
        let format = check_format(&db).map_err(broken)?;
        if format > identity::FORMAT {
            return Err(OpenError::Newer { path, found: format, known: identity::FORMAT });
        }
        let log = Self {
            db,
            cells: (0..durable.0.len()).map(|_| Cell::default()).collect(),
            rows: std::sync::Mutex::new(Rows::default()),
            durable,
            failure,
            queued_bytes: AtomicUsize::new(0),
            taken: Notify::new(),
            stop: std::sync::atomic::AtomicBool::new(false),
        };
        let votes = log.recover().map_err(broken)?;
        Ok((log, (format == VOTES_INSIDE).then_some(votes)))
    }

    /// Records that the hard state is in its own file, which must exist from now on.
    pub(crate) fn votes_moved(&self) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let write = self.db.begin_write()?;
            {
                let mut table = write.open_table(HARD)?;
                table.retain(|(_, what), _| what != VOTE)?;
                table.insert((FILE_ITSELF, FORMAT), format_row(identity::FORMAT).as_slice())?;
            }
            Ok(write.commit()?)
        };
        write().map_err(|error| StoreError::redb(FILE, error))
    }

    /// Fills the groups' memory, and returns the hard state that is in the file.
    fn recover(&self) -> Result<GroupVotes, StoreError> {
        let read = self.db.begin_read().map_err(|error| StoreError::redb(FILE, error))?;
        let votes = match read.open_table(HARD) {
            Ok(table) => self.recover_hard(&table)?,
            Err(error) => return Err(StoreError::redb(FILE, error)),
        };
        let rows = match read.open_table(ROWS) {
            Ok(rows) => rows,
            Err(TableError::TableDoesNotExist(_)) => return Ok(votes),
            Err(error) => return Err(StoreError::redb(FILE, error)),
        };
        let mut first = 0;
        let mut next = None;
        let mut stream = BytesMut::new();
        for row in rows.iter().map_err(|error| StoreError::redb(FILE, error))? {
            let (number, row) = row.map_err(|error| StoreError::redb(FILE, error))?;
            let number = number.value();
            let (begins, part) = frame::open_row(number, row.value())?;
            if next.map_or(!begins, |next| next != number) {
                return Err(StoreError::damaged(
                    FILE,
                    format!("the rows before log row {number} are missing"),
                ));
            }
            if begins {
                self.recover_commit(first, &mut stream)?;
                first = number;
            }
            stream.extend_from_slice(part);
            next = Some(number + 1);
        }
        self.recover_commit(first, &mut stream)?;
        lock(&self.rows).next = next.unwrap_or(0);
        self.check_committed();
        Ok(votes)
    }

    fn recover_hard(&self, table: &redb::ReadOnlyTable<(u32, u8), &[u8]>) -> Result<GroupVotes, StoreError> {
        let mut votes = vec![None; self.cells.len()];
        for row in table.iter().map_err(|error| StoreError::redb(FILE, error))? {
            let (key, row) = row.map_err(|error| StoreError::redb(FILE, error))?;
            let (n, what) = key.value();
            if n == FILE_ITSELF {
                continue;
            }
            let value = checksum::verify(FILE, &hard_key(n, what), row.value())?;
            let broken = |error: prost::DecodeError| StoreError::format(FILE, "a vote", &error.into());
            let mut group = lock(&self.cell(n)?.group);
            match what {
                VOTE => votes[n as usize] = Some(vote_from_proto(log::Vote::decode(value).map_err(broken)?)),
                PURGED => group.purged = Some(log_id_from_proto(log::LogId::decode(value).map_err(broken)?)),
                _ => {}
            }
        }
        Ok(votes)
    }

    fn cell(&self, group: u32) -> Result<&Cell, StoreError> {
        self.cells.get(group as usize).ok_or_else(|| {
            StoreError::damaged(FILE, format!("it contains a log of shard {group}, which does not exist"))
        })
    }

    fn recover_commit(&self, first: u64, stream: &mut BytesMut) -> Result<(), StoreError> {
        if stream.is_empty() {
            return Ok(());
        }
        let stream = stream.split().freeze();
        {
            let mut rows = lock(&self.rows);
            rows.commits.push_back((first, stream.len() as u64));
            rows.bytes += stream.len() as u64;
        }
        frame::parse(&stream, |frame| match frame {
            Frame::Append { group: n, entries } => {
                let mut group = lock(&self.cell(n)?.group);
                for (entry, offset, len) in entries {
                    let index = entry.log_id.index;
                    if group.purged.is_some_and(|purged| purged.index >= index) {
                        continue;
                    }
                    group.truncate(index);
                    if group.last_log_id().is_some_and(|last| last.index + 1 != index) {
                        let what = format!("entries of shard {n} before {index} are missing");
                        return Err(StoreError::damaged(FILE, what));
                    }
                    // A copy of its own: a slice would keep the whole commit in memory.
                    let entry = crate::convert::detached(entry);
                    group.recovered(entry, EntryLocation { row: first, offset, len }, LOG_CACHE_BYTES_MAX);
                }
                Ok(())
            }
            Frame::Truncate { group, from } => {
                let mut group = lock(&self.cell(group)?.group);
                group.truncate(from);
                group.truncated = Some(first);
                Ok(())
            }
            Frame::Committed { group, log_id } => {
                lock(&self.cell(group)?.group).committed = Some(log_id);
                Ok(())
            }
        })
    }

    /// Drops a recorded committed position that is not in the log, since its entry could not be applied again.
    fn check_committed(&self) {
        for cell in &self.cells {
            let mut group = lock(&cell.group);
            group.committed = group.committed.filter(|committed| group.holds(committed));
        }
    }
}

fn format_row(format: u32) -> Vec<u8> {
    checksum::add(&hard_key(FILE_ITSELF, FORMAT), &format.to_le_bytes())
}

/// The file's format. In a new file it is the one with the hard state inside, which is empty.
fn check_format(db: &Database) -> Result<u32, StoreError> {
    let broken = |error: redb::Error| StoreError::redb(FILE, error);
    let key = hard_key(FILE_ITSELF, FORMAT);
    let read = db.begin_read().map_err(|error| broken(error.into()))?;
    match read.open_table(HARD) {
        Ok(table) => {
            let row = table.get((FILE_ITSELF, FORMAT)).map_err(|error| broken(error.into()))?;
            let row = row.ok_or_else(|| StoreError::damaged(FILE, "its format is missing"))?;
            let value = checksum::verify(FILE, &key, row.value())?;
            let format =
                value.try_into().map_err(|_| StoreError::damaged(FILE, "its format is no number"))?;
            Ok(u32::from_le_bytes(format))
        }
        Err(TableError::TableDoesNotExist(_)) => {
            let write = || -> Result<(), redb::Error> {
                let write = db.begin_write()?;
                {
                    let mut table = write.open_table(HARD)?;
                    table.insert((FILE_ITSELF, FORMAT), format_row(VOTES_INSIDE).as_slice())?;
                    write.open_table(ROWS)?;
                }
                Ok(write.commit()?)
            };
            write().map_err(broken)?;
            Ok(VOTES_INSIDE)
        }
        Err(error) => Err(broken(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use conclave_core::{NodeId, ShardId};
    use openraft::RaftLogReader as _;
    use openraft::storage::RaftLogStorage as _;

    use super::*;
    use crate::convert::vote_to_proto;
    use crate::types::Vote;
    use crate::{Identity, Options, RealDisk, Store};

    #[tokio::test]
    async fn the_hard_state_of_an_old_log_file_moves_to_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let me = Identity::create(path, 7, "test", NodeId(1)).unwrap();
        let open = || Store::open(path, &me, 2, Options::default(), Arc::new(())).unwrap();
        drop(open());
        let old = [(1, Vote::new_committed(9, 3)), (2, Vote::new(4, 2))];
        {
            // The log file as an older version wrote it: with the hard state inside.
            std::fs::remove_file(path.join(DataFile::VOTES)).unwrap();
            let file = RealDisk.open(&path.join(FILE)).unwrap();
            let db = Database::builder().create_with_backend(Backend(file)).unwrap();
            let write = db.begin_write().unwrap();
            {
                let mut table = write.open_table(HARD).unwrap();
                table.insert((FILE_ITSELF, FORMAT), format_row(VOTES_INSIDE).as_slice()).unwrap();
                for (group, vote) in old {
                    let row = checksum::add(&hard_key(group, VOTE), &vote_to_proto(&vote).encode_to_vec());
                    table.insert((group, VOTE), row.as_slice()).unwrap();
                }
            }
            write.commit().unwrap();
        }
        // The first time from the log, then from the new file, which is authoritative from then on.
        for _ in 0..2 {
            let store = open();
            for (group, vote) in old {
                let (mut log, _) = store.shard(ShardId(group));
                assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote));
            }
            assert_eq!(store.shard(ShardId(0)).0.get_log_reader().await.read_vote().await.unwrap(), None);
        }
        std::fs::remove_file(path.join(DataFile::VOTES)).unwrap();
        let again = Store::open(path, &me, 2, Options::default(), Arc::new(()));
        assert!(matches!(again, Err(OpenError::FileMissing { .. })), "the log has no votes any more");
    }
}
