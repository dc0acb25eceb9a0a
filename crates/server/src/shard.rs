//! The shards of the cluster, and this node's replicas of them.

pub(crate) mod confirmations;
pub(crate) mod elections;
pub(crate) mod heartbeats;
pub(crate) mod proposer;
pub(crate) mod reader;
pub(crate) mod replica;
pub(crate) mod sample;

use std::sync::Arc;
use std::time::Duration;

use conclave_core::{NodeId, RoomId, ShardId};
use conclave_proto::chat::LeaderHint;

use crate::shard::replica::LeaderView;
use crate::topology::Topology;

pub(crate) use proposer::{ProposeError, ProposeResult};
pub(crate) use reader::ShardReader;
pub(crate) use replica::Replica;

/// One shard of the cluster, which this node may or may not hold a replica of.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    topology: Arc<Topology>,
    replica: Option<Arc<Replica>>,
}

impl Shard {
    /// This node's replica.
    pub(crate) fn replica(&self) -> Option<&Arc<Replica>> {
        self.replica.as_ref()
    }

    /// The nodes that hold the shard, the preferred leader first.
    pub(crate) fn replicas(&self) -> Vec<NodeId> {
        self.topology.replicas(self.id)
    }

    /// The leader as this node's replica sees it. Unknown without a replica: any of [`Shard::replicas`] knows it.
    pub(crate) fn leader(&self) -> LeaderView {
        self.replica.as_ref().map(|replica| replica.leader()).unwrap_or_default()
    }

    /// Whether this node leads the shard.
    pub(crate) fn leads(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.leads())
    }

    /// The leader, if it has a quorum as far as this node's replica knows.
    pub(crate) fn leader_with_quorum(&self) -> Option<NodeId> {
        self.replica.as_ref()?.leader_with_quorum()
    }

    /// Waits until the leader differs from `known`, or until `at_most` has passed.
    pub(crate) async fn leader_change(&self, known: LeaderView, at_most: Duration) {
        match &self.replica {
            Some(replica) => replica.leader_change(known, at_most).await,
            None => tokio::time::sleep(at_most).await,
        }
    }

    /// The address of the leader, for clients.
    pub(crate) fn hint(&self) -> Option<LeaderHint> {
        let view = self.leader();
        let leader = view.leader?;
        let address = self.topology.member(leader)?.client;
        Some(LeaderHint { shard: self.id.0, term: view.term, node_id: leader.0, address })
    }
}

/// All shards of the cluster.
#[derive(Debug)]
pub(crate) struct Shards {
    pub(crate) topology: Arc<Topology>,
    meta: Arc<Shard>,
    /// The data shards, from shard 1 on.
    data: Vec<Arc<Shard>>,
}

impl Shards {
    /// `meta` is this node's replica of the meta shard, which every node has; `data` are its replicas of other shards.
    pub(crate) fn new(topology: Arc<Topology>, meta: Arc<Replica>, data: &[Arc<Replica>]) -> Self {
        let shard = |id: ShardId, replica: Option<Arc<Replica>>| {
            Arc::new(Shard { id, topology: Arc::clone(&topology), replica })
        };
        let local = |id: ShardId| data.iter().find(|replica| replica.shard == id).cloned();
        let shards = (1..=topology.data_shards()).map(ShardId);
        Self {
            meta: shard(ShardId::META, Some(meta)),
            data: shards.map(|id| shard(id, local(id))).collect(),
            topology,
        }
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.topology.me()
    }

    /// A shard by its id; `None` if there is no such shard.
    pub(crate) fn get(&self, shard: ShardId) -> Option<&Arc<Shard>> {
        match usize::try_from(shard.0).ok()?.checked_sub(1) {
            None => Some(&self.meta),
            Some(index) => self.data.get(index),
        }
    }

    /// This node's replica of a shard.
    pub(crate) fn replica(&self, shard: ShardId) -> Option<&Arc<Replica>> {
        self.get(shard)?.replica()
    }

    pub(crate) fn meta(&self) -> &Arc<Shard> {
        &self.meta
    }

    /// The shard of a room.
    pub(crate) fn of_room(&self, room: RoomId) -> &Arc<Shard> {
        self.get(self.topology.shard_of(room)).unwrap_or(&self.meta)
    }

    /// All shards, the meta shard first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Shard>> {
        std::iter::once(&self.meta).chain(&self.data)
    }

    /// This node's replicas.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.iter().filter_map(|shard| shard.replica())
    }
}
