//! The identity and state of a node.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use conclave_core::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Config, Member};
use crate::disk_space::DiskSpace;
use crate::local::diverged::Diverged;
use crate::local::duty::OwnDuty;
use crate::local::load::Load;
use crate::local::own_record::{self, OwnRecord};
use crate::local_sessions::LocalSessions;
use crate::plan::ClusterPlan;

/// The identity and state of this node.
#[derive(Debug)]
pub(crate) struct NodeInfo {
    pub(crate) id: NodeId,
    pub(crate) member: Member,
    /// The origin at which browsers reach this node; empty without pages for them.
    pub(crate) web_address: String,
    pub(crate) cluster: u128,
    pub(crate) cluster_name: String,
    /// The highest feature level that this node offers.
    pub(crate) feature_level: u32,
    /// Raised only by a forced recovery, which does not exist yet.
    pub(crate) epoch: u32,
    pub(crate) started: Instant,
    pub(crate) clock: Clock,
    /// The sessions that subscribe on this node.
    pub(crate) sessions: Arc<LocalSessions>,
    /// Whether the disk has room.
    pub(crate) disk: DiskSpace,
    /// Replicas of other nodes that differ from this node's.
    pub(crate) diverged: Diverged,
    /// The node's recent load.
    pub(crate) load: watch::Sender<Load>,
    /// The node's record.
    pub(crate) own: OwnRecord,
    /// Whether the replicas have recovered and the node is registered.
    pub(crate) start_complete: AtomicBool,
    /// Whether the node works, or gives its clients and leaderships away.
    pub(crate) duty: OwnDuty,
    /// Cancelled when the node stops.
    pub(crate) stop: CancellationToken,
}

impl NodeInfo {
    /// The state of a node that is about to start.
    pub(crate) fn new(plan: &ClusterPlan, config: &Config, cluster: u128, clock: &Clock) -> Self {
        let member = plan.members[&plan.me].clone();
        let own = OwnRecord::new(own_record::first(plan.me.0, &member, cluster), clock.now_ms());
        Self {
            id: plan.me,
            web_address: config.web_origin().unwrap_or_default(),
            member,
            cluster,
            cluster_name: config.cluster_name.clone(),
            feature_level: config.feature_level,
            epoch: 1,
            started: Instant::now(),
            clock: clock.clone(),
            sessions: Arc::new(LocalSessions::new(config.max_clients, Arc::clone(&own.news))),
            disk: DiskSpace::new(config.disk_reserve),
            diverged: Diverged::default(),
            load: watch::Sender::default(),
            own,
            start_complete: AtomicBool::new(false),
            duty: OwnDuty::default(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.duty.get().is_draining()
    }
}
