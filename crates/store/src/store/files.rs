//! The files of a data dir, and opening the files that must exist.

use std::path::Path;

use crate::disk::{DataFile, Disk};
use crate::error::OpenError;
use crate::log::Log;
use crate::state::db::{HAS_LOG, StateDb};
use crate::votes::{GroupVotes, VotesFile};

/// Opens the file of the hard state, or creates it if the log still contains the hard state.
pub(super) fn open_votes(
    disk: &dyn Disk,
    dir: &Path,
    log: &Log,
    inside: Option<GroupVotes>,
) -> Result<VotesFile, OpenError> {
    let broken = |error| OpenError::Store { dir: dir.to_owned(), error };
    let terms = log.last_terms();
    let file = match inside {
        Some(votes) => {
            let made = VotesFile::create(disk, dir, votes)?;
            log.votes_moved().map_err(broken)?;
            made
        }
        None => VotesFile::open(disk, dir, terms.len())?,
    };
    file.check(&terms).map_err(broken)?;
    Ok(file)
}

/// Opens the state file. A row in it records whether the log file must exist as well: once both files
/// exist, neither may be missing.
pub(super) fn open_state(disk: &dyn Disk, dir: &Path, shards: u32) -> Result<(StateDb, bool), OpenError> {
    let [log, state] = [dir.join(DataFile::LOG), dir.join(DataFile::STATE)];
    let exists = |path: &Path| disk.exists(path).map_err(|error| OpenError::access(path, error));
    let log_exists = exists(&log)?;
    // The state file is created first.
    if log_exists && !exists(&state)? {
        return Err(OpenError::FileMissing { path: state });
    }
    let db = StateDb::open(disk, dir, shards, !log_exists)?;
    let has_log =
        db.local(HAS_LOG).map_err(|error| OpenError::Store { dir: dir.to_owned(), error })?.is_some();
    if has_log && !log_exists {
        return Err(OpenError::FileMissing { path: log });
    }
    Ok((db, has_log))
}
