//! The other nodes: their addresses, one connection to each, and the protocols on it.
//!
//! * [`admission`]: both ends of every call identify themselves; foreign nodes and replaced data dirs are refused.
//! * [`check`]: refuses what no honest peer sends, before openraft sees it.
//! * [`dial`]: connects to a node wherever it is now.
//! * [`introduce`]: a data dir that was put back from an older copy is refused.
//! * [`network`]: openraft's network over gRPC; the server side is `api/peer.rs`.
//! * [`probe`]: measures how long a follower takes.
//! * [`mod@echo`]: fault injection that repeats calls.
//! * [`tls`]: the node's certificate, and encrypted connections to the others.
//! * [`link`]: proposals for shards led elsewhere, and detection of dead processes.

pub(crate) mod admission;
pub(crate) mod check;
mod dial;
pub(crate) mod echo;
pub(crate) mod introduce;
pub(crate) mod link;
pub(crate) mod network;
mod probe;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conclave_core::NodeId;
use conclave_net::Net;
use conclave_proto::raft::raft_service_client::RaftServiceClient;
use tokio::sync::{mpsc, watch};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::config::Member;
use crate::faults::{Faults, network as network_faults};
use crate::limits::{FORWARD_QUEUE_MAX, PEER_MESSAGE_BYTES_MAX};
use crate::peer::admission::Stamp;
use crate::peer::dial::{CONNECT_DEADLINE, Dial, channel};
use crate::peer::echo::{Call, Echo, EchoTask, echo};
use crate::peer::link::ForwardedProposal;
use crate::peer::tls::{NodeTlsError, PeerTls};
use crate::shard::replica::Links;
use crate::topology::Topology;

/// A client of another node's Raft service.
pub(crate) type PeerClient = RaftServiceClient<InterceptedService<Channel, Stamp>>;

/// One other node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    dial: Arc<Dial>,
    /// The client for all calls except snapshots.
    client: PeerClient,
    /// A separate connection for snapshots, so that gigabytes never delay a heartbeat.
    bulk: PeerClient,
    /// Proposals to forward to this node.
    pub(crate) forward: mpsc::Sender<ForwardedProposal>,
    /// Whether the link to this node is up.
    pub(crate) alive: watch::Sender<bool>,
    /// Repeats calls when fault injection asks for it.
    echo: Option<Arc<Echo>>,
}

/// Per peer: the peer itself, the queue of its link's task, and the task that repeats calls to it, if fault injection
/// is enabled.
pub(crate) type LinkQueues = Vec<(Arc<Peer>, mpsc::Receiver<ForwardedProposal>, Option<EchoTask>)>;

/// Why the connections to the other nodes cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeersError {
    #[error(transparent)]
    Address(#[from] tonic::transport::Error),
    #[error(transparent)]
    Tls(#[from] NodeTlsError),
}

/// All other nodes.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Arc<Peer>>,
}

impl Links for Peers {
    fn is_up(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(|peer| peer.is_alive())
    }
}

impl Peers {
    /// Prepares a connection to each of the other members; each connects at first use.
    ///
    /// # Errors
    /// If an address is invalid, or the node's certificate cannot be used.
    pub(crate) fn new(
        topology: &Arc<Topology>,
        stamp: &Stamp,
        faults: Option<&Faults>,
        net: &Net,
        tls: Option<&PeerTls>,
    ) -> Result<(Self, LinkQueues), PeersError> {
        let mut peers = BTreeMap::new();
        let mut queues = Vec::new();
        for (id, member) in topology.members().into_iter().filter(|(id, _)| *id != topology.me()) {
            let rule = faults.map(|faults| faults.network.rule(&member.name));
            let net = tls.map_or_else(|| Ok(net.clone()), |tls| tls.net_to(id, net))?;
            let dial = Arc::new(Dial::new(id, Arc::clone(topology), net.clone(), rule));
            let endpoint = endpoint(&member.peer, &net)?;
            let channel = || channel(&endpoint, &dial);
            let (forward, queue) = mpsc::channel(FORWARD_QUEUE_MAX);
            let stamp = stamp.clone().to(id);
            let (echo, echoes) = match faults {
                Some(known) => {
                    let client = client(channel(), stamp.clone());
                    let rule = known.network.rule(&member.name);
                    let (echo, echoes) = echo(rule, client, Arc::clone(known.network.repeated()));
                    (Some(echo), Some(echoes))
                }
                None => (None, None),
            };
            let peer = Arc::new(Peer {
                id,
                client: client(channel(), stamp.clone()),
                bulk: client(channel(), stamp),
                name: member.name,
                dial: Arc::clone(&dial),
                forward,
                alive: watch::Sender::new(false),
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

    /// The node's current name and addresses.
    pub(crate) fn member(&self) -> Member {
        self.dial
            .topology
            .member(self.id)
            .unwrap_or_else(|| Member { name: self.name.clone(), ..Member::default() })
    }

    /// The address of the last connection; before the first one, where it will go.
    pub(crate) fn address(&self) -> String {
        self.dial.last_address()
    }

    /// The turn of the addresses at which the next connection is made, for [`Peer::give_up`].
    pub(crate) fn turn(&self) -> usize {
        self.dial.turn()
    }

    /// Gives up the address of this turn: who answers there refuses this node, or is no node.
    pub(crate) fn give_up(&self, turn: usize) {
        self.dial.give_up(turn);
    }

    /// Whether fault injection cuts this peer off: then a connection attempt says nothing about its process.
    pub(crate) fn is_cut(&self) -> bool {
        self.dial.rule.as_ref().is_some_and(|rule| network_faults::is_cut(&rule.borrow()))
    }

    /// Observes a call that is about to be made, which fault injection may repeat.
    pub(crate) fn observe(&self, call: impl FnOnce() -> Call) {
        if let Some(echo) = &self.echo {
            echo.observe(call);
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

fn endpoint(address: &str, net: &Net) -> Result<Endpoint, tonic::transport::Error> {
    Ok(net
        .endpoint(address)?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_DEADLINE * 2)
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(32 * 1024 * 1024)
        // Keep-alives detect a peer that vanished without closing its connections.
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true))
}
