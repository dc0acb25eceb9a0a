//! Bootstrap of a cluster, and what a node does before it is ready. [`crate::plan`] explains why all nodes bootstrap
//! identically.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use conclave_core::record::NodeRecord;
use conclave_core::{Command, DataDirId, Refusal, Reply, ShardId, UserId};
use openraft::EmptyNode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::local::NodeInfo;
use crate::router::Router;
use crate::shard::{Replica, Shards};

/// The room that every new cluster has.
const FIRST_ROOM: &str = "general";
/// Nodes other than the preferred leader wait this long before they initialize a group in its place.
const INITIALIZE_ANYWAY_AFTER: Duration = Duration::from_secs(3);
/// Pause between two attempts to register.
const RETRY: Duration = Duration::from_millis(100);
/// Interval at which the meta shard's leader compares the cluster's feature level with those of the nodes.
const LEVEL_INTERVAL: Duration = Duration::from_secs(1);
/// Deadline for a replica to apply what it had committed before the restart.
const RECOVERY: Duration = Duration::from_secs(60);

/// Initializes the groups that are new, registers the node, and waits until its replicas have recovered.
pub(crate) async fn complete_start(
    router: Router,
    node: Arc<NodeInfo>,
    directory: DataDirId,
    expelled: watch::Sender<Option<String>>,
) {
    let work = async {
        futures::future::join_all(
            router.shards.replicas().map(|replica| initialize_group(&router.shards, replica)),
        )
        .await;
        if let Err(why) = register(&router, &node, directory).await {
            expelled.send_replace(Some(why));
            return;
        }
        for replica in router.shards.replicas() {
            if let Err(error) = replica.raft.wait_for_recovery(Some(RECOVERY)).await {
                tracing::warn!(shard = replica.shard.0, %error, "replica not recovered in time, continuing");
            }
        }
        if router.barrier(ShardId::META).await.is_ok() {
            seed_meta_state(&router).await;
        }
        node.start_complete.store(true, Ordering::Relaxed);
        node.own.news.notify_one();
        tracing::info!("node ready");
    };
    let mut ended = expelled.subscribe();
    tokio::select! {
        () = work => {}
        () = node.stop.cancelled() => {}
        _ = ended.wait_for(Option::is_some) => {}
    }
}

/// Initializes one group, if this node holds a replica and the group is not initialized. All nodes would initialize it
/// identically, so two may do it; only the preferred leader does it at once, which saves needless elections.
async fn initialize_group(shards: &Shards, replica: &Replica) {
    let replicas = shards.topology.replicas(replica.shard);
    if !replicas.contains(&shards.me()) {
        return;
    }
    if replicas.first() != Some(&shards.me()) {
        replica.leader_change(replica.leader(), INITIALIZE_ANYWAY_AFTER).await;
    }
    if replica.raft.is_initialized().await.unwrap_or(true) {
        return;
    }
    let members: BTreeMap<u64, EmptyNode> = replicas.iter().map(|id| (id.0, EmptyNode::new())).collect();
    match replica.raft.initialize(members).await {
        Ok(()) => tracing::info!(shard = replica.shard.0, "Raft group initialized"),
        Err(error) => tracing::debug!(shard = replica.shard.0, %error, "Raft group already initialized"),
    }
}

/// Registers this node in the meta shard.
///
/// # Errors
/// The reason why the cluster refuses this node.
async fn register(router: &Router, node: &NodeInfo, directory: DataDirId) -> Result<(), String> {
    let record = NodeRecord {
        node: node.id,
        name: node.member.name.clone(),
        client_address: node.member.client.clone(),
        peer_address: node.member.peer.clone(),
        http_address: node.member.http.clone(),
        web_address: node.web_address.clone(),
        directory,
        version: conclave_core::version::VERSION.to_owned(),
        feature_level: node.feature_level,
    };
    let command = Command::RegisterNode(record);
    loop {
        match router.decide(ShardId::META, &command).await {
            Ok(Reply::Refused(Refusal::NodeIdTaken)) => {
                tracing::error!(node = node.id.0, "{}", Refusal::NodeIdTaken);
                return Ok(());
            }
            Ok(Reply::Refused(Refusal::NodeTooOld)) => {
                return Err(format!(
                    "the cluster uses a feature level above {}, the highest that node {} understands: upgrade this node, \
                     its data is intact",
                    node.feature_level, node.id
                ));
            }
            Ok(_) => return Ok(()),
            Err(failure) => tracing::debug!(%failure, "node not registered yet, retrying"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Gives a new cluster its layout, its feature level and its first room. The first node to get here does it; each step
/// is idempotent.
async fn seed_meta_state(router: &Router) {
    let topology = &router.shards.topology;
    if !topology.has_layout() {
        let command = Command::SetLayout { layout: topology.planned_layout().clone(), replaces: 0 };
        report("layout", router.decide(ShardId::META, &command).await.err());
    }
    raise_level(router).await;
    let Ok(meta) = router.reader(ShardId::META) else { return };
    if meta.room_named(FIRST_ROOM).await.is_ok_and(|room| room.is_none()) {
        report("first room", router.create_room(FIRST_ROOM, UserId(0), None).await.err());
    }
}

/// Raises the cluster's feature level to the highest one that all nodes understand, if the cluster does not have it.
async fn raise_level(router: &Router) {
    let topology = &router.shards.topology;
    let Some(understood) = topology.understood_level() else { return };
    if topology.has_feature_level(understood) {
        return;
    }
    match router.decide(ShardId::META, &Command::SetFeatureLevel(understood)).await {
        Ok(Reply::Refused(refusal)) => {
            tracing::debug!(level = understood, %refusal, "feature level not raised")
        }
        Ok(_) => tracing::info!(level = understood, "feature level raised"),
        Err(failure) => tracing::debug!(level = understood, %failure, "feature level not raised yet"),
    }
}

/// Raises the feature level when the last node is upgraded, until the node stops. Only the meta shard's leader does it.
pub(crate) async fn run_level_upgrades(router: Router, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LEVEL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if router.shards.meta().leads() {
            raise_level(&router).await;
        }
    }
}

fn report(what: &'static str, failure: Option<conclave_proto::status::Failure>) {
    if let Some(failure) = failure {
        tracing::warn!(what, %failure, "cluster setup step failed; the next node that starts tries again");
    }
}
