//! The votes of all groups, in a small file of their own.
//!
//! A vote decides who may lead, so it must not wait for what other groups write. One thread writes
//! them: it takes whatever all groups have asked for, writes all votes as one table and syncs once;
//! see [`table`] for what a crash or damage can do to it.
//!
//! Only votes are here. What one group does stays in order: [`crate::LogStore`] saves a vote when
//! everything is written that its group has queued for the log.

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
use crate::work::{Shared, Wake};
use table::{COPIES, Found, Layout, Table};

const FILE: &str = DataFile::VOTES;

/// Each group's vote, if it has one.
pub(crate) type GroupVotes = Vec<Option<Vote>>;

/// The votes that are on disk, and those that are to be.
#[derive(Debug)]
pub(crate) struct Votes {
    saved: Mutex<GroupVotes>,
    queue: Mutex<Queue>,
    bell: Wake,
    failure: Arc<Failure>,
}

/// A group saves one vote at a time, so there are no more than groups.
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
                self.bell.ring();
            }
        }
        let closed = |_| self.failure.set(StoreError::Closed("the vote writer has stopped".to_owned()));
        saved.await.map_err(closed)?
    }

    /// Makes the writer end once everything that is queued is written.
    pub(crate) fn stop(&self) {
        lock(&self.queue).closed = true;
        self.bell.ring();
    }

    /// Waits for something to save; nothing at the end.
    fn wait(&self) -> Vec<Save> {
        let mut queue = lock(&self.queue);
        while queue.saves.is_empty() && !queue.closed {
            queue = self.bell.wait(queue);
        }
        std::mem::take(&mut queue.saves)
    }

    /// Like [`Votes::wait`], in a task.
    async fn waited(&self) {
        while {
            let queue = lock(&self.queue);
            queue.saves.is_empty() && !queue.closed
        } {
            self.bell.rung().await;
        }
    }
}

/// The file.
#[derive(Debug)]
pub(crate) struct VotesFile {
    file: Box<dyn StorageBackend>,
    layout: Layout,
    /// What it holds.
    table: Table,
}

impl VotesFile {
    /// Makes the file, whatever there was. When this returns, it is on disk.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, votes: GroupVotes) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let make = || {
            let file = disk.open(&path)?;
            let layout = Layout::new(votes.len());
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

    /// Opens the file, which must be there, and makes good what a crash or damage has left of it.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, groups: usize) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let access = |error| OpenError::access(&path, error);
        if !disk.exists(&path).map_err(access)? {
            return Err(OpenError::FileMissing { path });
        }
        let file = disk.open(&path).map_err(access)?;
        let layout = Layout::new(groups);
        let damaged =
            |what: String| OpenError::Store { dir: dir.to_owned(), error: StoreError::damaged(FILE, what) };
        let len = file.len().map_err(access)?;
        if len != layout.len() {
            return Err(damaged(format!("it has {len} bytes instead of {}", layout.len())));
        }
        let found = read(file.as_ref(), layout, groups).map_err(access)?;
        let table = found.newest().map_err(damaged)?.clone();
        let mut opened = Self { file, layout, table };
        opened.settle(&found).map_err(access)?;
        Ok(opened)
    }

    /// Says no if a group has entries of a later term than it has voted for: it voted first, so these
    /// are not its last votes, and it might vote a second time in a term.
    pub(crate) fn check(&self, terms: &[u64]) -> Result<(), StoreError> {
        for ((shard, wrote), vote) in (0_u32..).zip(terms).zip(&self.table.votes) {
            let voted = vote.map_or(0, |vote| vote.leader_id.term);
            if voted < *wrote {
                let what = format!("shard {shard} has a vote of term {voted} and entries of term {wrote}");
                return Err(StoreError::damaged(FILE, what));
            }
        }
        Ok(())
    }

    /// Makes what was read the disk's, and both slots whole.
    fn settle(&mut self, found: &Found) -> std::io::Result<()> {
        // It may be in the operating system's cache only: of a process that was killed before its sync,
        // or whose sync failed. One copy after the other, so that one is always good.
        for copy in 0..COPIES {
            self.write(&[copy])?;
            self.file.sync_data()?;
        }
        if !found.other_is_whole(&self.table) {
            self.save(&[])?;
        }
        Ok(())
    }

    /// Saves votes.
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

fn read(file: &dyn StorageBackend, layout: Layout, groups: usize) -> std::io::Result<Found> {
    let mut found = Found([[None, None], [None, None]]);
    let mut bytes = vec![0; layout.copy];
    for (slot, copies) in found.0.iter_mut().enumerate() {
        for (copy, table) in copies.iter_mut().enumerate() {
            file.read(layout.offset(slot, copy), &mut bytes)?;
            *table = Table::decode(&bytes, groups);
        }
    }
    Ok(found)
}

/// Writes votes.
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
            bell: Wake::default(),
            failure,
        });
        (Self { votes: votes.clone(), file, observer }, votes)
    }

    /// Works until it is told to stop. Everything queued is answered.
    pub(crate) fn run(mut self) {
        loop {
            let saves = self.votes.wait();
            if saves.is_empty() {
                return;
            }
            self.process(saves);
        }
    }

    /// Works as a task, until it is told to stop.
    pub(crate) async fn run_as_task(writer: Shared<Self>, disk: Arc<dyn Disk>) {
        let votes = lock(&writer).votes.clone();
        while {
            votes.waited().await;
            tokio::time::sleep(disk.sync_takes()).await;
            lock(&writer).process_queued()
        } {}
    }

    /// Does at once what is queued, and says whether there will be more.
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
            // Whoever asked may be gone.
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
