//! The hard state (term and vote) of all groups, in a small separate file.
//!
//! An election waits for votes to be synced, so a vote must not wait for the writes of other groups. One
//! thread writes the hard state: it takes the queued votes of all groups, writes the votes of all groups
//! as one table and syncs once. [`table`] describes how the file survives crashes and damage.
//!
//! The file holds nothing else. The order within a group is kept: [`crate::LogStore`] saves a vote only
//! after the log has written everything that the group has queued.

mod table;

use std::path::Path;
use std::sync::{Arc, Mutex};

use conclave_core::planted::{Bug, planted};
use redb::StorageBackend;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::disk::{DataFile, Disk};
use crate::error::{OpenError, StoreError};
use crate::failure::Failure;
use crate::lock;
use crate::observer::Observer;
use crate::types::Vote;
use crate::work::{SharedWriter, Wake};
use table::{COPIES, Table, TableCopies, TableLayout};

const FILE: &str = DataFile::VOTES;

/// Each group's vote, if it has one.
pub(crate) type GroupVotes = Vec<Option<Vote>>;

/// The votes on disk, and the queued ones.
#[derive(Debug)]
pub(crate) struct Votes {
    saved: Mutex<GroupVotes>,
    queue: Mutex<Queue>,
    wake: Wake,
    failure: Arc<Failure>,
}

/// The queue. A group saves one vote at a time, so the queue is never longer than the number of groups.
#[derive(Debug, Default)]
struct Queue {
    saves: Vec<Save>,
    closed: bool,
}

#[derive(Debug)]
struct Save {
    group: u32,
    vote: Vote,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Votes {
    /// A group's vote.
    pub(crate) fn get(&self, group: u32) -> Option<Vote> {
        lock(&self.saved)[group as usize]
    }

    /// Saves a group's vote. When this returns, it is on disk.
    pub(crate) async fn save(&self, group: u32, vote: Vote) -> Result<(), StoreError> {
        self.failure.check()?;
        let (done, saved) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if !queue.closed {
                queue.saves.push(Save { group, vote, done });
                self.wake.notify();
            }
        }
        let closed = |_| self.failure.set(StoreError::Closed("the vote writer has stopped".to_owned()));
        saved.await.map_err(closed)?
    }

    /// Makes the writer end after it has written everything in the queue.
    pub(crate) fn stop(&self) {
        lock(&self.queue).closed = true;
        self.wake.notify();
    }

    /// Waits for votes to save; returns none at the end.
    fn wait(&self) -> Vec<Save> {
        let mut queue = lock(&self.queue);
        while queue.saves.is_empty() && !queue.closed {
            queue = self.wake.wait(queue);
        }
        std::mem::take(&mut queue.saves)
    }

    /// Like [`Votes::wait`], in a task.
    async fn waited(&self) {
        while {
            let queue = lock(&self.queue);
            queue.saves.is_empty() && !queue.closed
        } {
            self.wake.notified().await;
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct VotesFile {
    file: Box<dyn StorageBackend>,
    layout: TableLayout,
    /// The table in the file.
    table: Table,
}

impl VotesFile {
    /// Creates the file, or replaces an existing one. When this returns, the file is on disk.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, votes: GroupVotes) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let make = || {
            let file = disk.open(&path)?;
            let layout = TableLayout::new(votes.len());
            file.set_len(layout.len())?;
            let mut made = Self { file, layout, table: Table { number: 0, votes } };
            made.write(&[0, 1])?;
            made.table.number = 1;
            made.write(&[0, 1])?;
            made.file.sync_data()?;
            Ok(made)
        };
        make().map_err(|error| OpenError::access(&path, error))
    }

    /// Opens the file, which must exist, and repairs it after a crash or damage.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, groups: usize) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let access = |error| OpenError::access(&path, error);
        if !disk.exists(&path).map_err(access)? {
            return Err(OpenError::FileMissing { path });
        }
        let file = disk.open(&path).map_err(access)?;
        let layout = TableLayout::new(groups);
        let damaged =
            |what: String| OpenError::Store { dir: dir.to_owned(), error: StoreError::damaged(FILE, what) };
        let len = file.len().map_err(access)?;
        if len != layout.len() {
            return Err(damaged(format!("it has {len} bytes instead of {}", layout.len())));
        }
        let found = read(file.as_ref(), layout, groups).map_err(access)?;
        let table = found.newest().map_err(damaged)?.clone();
        let mut opened = Self { file, layout, table };
        opened.repair(&found).map_err(access)?;
        Ok(opened)
    }

    /// Returns an error if a group has entries of a later term than its vote. A group votes before it
    /// appends, so the file then lacks the latest votes, and the group might vote twice in one term.
    pub(crate) fn check(&self, terms: &[u64]) -> Result<(), StoreError> {
        for ((shard, wrote), vote) in (0_u32..).zip(terms).zip(&self.table.votes) {
            let voted = vote.map_or(0, |vote| vote.leader_id.term);
            if voted < *wrote {
                let what = format!(
                    "shard {shard} has a vote of term {voted}, older than its entries of term {wrote}"
                );
                return Err(StoreError::damaged(FILE, what));
            }
        }
        Ok(())
    }

    /// Syncs the table that was read, and repairs both slots.
    fn repair(&mut self, found: &TableCopies) -> std::io::Result<()> {
        // The table may be only in the operating system's cache, if the last process was killed before its
        // sync, or if its sync failed. One copy is written after the other, so that one is always good.
        for copy in 0..COPIES {
            self.write(&[copy])?;
            self.file.sync_data()?;
        }
        if !found.other_is_whole(&self.table) {
            self.save(&[])?;
        }
        Ok(())
    }

    /// Saves the changed votes.
    fn save(&mut self, changes: &[(u32, Vote)]) -> std::io::Result<()> {
        for (group, vote) in changes {
            self.table.votes[*group as usize] = Some(*vote);
        }
        self.table.number += 1;
        self.write(&[0, 1])?;
        if planted(Bug::UnsyncedVote) { Ok(()) } else { self.file.sync_data() }
    }

    /// Writes copies of the table.
    fn write(&self, copies: &[usize]) -> std::io::Result<()> {
        let bytes = self.table.encode(self.layout);
        let slot = self.table.slot();
        copies.iter().try_for_each(|copy| self.file.write(self.layout.offset(slot, *copy), &bytes))
    }
}

fn read(file: &dyn StorageBackend, layout: TableLayout, groups: usize) -> std::io::Result<TableCopies> {
    let mut found = TableCopies([[None, None], [None, None]]);
    let mut bytes = vec![0; layout.copy];
    for (slot, copies) in found.0.iter_mut().enumerate() {
        for (copy, table) in copies.iter_mut().enumerate() {
            file.read(layout.offset(slot, copy), &mut bytes)?;
            *table = Table::decode(&bytes, groups);
        }
    }
    Ok(found)
}

/// The writer of the hard state.
pub(crate) struct VoteWriter {
    votes: Arc<Votes>,
    file: VotesFile,
    observer: Arc<dyn Observer>,
}

impl VoteWriter {
    pub(crate) fn new(
        file: VotesFile,
        failure: Arc<Failure>,
        observer: Arc<dyn Observer>,
    ) -> (Self, Arc<Votes>) {
        let votes = Arc::new(Votes {
            saved: Mutex::new(file.table.votes.clone()),
            queue: Mutex::default(),
            wake: Wake::default(),
            failure,
        });
        (Self { votes: votes.clone(), file, observer }, votes)
    }

    /// Runs until [`Votes::stop`]. Everything in the queue is answered.
    pub(crate) fn run(mut self) {
        loop {
            let saves = self.votes.wait();
            if saves.is_empty() {
                return;
            }
            self.process(saves);
        }
    }

    /// Runs as a task until [`Votes::stop`].
    pub(crate) async fn run_as_task(writer: SharedWriter<Self>, disk: Arc<dyn Disk>) {
        let votes = lock(&writer).votes.clone();
        while {
            votes.waited().await;
            tokio::time::sleep(disk.sync_takes()).await;
            lock(&writer).process_queued()
        } {}
    }

    /// Processes the queue at once. Returns whether more can be queued.
    pub(crate) fn process_queued(&mut self) -> bool {
        let (saves, closed) = {
            let mut queue = lock(&self.votes.queue);
            (std::mem::take(&mut queue.saves), queue.closed)
        };
        if !saves.is_empty() {
            self.process(saves);
        }
        !closed
    }

    /// Writes these votes with one sync, and answers.
    fn process(&mut self, saves: Vec<Save>) {
        let result = self.votes.failure.check().and_then(|()| self.write(&saves));
        let result = result.map_err(|error| self.votes.failure.set(error));
        for save in saves {
            // The caller may have stopped waiting.
            let _ = save.done.send(result.clone());
        }
    }

    fn write(&mut self, saves: &[Save]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let changes: Vec<_> = saves.iter().map(|save| (save.group, save.vote)).collect();
        self.file.save(&changes).map_err(|error| StoreError::io(FILE, &error))?;
        lock(&self.votes.saved).clone_from(&self.file.table.votes);
        self.observer.votes_synced(begun.elapsed(), saves.len());
        Ok(())
    }
}
