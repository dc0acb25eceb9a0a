//! The Raft groups of this node.

pub(crate) mod elections;
pub(crate) mod proposer;
pub(crate) mod replica;
pub(crate) mod sample;

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_core::ring::{Layout, shard_of};
use conclave_core::{NodeId, RoomId, ShardId};
use conclave_proto::chat::LeaderHint;

use crate::config::Member;

pub(crate) use proposer::{Answer, ProposeError};
pub(crate) use replica::Replica;

/// All replicas of this node, by shard.
#[derive(Debug)]
pub(crate) struct Shards {
    pub(crate) me: NodeId,
    /// Data shards of the cluster, fixed at bootstrap.
    pub(crate) data_shards: u32,
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// The initial layout of the cluster; its order of replicas ranks the preferred leaders.
    pub(crate) layout: Layout,
    replicas: Vec<Arc<Replica>>,
}

impl Shards {
    /// The replicas must be in the order of their shards, beginning with the meta shard.
    pub(crate) fn new(
        me: NodeId,
        members: BTreeMap<NodeId, Member>,
        layout: Layout,
        replicas: Vec<Arc<Replica>>,
    ) -> Self {
        let data_shards = u32::try_from(layout.shards.len().saturating_sub(1)).unwrap_or(u32::MAX);
        Self { me, data_shards, members, layout, replicas }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<&Arc<Replica>> {
        self.replicas.get(usize::try_from(shard.0).ok()?)
    }

    pub(crate) fn meta(&self) -> &Arc<Replica> {
        &self.replicas[0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas.iter()
    }

    /// The shard of a room and this node's replica of it.
    pub(crate) fn of_room(&self, room: RoomId) -> &Arc<Replica> {
        let shard = shard_of(room, self.data_shards);
        self.get(shard).unwrap_or_else(|| self.meta())
    }

    /// The nodes that hold a shard, the preferred leader first.
    pub(crate) fn preferred(&self, shard: ShardId) -> &[NodeId] {
        let index = usize::try_from(shard.0).unwrap_or(usize::MAX);
        self.layout.shards.get(index).map_or(&[], Vec::as_slice)
    }

    /// The address of the shard's leader as the replica last saw it, for clients.
    pub(crate) fn hint(&self, replica: &Replica) -> Option<LeaderHint> {
        let view = replica.leader();
        let leader = view.leader?;
        let address = self.members.get(&leader)?.client.clone();
        Some(LeaderHint { shard: replica.shard.0, term: view.term, node_id: leader.0, address })
    }
}
