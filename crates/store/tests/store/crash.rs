//! Power failures at any moment.
//!
//! A test drives one store with all its groups like Raft, next to a model of the calls and of the
//! acknowledged entries. The power fails repeatedly, at any operation. Then the store must open and hold
//! everything acknowledged, and its state must be exactly the model's at a position from which its log
//! can continue.

use std::path::Path;
use std::sync::Arc;

use conclave_core::ShardId;
use conclave_core::mem::MemView;
use conclave_store::convert::log_id_of;
use conclave_store::{Entry, LogStore, OpenError, Options, Payload, StateMachine, Store, TypeConfig, Vote};
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftStateMachine as _};
use openraft::type_config::TypeConfigExt as _;
use openraft::{EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::commands::{Commands, apply, sorted, view_of};
use crate::support::{SHARDS, identity};
use conclave_store::simulated::SimDisk;

/// The model of one group.
#[derive(Debug)]
struct Model {
    shard: ShardId,
    commands: Commands,
    /// Every entry ever applied, from index 1, and the ones behind that are in the log.
    entries: Vec<Entry>,
    /// The store has acknowledged entries up to this index.
    acked: u64,
    /// The first index and the entries of a truncation that may not be on disk.
    before: Option<(u64, Vec<Entry>)>,
    term: u64,
    vote: Option<Vote>,
    /// A vote that may be on disk.
    voting: Option<Vote>,
    applied: u64,
    /// The highest index that was ever applied, and may still be reported as committed.
    committed: u64,
    /// The highest index of a reported snapshot.
    snapshot: u64,
    view: MemView,
}

/// The part of a store that belongs to one group.
struct Group {
    model: Model,
    log: LogStore,
    machine: StateMachine,
}

type Flushed = tokio::sync::oneshot::Receiver<Result<(), std::io::Error>>;

impl Model {
    fn new(shard: ShardId) -> Self {
        Self {
            shard,
            commands: Commands::new(shard),
            entries: Vec::new(),
            acked: 0,
            before: None,
            term: 0,
            vote: None,
            voting: None,
            applied: 0,
            committed: 0,
            snapshot: 0,
            view: MemView::default(),
        }
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index - 1).unwrap())
    }

    fn entry(&self, index: u64) -> &Entry {
        self.get(index).unwrap()
    }

    fn make(&mut self, random: &mut StdRng) -> Entry {
        let log_id = log_id_of(self.term, self.last() + 1);
        let payload = match random.random_range(0..10) {
            0 => EntryPayload::Blank,
            _ => EntryPayload::Normal(Payload(self.commands.batch(random))),
        };
        let entry = Entry { log_id, payload };
        self.entries.push(entry.clone());
        entry
    }

    /// The state after the entries up to an index.
    fn view_at(&self, index: u64) -> MemView {
        let mut view = MemView::default();
        for index in 1..=index {
            apply_entry(&mut view, self.shard, self.entry(index));
        }
        view
    }
}

fn apply_entry(view: &mut MemView, shard: ShardId, entry: &Entry) {
    if let EntryPayload::Normal(Payload(batch)) = &entry.payload {
        apply(view, shard, batch);
    }
}

impl Group {
    async fn append(&mut self, random: &mut StdRng) -> Option<(u64, Flushed)> {
        let entries: Vec<Entry> = (0..random.random_range(1..5)).map(|_| self.model.make(random)).collect();
        let (done, flushed) = TypeConfig::oneshot();
        self.log.append(entries, IOFlushed::signal(done)).await.ok()?;
        Some((self.model.last(), flushed))
    }

    fn acknowledged(&mut self, upto: u64) {
        self.model.acked = self.model.acked.max(upto);
        // Entries after the truncation are on disk, so the truncation is, too.
        self.model.before = None;
    }

    /// Takes back entries that are not applied, as a new leader would ask for.
    async fn truncate(&mut self, random: &mut StdRng) -> Option<()> {
        let model = &mut self.model;
        let keep = random.random_range(model.committed..=model.last());
        if keep == model.last() || model.before.is_some() {
            return Some(());
        }
        // A new leader has a new term, and this group has voted for it.
        self.vote().await?;
        let model = &mut self.model;
        let gone = model.entries.split_off(usize::try_from(keep).unwrap());
        model.before = Some((keep, gone));
        model.acked = model.acked.min(keep);
        let view = model.view_at(keep);
        model.commands.follow(view);
        let last = (keep > 0).then(|| model.entry(keep).log_id);
        self.log.truncate_after(last).await.ok()
    }

    async fn vote(&mut self) -> Option<()> {
        self.model.term += 1;
        let vote = Vote::new(self.model.term, 1);
        self.model.voting = Some(vote);
        self.log.save_vote(&vote).await.ok()?;
        let model = &mut self.model;
        model.vote = model.voting.take();
        // A saved vote proves that all earlier appends are on disk, too.
        model.acked = model.last();
        model.before = model.before.take().filter(|(keep, _)| *keep == model.entries.len() as u64);
        Some(())
    }

    /// Applies some entries, also unsynced ones: other nodes may have committed them.
    async fn apply(&mut self, random: &mut StdRng) -> Option<()> {
        let upto = random.random_range(self.model.applied..=self.model.last());
        let committed = (upto > 0).then(|| self.model.entry(upto).log_id);
        self.log.save_committed(committed).await.ok()?;
        let range = self.model.applied + 1..upto + 1;
        let entries = self.log.get_log_reader().await.try_get_log_entries(range.clone()).await.ok()?;
        assert_eq!(entries.len() as u64, upto - self.model.applied);
        for (index, entry) in range.zip(&entries) {
            assert_eq!(entry, self.model.entry(index));
            apply_entry(&mut self.model.view, self.model.shard, entry);
        }
        self.model.applied = upto;
        self.model.committed = self.model.committed.max(upto);
        let items = futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        self.machine.apply(items).await.ok()
    }

    async fn snapshot(&mut self, purge: bool) -> Option<()> {
        let mut builder = self.machine.try_create_snapshot_builder(true).await.unwrap();
        let snapshot = builder.build_snapshot().await.ok()?;
        let Some(last) = snapshot.meta.last_log_id else { return Some(()) };
        assert_eq!(last.index, self.model.applied, "nothing is applied meanwhile");
        self.model.snapshot = last.index;
        assert_eq!(view_of(snapshot), sorted(self.model.view.clone()));
        if purge {
            self.log.purge(last).await.ok()?;
        }
        Some(())
    }

    /// Compares the store after a crash with the model, and continues from it.
    async fn check(&mut self, seed: u64) {
        let model = &mut self.model;
        let at = format!("seed {seed}, shard {}", model.shard);
        let vote = self.log.get_log_reader().await.read_vote().await.unwrap();
        assert!(vote == model.vote || (vote.is_some() && vote == model.voting), "{at}: {vote:?}");
        (model.vote, model.voting) = (vote, None);
        model.term = vote.map_or(0, |vote| vote.leader_id.term);

        let (applied, _) = self.machine.applied_state().await.unwrap();
        let applied = applied.map_or(0, |id| id.index);
        let state = self.log.get_log_state().await.unwrap();
        let purged = state.last_purged_log_id.map_or(0, |id| id.index);
        let last = state.last_log_id.map_or(0, |id| id.index);
        assert!(applied >= model.snapshot, "{at}: the state lost a snapshot");
        assert!(applied >= purged, "{at}: the log lost what the state needs");
        assert!(applied <= last, "{at}: the state is ahead of the log");
        assert!(last >= model.acked, "{at}: acknowledged up to {}, found {last}", model.acked);
        let committed = self.log.read_committed().await.unwrap().map_or(0, |id| id.index);
        assert!(committed <= last && committed <= model.committed, "{at}: {committed} is committed");
        model.committed = committed.max(applied);

        let found = self.log.get_log_reader().await.try_get_log_entries(purged + 1..last + 1).await.unwrap();
        assert_eq!(found.len() as u64, last - purged, "{at}: a hole");
        if let Some((keep, gone)) = model.before.take()
            && found
                .iter()
                .any(|entry| entry.log_id.index > keep && model.get(entry.log_id.index) != Some(entry))
        {
            // The truncation was not on disk: the old entries are.
            model.entries.truncate(usize::try_from(keep).unwrap());
            model.entries.extend(gone);
        }
        for entry in &found {
            assert_eq!(entry, model.entry(entry.log_id.index), "{at}");
        }
        model.entries.truncate(usize::try_from(last).unwrap());
        model.view = model.view_at(applied);
        let view = model.view_at(last);
        model.commands.follow(view);
        (model.acked, model.applied, model.snapshot) = (last, applied, applied);
        if let Some(snapshot) = self.machine.get_current_snapshot().await.unwrap() {
            assert_eq!(view_of(snapshot), sorted(self.model.view.clone()), "{at}");
        } else {
            assert_eq!(self.model.view, MemView::default(), "{at}");
        }
    }
}

fn open(dir: &Path, disk: &SimDisk) -> Result<Store, OpenError> {
    let options = Options { disk: Arc::new(disk.clone()), ..Options::default() };
    Store::open(dir, &identity(dir), SHARDS, options, Arc::new(()))
}

/// One life of the store: from opening until the power fails, or shortly before.
async fn live(groups: &mut [Group], random: &mut StdRng) -> Option<()> {
    for _ in 0..random.random_range(1..60) {
        let n = random.random_range(0..groups.len());
        match random.random_range(0..12) {
            0..6 => {
                // Several groups at once, as one group commit.
                let mut flushing = Vec::new();
                for group in groups.iter_mut() {
                    if random.random_bool(0.4) {
                        continue;
                    }
                    flushing.push((group.model.shard, group.append(random).await?));
                }
                if random.random_bool(0.8) {
                    for (shard, (upto, flushed)) in flushing {
                        flushed.await.ok()?.ok()?;
                        groups[shard.0 as usize].acknowledged(upto);
                    }
                }
            }
            6 if random.random_bool(0.5) => groups[n].vote().await?,
            6 => {
                // Several groups elect at once, and some of them write.
                let mut votes = Vec::new();
                for group in groups.iter_mut() {
                    if random.random_bool(0.5) {
                        group.append(random).await?;
                    }
                    votes.push(group.vote());
                }
                futures::future::join_all(votes).await.into_iter().collect::<Option<Vec<()>>>()?;
            }
            7 => groups[n].truncate(random).await?,
            8..10 => groups[n].apply(random).await?,
            10 => groups[n].snapshot(random.random_bool(0.7)).await?,
            _ => tokio::task::yield_now().await,
        }
    }
    Some(())
}

async fn run(seed: u64, lives: usize, lie: bool) {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut models: Vec<Model> = (0..=SHARDS).map(|n| Model::new(ShardId(n))).collect();
    if lie {
        disk.ignore_syncs();
    }
    for _ in 0..lives {
        // The power may fail while the store opens, too; then it must open the next time.
        if random.random_bool(0.3) {
            disk.fail_after(random.random_range(0..60));
            drop(open(dir.path(), &disk));
            disk.crash();
        }
        let store = open(dir.path(), &disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let mut groups = Vec::new();
        for model in models {
            let (log, machine) = store.shard(model.shard);
            let mut group = Group { model, log, machine };
            group.check(seed).await;
            groups.push(group);
        }
        if random.random_bool(0.7) {
            disk.fail_after(random.random_range(0..400));
        }
        live(&mut groups, &mut random).await;
        disk.crash();
        models = groups.into_iter().map(|group| group.model).collect();
        drop(store);
    }
}

/// More seeds: `CONCLAVE_CRASH_SEEDS=1000`.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let seeds = std::env::var("CONCLAVE_CRASH_SEEDS").map_or(20, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        run(seed, 12, false).await;
    }
}

/// The test above must be able to fail: it detects a disk that answers syncs without doing them.
#[tokio::test]
async fn a_disk_that_does_not_sync_is_detected() {
    let mut found = false;
    for seed in 0..10 {
        let run = tokio::spawn(run(seed, 12, true));
        found |= run.await.is_err();
    }
    assert!(found);
}
