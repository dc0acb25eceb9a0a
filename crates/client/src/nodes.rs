//! The nodes that this client knows, which of them to ask next, and which of them lead.
//!
//! Addresses come from the program or its [`Finder`](crate::Finder), and from the cluster itself. The addresses that
//! the cluster names are kept, so that a failover never has to wait for another search.

mod reading;
mod table;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use conclave_core::limits::CLIENT_MESSAGE_BYTES_MAX;
use conclave_core::ring::shard_of;
use conclave_core::{RoomId, level as levels};
use conclave_net::{CaId, Net, TlsError};
use conclave_proto::chat::chat_service_client::ChatServiceClient;
use conclave_proto::chat::{self, ClusterView, GetServerStatusResponse, LeaderHint, Role};
use conclave_proto::people::people_service_client::PeopleServiceClient;
use conclave_proto::status::TOO_MANY_CONNECTIONS;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::error::CallError;
use crate::find::Found;
use crate::limits::{
    AVOID_FULL_NODE, AVOID_LEAVING_NODE, CLIENT_CONNECT_TIMEOUT, CLIENT_CONNECTION_WINDOW_BYTES,
    CLIENT_OPEN_TIMEOUT, CLIENT_PING_INTERVAL, CLIENT_PING_TIMEOUT, CLIENT_STREAM_WINDOW_BYTES,
};
use crate::retry;
pub(crate) use reading::{Reader, bearer};
use table::{NodeOrder, NodeTable};

/// The generated client over one node's channel.
pub(crate) type Chat = ChatServiceClient<Channel>;

/// A generated client, of whichever service.
pub(crate) trait Service {
    /// The client over one node's channel.
    fn over(channel: Channel) -> Self;
}

impl Service for Chat {
    fn over(channel: Channel) -> Self {
        Self::new(channel).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
    }
}

impl Service for PeopleServiceClient<Channel> {
    fn over(channel: Channel) -> Self {
        Self::new(channel).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
    }
}

/// The codes of a node that is full or leaving and names others.
const FULL: &str = "node_full";
const DRAINING: &str = "node_draining";
/// The code of a session of another cluster than the expected one.
const OTHER_CLUSTER: &str = "other_cluster";

/// All known nodes. The lock is held briefly and never across an await.
#[derive(Debug)]
pub(crate) struct Nodes {
    table: Mutex<NodeTable>,
    net: Net,
    /// The certificate authority that all nodes must prove to belong to; `None` for a cluster without TLS.
    authority: Option<CaId>,
    /// The id of the cluster that all nodes must belong to, once it is known.
    cluster: OnceLock<String>,
    /// Notified when the leaders may have changed.
    pub(crate) changed: Notify,
    /// Notified when a search for nodes may be due, or members may have to be persisted.
    pub(crate) attention: Notify,
    /// The highest feature level that a node has reported; 0 while none has.
    feature_level: AtomicU32,
    /// Who reads, if this client has no session and only reads.
    reader: Option<Reader>,
    /// Why the node that was asked last has no place for this client; `None` if a node has answered since.
    full: Mutex<Option<String>>,
}

/// The node to ask next.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) address: Arc<str>,
    /// When to ask it; `None` is at once.
    pub(crate) at: Option<Instant>,
}

impl Nodes {
    /// An empty table whose nodes are asked in the order in which they became known.
    pub(crate) fn in_order() -> Self {
        Self::with(NodeOrder::Known)
    }

    /// An empty table whose nodes are asked in a random order, so that clients spread over the cluster.
    pub(crate) fn spread() -> Self {
        Self::with(NodeOrder::Random)
    }

    fn with(order: NodeOrder) -> Self {
        Self {
            table: Mutex::new(NodeTable::new(order)),
            net: Net::System,
            authority: None,
            cluster: OnceLock::new(),
            changed: Notify::new(),
            attention: Notify::new(),
            feature_level: AtomicU32::new(0),
            reader: None,
            full: Mutex::default(),
        }
    }

    /// Has no session, and reads at each node with a session that this node gives it.
    pub(crate) fn reading(self, reader: Reader) -> Self {
        Self { reader: Some(reader), ..self }
    }

    /// Who reads, if this client has no session and only reads.
    pub(crate) fn reader(&self) -> Option<&Reader> {
        self.reader.as_ref()
    }

    /// The id of the cluster that all nodes must belong to, once it is known.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.get().map(String::as_str)
    }

    /// Connects over this network; with an authority over TLS only, and only to nodes that prove that they belong to it.
    pub(crate) fn on(self, net: Net, authority: Option<CaId>) -> Result<Self, TlsError> {
        let net = match authority {
            Some(ca) => net.to_cluster(ca)?,
            None => net,
        };
        Ok(Self { net, authority, ..self })
    }

    /// The certificate authority that all nodes must prove to belong to.
    pub(crate) fn authority(&self) -> Option<CaId> {
        self.authority
    }

    /// Uses only nodes of this cluster from here on. Has no effect if another cluster was expected before.
    pub(crate) fn expect(&self, cluster_id: &str) {
        if !cluster_id.is_empty() {
            // The first expectation stays: a client belongs to one cluster.
            let _ = self.cluster.set(cluster_id.to_owned());
        }
    }

    /// Checks that a session belongs to the expected cluster, if one is expected.
    ///
    /// # Errors
    /// If it belongs to another one.
    pub(crate) fn check_session(&self, cluster_id: &str) -> Result<(), CallError> {
        match self.cluster.get() {
            Some(expected) if expected != cluster_id => Err(CallError::Refused {
                code: OTHER_CLUSTER.to_owned(),
                message: format!(
                    "the session is of another cluster ({cluster_id:?}) than the expected one ({expected:?})"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Asks a node without TLS for its cluster before the first request on a connection, because another cluster may have
    /// taken its address. With TLS the connection itself proves it.
    ///
    /// # Errors
    /// If the node does not answer, or belongs to another cluster.
    pub(crate) async fn admit(&self, address: &str) -> Result<(), tonic::Status> {
        let Some(expected) = self.cluster.get().filter(|_| self.authority.is_none()) else { return Ok(()) };
        if self.table().node(address).is_some_and(|node| node.admitted) {
            return Ok(());
        }
        let question = chat::GetServerStatusRequest { local_only: true };
        let mut chat = self.chat(address)?;
        let asked = tokio::time::timeout(CLIENT_OPEN_TIMEOUT, chat.get_server_status(question)).await;
        let status = asked.map_err(|_| tonic::Status::unavailable("the node did not answer"))??.into_inner();
        if status.cluster_id != *expected {
            let what = match status.cluster_id.as_str() {
                "" => format!("{address} does not know its cluster yet"),
                other => format!("{address} belongs to another cluster ({other})"),
            };
            return Err(tonic::Status::unavailable(what));
        }
        if let Some(node) = self.table().node(address) {
            node.admitted = true;
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, NodeTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the nodes of a search. Returns whether any of them is new.
    pub(crate) fn add_found(&self, found: &Found) -> bool {
        self.table().add_found(found)
    }

    /// Adds addresses that a node has named.
    pub(crate) fn add<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let mut table = self.table();
        for address in addresses {
            table.add(address);
        }
    }

    /// The best node to ask now, except those in `but`; if all have failed recently, the one that may be asked again
    /// first. Stays the same node until that node fails.
    pub(crate) fn pick(&self, but: &[Arc<str>]) -> Option<Pick> {
        self.table().pick(but, Instant::now())
    }

    /// The leader of the room's shard, if it is known and has not failed recently.
    pub(crate) fn leader_of(&self, room_id: u64) -> Option<Arc<str>> {
        let table = self.table();
        if room_id == 0 || table.shards == 0 {
            return None;
        }
        table.leader(shard_of(RoomId(room_id), table.shards).0, Instant::now())
    }

    /// Whether the leader of some shard has failed and no other one is known yet.
    pub(crate) fn misses_leaders(&self) -> bool {
        self.table().misses_leaders()
    }

    /// A counter that increases when the result of [`Nodes::leader_of`] may have changed.
    pub(crate) fn version(&self) -> u64 {
        self.table().version
    }

    /// The generated client of a node.
    pub(crate) fn chat(&self, address: &str) -> Result<Chat, tonic::Status> {
        self.channel(address).map(Chat::over)
    }

    /// The node's channel. It is created at the first call, and tonic connects it when it is used.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, tonic::Status> {
        let mut table = self.table();
        table.add(address);
        let Some(node) = table.node(address) else {
            return Err(tonic::Status::unavailable("too many nodes are known"));
        };
        match &node.channel {
            Some(channel) => Ok(channel.clone()),
            None => {
                let channel = make_channel(&node.address, &self.net)?;
                Ok(node.channel.insert(channel).clone())
            }
        }
    }

    /// Why the node that was asked last has no place for this client; `None` if a node has answered since.
    pub(crate) fn full(&self) -> Option<String> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_full(&self, why: Option<&str>) {
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
    }

    /// Records that the node has answered.
    pub(crate) fn mark_worked(&self, address: &str) {
        self.set_full(None);
        let mut table = self.table();
        let Some(node) = table.node(address) else { return };
        let still = node.leaving.filter(|until| *until > Instant::now());
        let first = !std::mem::replace(&mut node.worked, true);
        if node.failures > 0 || node.not_before != still {
            node.failures = 0;
            node.not_before = still;
            table.version += 1;
        }
        if first {
            self.attention.notify_one();
        }
    }

    /// Records that a subscription is open at this node, which makes it the preferred node.
    pub(crate) fn mark_subscribed(&self, address: &str) {
        self.table().mark_subscribed(address);
    }

    /// Records that the node could not be reached, or that its connection broke: other nodes are preferred for a while.
    pub(crate) fn mark_failed(&self, address: &str) {
        let mut table = self.table();
        let Some(node) = table.node(address) else { return };
        node.admitted = false;
        node.reading = None;
        // The minimum makes an immediate retry go to another node.
        let wait = retry::delay(node.failures, rand::random()).max(Duration::from_millis(20));
        node.failures = node.failures.saturating_add(1);
        table.avoid(address, Instant::now() + wait);
        table.forget_useless();
        self.want_search(table);
        self.changed.notify_one();
    }

    /// Records that the node is connected and does not answer. It is avoided until the pings of its connection must
    /// have shown whether it is alive.
    pub(crate) fn mark_silent(&self, address: &str) {
        self.table().avoid(address, Instant::now() + CLIENT_PING_INTERVAL + CLIENT_PING_TIMEOUT);
        self.changed.notify_one();
    }

    /// Records that the node is leaving: it is asked only if there is no other.
    pub(crate) fn mark_leaving(&self, address: &str) {
        let until = Instant::now() + AVOID_LEAVING_NODE;
        let mut table = self.table();
        let Some(node) = table.node(address) else { return };
        node.leaving = Some(until);
        table.avoid(address, until);
    }

    /// Records that a node has named these as accepting clients. A node that was leaving is back then.
    pub(crate) fn mark_available<'a>(&self, addresses: impl IntoIterator<Item = &'a str> + Clone) {
        self.add(addresses.clone());
        let mut table = self.table();
        for address in addresses {
            let Some(node) = table.node(address) else { continue };
            if node.leaving.take().is_some() {
                node.not_before = None;
                table.version += 1;
            }
        }
    }

    /// Records that the node accepts no further subscriptions. It can still be asked and sent to.
    fn mark_full(&self, address: &str) {
        let until = Instant::now() + AVOID_FULL_NODE.mul_f64(rand::random_range(0.5..1.5));
        self.table().mark_full(address, until);
    }

    /// Handles the answer of a node that is leaving, or full, for subscriptions or for connections. Returns the addresses to
    /// try instead, best first; `None` for any other failure.
    pub(crate) fn redirected(&self, address: &str, failure: &chat::Failure) -> Option<Vec<Arc<str>>> {
        match failure.code.as_str() {
            FULL => self.mark_full(address),
            DRAINING => self.mark_leaving(address),
            TOO_MANY_CONNECTIONS => {
                self.set_full(Some(&failure.message));
                self.mark_failed(address);
            }
            _ => return None,
        }
        self.mark_available(failure.try_addresses.iter().map(String::as_str));
        Some(failure.try_addresses.iter().map(|address| address.as_str().into()).collect())
    }

    /// Whether all nodes are avoided now.
    pub(crate) fn all_failed(&self) -> bool {
        self.table().all_failed(Instant::now())
    }

    /// Whether this node is avoided now.
    pub(crate) fn avoided(&self, address: &str) -> bool {
        self.table().avoided(address, Instant::now())
    }

    /// Whether this node is avoided now, or is full.
    pub(crate) fn refuses_clients(&self, address: &str) -> bool {
        self.table().refuses_clients(address, Instant::now())
    }

    /// Applies a leader hint unless its term is older than the known one. Returns whether the leader changed.
    pub(crate) fn learn_leader(&self, hint: &LeaderHint) -> bool {
        let mut table = self.table();
        if !hint.address.is_empty() {
            return table.learn_leader(hint.shard, hint.term, &hint.address);
        }
        if hint.node_id == 0 {
            return false;
        }
        match table.address_of(hint.node_id) {
            Some(address) => table.learn_leader(hint.shard, hint.term, &address),
            None => {
                self.want_search(table);
                self.changed.notify_one();
                false
            }
        }
    }

    /// Applies a feature level that a node reports. The cluster's level only rises, so a node that lags is ignored.
    pub(crate) fn observe_level(&self, level: u32) {
        // Version 0.1.0 does not report its level, which is the first.
        self.feature_level.fetch_max(level.max(levels::FIRST), Ordering::Relaxed);
    }

    /// The cluster's feature level, if a node has reported one.
    pub(crate) fn feature_level(&self) -> Option<u32> {
        Some(self.feature_level.load(Ordering::Relaxed)).filter(|level| *level > 0)
    }

    /// Applies a node's view of the cluster.
    pub(crate) fn observe_view(&self, view: &ClusterView) {
        self.observe_level(view.feature_level);
        if self.table().observe_view(view) {
            self.attention.notify_one();
        }
    }

    /// Applies a status: the nodes, the number of shards, the leaders. Returns whether the address of each leader is
    /// known.
    pub(crate) fn observe_status(&self, status: &GetServerStatusResponse) -> bool {
        self.observe_level(status.feature_level);
        let mut table = self.table();
        if status.shards > 0 && table.shards != status.shards {
            table.shards = status.shards;
            table.version += 1;
        }
        for node in &status.nodes {
            if table.member(node.node_id, &node.name, &node.address) {
                self.attention.notify_one();
            }
        }
        let mut complete = true;
        for node in &status.nodes {
            for shard in &node.shards {
                let leader = if shard.role() == Role::Leader { node.node_id } else { shard.leader_id };
                if leader == 0 {
                    continue;
                }
                let Some(address) = table.address_of(leader) else {
                    complete = false;
                    continue;
                };
                table.learn_leader(shard.shard, shard.term, &address);
            }
        }
        complete
    }

    /// The number of data shards of the cluster; 0 until it is known.
    pub(crate) fn shards(&self) -> u32 {
        self.table().shards
    }

    /// All addresses, the preferred first.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.table().addresses(Instant::now())
    }

    /// The addresses to persist: the cluster's members, or the nodes that have answered until the members are known.
    pub(crate) fn members(&self) -> Vec<String> {
        self.table().members()
    }

    /// Whether a search for nodes is wanted. Resets the flag.
    pub(crate) fn take_search_wanted(&self) -> bool {
        std::mem::take(&mut self.table().search_wanted)
    }

    /// The number of known nodes.
    pub(crate) fn count(&self) -> usize {
        self.table().count()
    }

    fn want_search(&self, mut table: MutexGuard<'_, NodeTable>) {
        table.search_wanted = true;
        drop(table);
        self.attention.notify_one();
    }
}

fn make_channel(address: &str, net: &Net) -> Result<Channel, tonic::Status> {
    let endpoint = net.endpoint(address).map_err(|error| {
        tonic::Status::invalid_argument(format!("{address:?} is not host:port ({error})"))
    })?;
    let endpoint = endpoint
        .connect_timeout(CLIENT_CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(CLIENT_PING_INTERVAL)
        .keep_alive_timeout(CLIENT_PING_TIMEOUT)
        .initial_stream_window_size(CLIENT_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CLIENT_CONNECTION_WINDOW_BYTES);
    Ok(net.channel(&endpoint, address))
}

#[cfg(test)]
mod tests;
