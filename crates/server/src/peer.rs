//! The other nodes: who they are, one connection to each, and what travels on it.
//!
//! * [`admission`]: both ends of every call name themselves; strangers and emptied directories are refused.
//! * [`network`]: what openraft asks of the network, over gRPC.
//! * [`service`]: the other end of it.
//! * [`probe`]: how long a follower takes.
//! * [`link`]: proposals for shards led elsewhere, and the first sign of a dead process.

pub(crate) mod admission;
pub(crate) mod link;
pub(crate) mod network;
mod probe;
pub(crate) mod service;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::limits::{FORWARD_QUEUE_MAX, PEER_MESSAGE_BYTES_MAX};
use conclave_core::{NodeId, ShardId};
use conclave_proto::raft::raft_service_client::RaftServiceClient;
use tokio::sync::{mpsc, watch};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::config::Member;
use crate::peer::admission::Stamp;
use crate::peer::link::Forwarded;

/// A client of another node's Raft service.
pub(crate) type PeerClient = RaftServiceClient<InterceptedService<Channel, Stamp>>;

/// One other node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) member: Member,
    /// For everything but snapshots.
    client: PeerClient,
    /// A connection of its own, so that gigabytes never stand before a heartbeat.
    bulk: PeerClient,
    /// Proposals on their way to this node.
    pub(crate) forward: mpsc::Sender<Forwarded>,
    /// Whether the link to this node stands.
    pub(crate) alive: watch::Sender<bool>,
}

/// What the link's task of a peer needs beside the peer itself.
pub(crate) type LinkQueues = Vec<(Arc<Peer>, mpsc::Receiver<Forwarded>)>;

/// All other nodes.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Arc<Peer>>,
}

impl Peers {
    /// Prepares a connection to each of the nodes. Nothing connects before it is used.
    ///
    /// # Errors
    /// If an address is not one.
    pub(crate) fn new(
        members: &BTreeMap<NodeId, Member>,
        me: NodeId,
        stamp: &Stamp,
    ) -> Result<(Self, LinkQueues), tonic::transport::Error> {
        let mut peers = BTreeMap::new();
        let mut queues = Vec::new();
        for (&id, member) in members.iter().filter(|(id, _)| **id != me) {
            let (forward, queue) = mpsc::channel(FORWARD_QUEUE_MAX);
            let stamp = stamp.clone().to(id);
            let peer = Arc::new(Peer {
                id,
                client: client(endpoint(member)?.connect_lazy(), stamp.clone()),
                bulk: client(endpoint(member)?.connect_lazy(), stamp),
                member: member.clone(),
                forward,
                alive: watch::Sender::new(false),
            });
            queues.push((Arc::clone(&peer), queue));
            peers.insert(id, peer);
        }
        Ok((Self { peers }, queues))
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values()
    }
}

impl Peer {
    pub(crate) fn client(&self) -> PeerClient {
        self.client.clone()
    }

    pub(crate) fn bulk(&self) -> PeerClient {
        self.bulk.clone()
    }

    pub(crate) fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }
}

fn client(channel: Channel, stamp: Stamp) -> PeerClient {
    RaftServiceClient::with_interceptor(channel, stamp)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

fn endpoint(member: &Member) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{}", member.peer))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_millis(500))
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        // A peer that vanished without a word is noticed by its silence.
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true))
}

/// The number of a shard as openraft's metrics and our labels show it.
pub(crate) fn label(shard: ShardId) -> String {
    shard.0.to_string()
}
