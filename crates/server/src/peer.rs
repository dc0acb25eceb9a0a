//! The other nodes: their addresses, one connection to each, and the protocols on it.
//!
//! * [`admission`]: both ends of every call identify themselves; foreign nodes and replaced data dirs are refused.
//! * [`network`]: openraft's network over gRPC; the server side is `api/peer.rs`.
//! * [`probe`]: measures how long a follower takes.
//! * [`mod@echo`]: fault injection that repeats calls.
//! * [`link`]: proposals for shards led elsewhere, and detection of dead processes.

pub(crate) mod admission;
pub(crate) mod echo;
pub(crate) mod link;
pub(crate) mod network;
mod probe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_net::Net;
use conclave_proto::fault::PeerFault;
use conclave_proto::raft::raft_service_client::RaftServiceClient;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tonic::codegen::http::Uri;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::config::Member;
use crate::faults::{Faults, network as network_faults};
use crate::limits::{FORWARD_QUEUE_MAX, PEER_MESSAGE_BYTES_MAX};
use crate::peer::admission::Stamp;
use crate::peer::echo::{Call, Echo, Echoes, echo};
use crate::peer::link::Forwarded;

/// A client of another node's Raft service.
pub(crate) type PeerClient = RaftServiceClient<InterceptedService<Channel, Stamp>>;

/// One other node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) member: Member,
    /// The client for all calls except snapshots.
    client: PeerClient,
    /// A separate connection for snapshots, so that gigabytes never delay a heartbeat.
    bulk: PeerClient,
    /// Proposals to forward to this node.
    pub(crate) forward: mpsc::Sender<Forwarded>,
    /// Whether the link to this node is up.
    pub(crate) alive: watch::Sender<bool>,
    /// The injected faults on the connection to this node.
    rule: Option<watch::Receiver<PeerFault>>,
    /// Repeats calls when fault injection asks for it.
    echo: Option<Arc<Echo>>,
}

/// Per peer: the peer itself, the queue of its link's task, and the task that repeats calls to it, if fault injection
/// is enabled.
pub(crate) type LinkQueues = Vec<(Arc<Peer>, mpsc::Receiver<Forwarded>, Option<Echoes>)>;

/// All other nodes.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Arc<Peer>>,
}

impl Peers {
    /// Prepares a connection to each of the nodes; each connects at first use.
    ///
    /// # Errors
    /// If an address is invalid.
    pub(crate) fn new(
        members: &BTreeMap<NodeId, Member>,
        me: NodeId,
        stamp: &Stamp,
        faults: Option<&Faults>,
        net: &Net,
    ) -> Result<(Self, LinkQueues), tonic::transport::Error> {
        let mut peers = BTreeMap::new();
        let mut queues = Vec::new();
        for (&id, member) in members.iter().filter(|(id, _)| **id != me) {
            let (forward, queue) = mpsc::channel(FORWARD_QUEUE_MAX);
            let stamp = stamp.clone().to(id);
            let (echo, echoes) = match faults {
                Some(known) => {
                    let client = client(channel(member, faults, net)?, stamp.clone());
                    let rule = known.network.rule(&member.name);
                    let (echo, echoes) = echo(rule, client, Arc::clone(known.network.repeated()));
                    (Some(echo), Some(echoes))
                }
                None => (None, None),
            };
            let peer = Arc::new(Peer {
                id,
                client: client(channel(member, faults, net)?, stamp.clone()),
                bulk: client(channel(member, faults, net)?, stamp),
                member: member.clone(),
                forward,
                alive: watch::Sender::new(false),
                rule: faults.map(|faults| faults.network.rule(&member.name)),
                echo,
            });
            queues.push((Arc::clone(&peer), queue, echoes));
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

    /// Whether fault injection cuts this peer off: then a connection attempt says nothing about its process.
    pub(crate) fn is_cut(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| network_faults::is_cut(&rule.borrow()))
    }

    /// Observes a call that is about to be made, which fault injection may repeat.
    pub(crate) fn hear(&self, call: impl FnOnce() -> Call) {
        if let Some(echo) = &self.echo {
            echo.hear(call);
        }
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

/// A channel that connects at first use and reconnects whenever the connection is lost.
fn channel(member: &Member, faults: Option<&Faults>, net: &Net) -> Result<Channel, tonic::transport::Error> {
    let endpoint = endpoint(member, net)?;
    let Some(faults) = faults else { return Ok(net.channel(&endpoint, &member.peer)) };
    let (net, address, rule) = (net.clone(), member.peer.clone(), faults.network.rule(&member.name));
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (net, address, rule) = (net.clone(), address.clone(), rule.clone());
        async move { network_faults::connect(&net, &address, rule).await.map(TokioIo::new) }
    })))
}

fn endpoint(member: &Member, net: &Net) -> Result<Endpoint, tonic::transport::Error> {
    Ok(net
        .endpoint(&member.peer)?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_millis(500))
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        // Keep-alives detect a peer that vanished without closing its connections.
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true))
}
