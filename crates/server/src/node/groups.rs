//! Opens the store and starts the Raft groups on it.

use std::sync::Arc;

use conclave_core::ShardId;
use conclave_net::CaId;
use conclave_store::{Identity, Options, Raft, Store};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{Config, Timing};
use crate::disk_space::DiskSpace;
use crate::limits::PROPOSAL_QUEUE_MAX;
use crate::metrics::{Metrics, StoreEvents};
use crate::node::RunError;
use crate::peer::Peers;
use crate::peer::admission::Admission;
use crate::peer::network::Factory;
use crate::plan::ClusterPlan;
use crate::shard::confirmations::Confirmations;
use crate::shard::elections::EarlyElections;
use crate::shard::heartbeats::Heartbeats;
use crate::shard::proposer::Proposer;
use crate::shard::replica::{Links, QuorumReports};
use crate::shard::{Replica, Shards};
use crate::topology::Topology;

/// Opens the node's data dir; creates it if it does not exist.
pub(super) async fn open_store(
    config: &Config,
    plan: &ClusterPlan,
    ca: Option<CaId>,
    options: Options,
    events: StoreEvents,
) -> Result<(Identity, Store), RunError> {
    let dir = config.dir.clone();
    let (plan, name, me, shards) = (plan.cluster, config.cluster_name.clone(), plan.me, config.shards);
    let opened = options.work.block(move || {
        let identity = match Identity::read(&dir)? {
            Some(identity) => identity,
            None => Identity::create_planned(&dir, ca.map_or(plan, |ca| ca.0), plan, &name, me)?,
        };
        // A cluster keeps the id that it began with: the id of its authority, or, without TLS, the digest of its plan.
        let began_with_tls = identity.cluster != identity.plan;
        let cluster = match ca {
            Some(CaId(ca)) if began_with_tls => ca,
            None if began_with_tls => return Err(RunError::TlsMissing { dir }),
            _ => plan,
        };
        let directory = identity.directory;
        let expected = Identity { cluster, plan, cluster_name: name, node: me, directory };
        let store = Store::open(&dir, &expected, shards, options, Arc::new(events))?;
        Ok::<_, RunError>((identity, store))
    });
    match opened.await {
        Ok(opened) => opened,
        Err(error) => Err(RunError::Storage(error.to_string())),
    }
}

/// The parts needed to start the Raft groups.
pub(super) struct Groups<'a> {
    pub(super) config: &'a Config,
    pub(super) topology: &'a Arc<Topology>,
    pub(super) store: &'a Store,
    pub(super) peers: &'a Arc<Peers>,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) clock: &'a Clock,
    pub(super) disk: &'a DiskSpace,
}

impl Groups<'_> {
    pub(super) async fn start(&self, admission: &Admission, tasks: &TaskTracker) -> Result<Shards, RunError> {
        let raft_config = Arc::new(raft_config(self.config));
        let meta = self.start_one(ShardId::META, &raft_config, admission, tasks).await?;
        let mut data = Vec::new();
        for shard in (1..=self.config.shards).map(ShardId) {
            data.push(self.start_one(shard, &raft_config, admission, tasks).await?);
        }
        Ok(Shards::new(Arc::clone(self.topology), meta, &data))
    }

    async fn start_one(
        &self,
        shard: ShardId,
        raft_config: &Arc<openraft::Config>,
        admission: &Admission,
        tasks: &TaskTracker,
    ) -> Result<Arc<Replica>, RunError> {
        let failed = |why: String| RunError::Raft { shard, why };
        let confirmations = Arc::new(Confirmations::default());
        let factory = Factory {
            shard,
            confirmations: Arc::clone(&confirmations),
            peers: Arc::clone(self.peers),
            admission: admission.clone(),
            metrics: Arc::clone(self.metrics),
        };
        let (log, machine) = self.store.shard(shard);
        let raft = Raft::new(self.topology.me().0, Arc::clone(raft_config), factory, log, machine)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let (proposals, queue) = mpsc::channel(PROPOSAL_QUEUE_MAX);
        let proposer = Proposer {
            shard,
            raft: raft.clone(),
            clock: self.clock.clone(),
            topology: Arc::clone(self.topology),
            metrics: Arc::clone(self.metrics),
            #[cfg(debug_assertions)]
            store: self.store.clone(),
        };
        tasks.spawn(proposer.run(queue));
        let state = self.store.state(shard);
        let early_elections = EarlyElections::default();
        let disk = self.disk.clone();
        Ok(Arc::new(Replica {
            shard,
            raft,
            state,
            proposals,
            early_elections,
            confirmations,
            disk,
            quorum_reports: QuorumReports::default(),
            links: Arc::clone(self.peers) as Arc<dyn Links>,
            heartbeats: Heartbeats::default(),
        }))
    }
}

fn raft_config(config: &Config) -> openraft::Config {
    let (election_timeout_min, election_timeout_max, heartbeat_interval) = match config.timing {
        // The shorter timeout is also the time in which votes must be answered. It can be close to the longer one, because the
        // waits of followers differ by their rank.
        Timing::Auto => (140, 150, 25),
        Timing::Lan => (75, 150, 25),
        Timing::Wan => (750, 1_500, 250),
    };
    openraft::Config {
        cluster_name: config.cluster_name.clone(),
        election_timeout_min,
        election_timeout_max,
        heartbeat_interval,
        enable_pre_vote: Some(true),
        // A restarted leader has no entries that its followers lack, and they have elected another leader already.
        enable_leader_restore: Some(false),
        // Entries are batches of up to 256 KiB: this many of them fit one message between nodes.
        max_payload_entries: 64,
        api_batch_linger_ms: 0,
        // Entries are few and large: room for more would be unused memory.
        api_batch_capacity: 64,
        api_channel_size: Some(1_024),
        backoff: "50ms 50ms 50ms".to_owned(),
        // Housekeeping decides by bytes when to take a snapshot and how much log to keep behind it.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower gets a snapshot when the log entries that it needs are purged, not because it is slow.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 600_000,
        ..openraft::Config::default()
    }
}
