//! Liveness and readiness: whether a node should be restarted, and whether clients should use it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_store::Store;
use conclave_telemetry::web::Check;
use tokio::time::Instant;

use crate::local::NodeInfo;
use crate::shard::Shards;

/// A node without contact to a leader of the meta shard for this long is not ready. Far longer than an election, so
/// that no election makes all nodes unready at once.
const LEADERLESS_MAX: Duration = Duration::from_secs(2);

/// The state that the health checks read.
#[derive(Debug)]
pub(crate) struct Health {
    node: Arc<NodeInfo>,
    shards: Arc<Shards>,
    store: Store,
    /// When this node last had contact to the meta shard's leader.
    leader_seen: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn new(node: Arc<NodeInfo>, shards: Arc<Shards>, store: Store) -> Self {
        Self { node, shards, store, leader_seen: Mutex::default() }
    }

    pub(crate) fn storage(&self) -> Check {
        Check { name: "storage", ok: self.store.failed().borrow().is_none() }
    }

    pub(crate) fn started(&self) -> Check {
        Check { name: "started", ok: self.node.start_complete.load(std::sync::atomic::Ordering::Relaxed) }
    }

    /// All conditions for this node to accept clients.
    pub(crate) fn ready(&self) -> [Check; 4] {
        [
            self.storage(),
            self.started(),
            Check { name: "not_draining", ok: !self.node.is_draining() },
            Check { name: "meta_leader", ok: self.had_leader_recently() },
        ]
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready().iter().all(|check| check.ok)
    }

    /// Must be called more often than [`LEADERLESS_MAX`], because each call records when a leader was last seen.
    fn had_leader_recently(&self) -> bool {
        let now = Instant::now();
        let mut leader_seen = self.leader_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shards.meta().leader_with_quorum().is_some() {
            *leader_seen = Some(now);
        }
        leader_seen.is_some_and(|leader_seen| now.saturating_duration_since(leader_seen) < LEADERLESS_MAX)
    }
}
