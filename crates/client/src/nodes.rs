//! The nodes that this client knows, which of them to ask next, and who leads.
//!
//! Addresses come from the program or its [`Finder`], and from the cluster itself: what the cluster says is
//! remembered, so that finding again is never in the way of a failover.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_core::limits::{
    AVOID_LEAVING_NODE, CLIENT_CONNECT_TIMEOUT, CLIENT_CONNECTION_WINDOW_BYTES, CLIENT_MESSAGE_BYTES_MAX,
    CLIENT_PING_INTERVAL, CLIENT_PING_TIMEOUT, CLIENT_STREAM_WINDOW_BYTES, NODES_MAX,
};
use conclave_core::ring::shard_of;
use conclave_core::{RoomId, ShardId};
use conclave_proto::chat::chat_service_client::ChatServiceClient;
use conclave_proto::chat::{ClusterView, GetServerStatusResponse, LeaderHint, Role};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::retry;

/// The generated client over one node's channel.
pub(crate) type Chat = ChatServiceClient<Channel>;

/// Every known node. Locked for moments only.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    table: Mutex<Table>,
    /// It may be worth asking who leads.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    nodes: Vec<Node>,
    /// Whom to ask first.
    home: usize,
    /// Data shards of the cluster; 0 until it is known.
    shards: u32,
    /// The highest term heard of in each shard, and who leads in it; nobody, if that node has failed since.
    leaders: HashMap<u32, (u64, Option<Arc<str>>)>,
    /// Rises when something changed that decides where sends go.
    version: u64,
}

#[derive(Debug)]
struct Node {
    address: Arc<str>,
    id: u64,
    channel: Option<Channel>,
    /// Failures since it last did something.
    failures: u32,
    /// It is not asked before, unless all are in this state.
    not_before: Option<Instant>,
    /// It said that it is leaving: until then it is avoided whatever it answers.
    leaving: Option<Instant>,
}

/// Which node to ask.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) address: Arc<str>,
    /// When; at once if `None`.
    pub(crate) at: Option<Instant>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds addresses that are not known yet. How many that were.
    pub(crate) fn add<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) -> usize {
        let mut table = self.table();
        addresses.into_iter().filter(|address| table.add(address, 0)).count()
    }

    /// Begins with another node than the first: clients spread over the cluster.
    pub(crate) fn begin_at(&self, random: usize) {
        let mut table = self.table();
        if !table.nodes.is_empty() {
            table.home = random % table.nodes.len();
        }
    }

    /// The best node to ask now, other than `but`; the least bad one if all have failed lately.
    pub(crate) fn pick(&self, but: &[Arc<str>]) -> Option<Pick> {
        let now = Instant::now();
        let table = self.table();
        let count = table.nodes.len();
        let candidates = (0..count).map(|at| &table.nodes[(table.home + at) % count]);
        let wait = |node: &&Node| node.not_before.filter(|at| *at > now);
        let best = candidates.filter(|node| !but.contains(&node.address)).min_by_key(wait)?;
        Some(Pick { address: Arc::clone(&best.address), at: wait(&best) })
    }

    /// The node to send a room's requests to: its leader, where that is known and has not failed lately.
    pub(crate) fn leader_of(&self, room_id: u64) -> Option<Arc<str>> {
        let now = Instant::now();
        let table = self.table();
        if room_id == 0 || table.shards == 0 {
            return None;
        }
        let (_, leader) = table.leaders.get(&shard_of(RoomId(room_id), table.shards).0)?;
        let address = leader.as_ref()?;
        let node = table.nodes.iter().find(|node| node.address == *address)?;
        node.not_before.is_none_or(|at| at <= now).then(|| Arc::clone(address))
    }

    /// Whether some shard's leader has failed, and no other one is known yet.
    pub(crate) fn misses_leaders(&self) -> bool {
        self.table().leaders.values().any(|(_, leader)| leader.is_none())
    }

    /// Rises when [`Nodes::leader_of`] may answer otherwise than before.
    pub(crate) fn version(&self) -> u64 {
        self.table().version
    }

    /// The generated client of a node.
    pub(crate) fn chat(&self, address: &str) -> Result<Chat, tonic::Status> {
        Ok(ChatServiceClient::new(self.channel(address)?).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX))
    }

    /// The node's channel; made at first use, connected by tonic when it is used.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, tonic::Status> {
        let mut table = self.table();
        table.add(address, 0);
        let Some(node) = table.nodes.iter_mut().find(|node| &*node.address == address) else {
            return Err(tonic::Status::unavailable("too many nodes are known"));
        };
        match &node.channel {
            Some(channel) => Ok(channel.clone()),
            None => Ok(node.channel.insert(make_channel(address)?).clone()),
        }
    }

    /// The node did something.
    pub(crate) fn worked(&self, address: &str) {
        let mut table = self.table();
        let Some(at) = table.position(address) else { return };
        let node = &mut table.nodes[at];
        let still = node.leaving.filter(|until| *until > Instant::now());
        if node.failures > 0 || node.not_before != still {
            node.failures = 0;
            node.not_before = still;
            table.version += 1;
        }
    }

    /// The node could not be reached, or its connection broke: others are asked first for a while.
    pub(crate) fn failed(&self, address: &str) {
        let mut table = self.table();
        let Some(at) = table.position(address) else { return };
        let node = &mut table.nodes[at];
        // At least a little, so that "at once" means another node.
        let wait = retry::delay(node.failures, rand::random()).max(Duration::from_millis(20));
        node.failures = node.failures.saturating_add(1);
        table.avoid(at, wait);
        self.changed.notify_one();
    }

    /// The node does not answer, although it is connected: if it is stopped or cut off, that will show within the
    /// time that a connection is given.
    pub(crate) fn silent(&self, address: &str) {
        let mut table = self.table();
        let Some(at) = table.position(address) else { return };
        table.avoid(at, CLIENT_PING_INTERVAL + CLIENT_PING_TIMEOUT);
        self.changed.notify_one();
    }

    /// The node is leaving: it is asked only if there is no other.
    pub(crate) fn leaving(&self, address: &str) {
        let mut table = self.table();
        let Some(at) = table.position(address) else { return };
        table.nodes[at].leaving = Some(Instant::now() + AVOID_LEAVING_NODE);
        table.avoid(at, AVOID_LEAVING_NODE);
    }

    /// Whether nobody can be asked at once.
    pub(crate) fn all_failed(&self) -> bool {
        let now = Instant::now();
        self.table().nodes.iter().all(|node| node.not_before.is_some_and(|at| at > now))
    }

    /// Whether this node is being avoided.
    pub(crate) fn avoided(&self, address: &str) -> bool {
        let now = Instant::now();
        let table = self.table();
        table.position(address).is_some_and(|at| table.nodes[at].not_before.is_some_and(|until| until > now))
    }

    /// Believes a hint if its term is not older than what is known. Whether that changed anything.
    pub(crate) fn learn(&self, hint: &LeaderHint) -> bool {
        let mut table = self.table();
        table.learn(hint.shard, hint.term, &hint.address)
    }

    /// Takes what a node says about the cluster.
    pub(crate) fn see(&self, view: &ClusterView) {
        let mut table = self.table();
        for node in &view.nodes {
            table.add(&node.address, node.node_id);
        }
    }

    /// Takes a status: the nodes, the number of shards, the leaders. Whether the address of each leader is known.
    pub(crate) fn see_status(&self, status: &GetServerStatusResponse) -> bool {
        let mut table = self.table();
        if status.shards > 0 && table.shards != status.shards {
            table.shards = status.shards;
            table.version += 1;
        }
        for node in &status.nodes {
            table.add(&node.address, node.node_id);
        }
        let mut complete = true;
        for node in &status.nodes {
            for shard in &node.shards {
                let leader = if shard.role() == Role::Leader { node.node_id } else { shard.leader_id };
                if leader == 0 {
                    continue;
                }
                let Some(at) = table.nodes.iter().position(|node| node.id == leader) else {
                    complete = false;
                    continue;
                };
                let address = Arc::clone(&table.nodes[at].address);
                table.learn(shard.shard, shard.term, &address);
            }
        }
        complete
    }

    /// How many data shards the cluster has; 0 until it is known.
    pub(crate) fn shards(&self) -> u32 {
        self.table().shards
    }

    /// All addresses, the one to ask first before the others.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let table = self.table();
        let count = table.nodes.len();
        (0..count).map(|at| table.nodes[(table.home + at) % count].address.to_string()).collect()
    }

    /// How many nodes are known.
    pub(crate) fn count(&self) -> usize {
        self.table().nodes.len()
    }
}

impl Table {
    fn add(&mut self, address: &str, id: u64) -> bool {
        if address.is_empty() {
            return false;
        }
        if let Some(at) = self.position(address) {
            if id != 0 {
                self.nodes[at].id = id;
            }
            return false;
        }
        if self.nodes.len() >= NODES_MAX * 2 {
            return false;
        }
        let node =
            Node { address: address.into(), id, channel: None, failures: 0, not_before: None, leaving: None };
        self.nodes.push(node);
        true
    }

    fn position(&self, address: &str) -> Option<usize> {
        self.nodes.iter().position(|node| &*node.address == address)
    }

    /// Others are asked first for this long, and nobody is sent to it as a leader until it is said to lead again.
    fn avoid(&mut self, at: usize, time: Duration) {
        if self.home == at {
            self.home = (at + 1) % self.nodes.len();
        }
        let node = &mut self.nodes[at];
        node.not_before = node.not_before.max(Some(Instant::now() + time));
        for (_, leader) in self.leaders.values_mut() {
            leader.take_if(|leader| **leader == *node.address);
        }
        self.version += 1;
    }

    fn learn(&mut self, shard: u32, term: u64, address: &str) -> bool {
        if address.is_empty() || ShardId(shard).is_meta() {
            return false;
        }
        let now = Instant::now();
        let avoided = |at: usize| self.nodes[at].not_before.is_some_and(|until| until > now);
        if let Some((known, at)) = self.leaders.get(&shard)
            && (*known > term
                || (*known == term && (at.is_some() || self.position(address).is_some_and(avoided))))
        {
            return false;
        }
        self.add(address, 0);
        self.leaders.insert(shard, (term, Some(address.into())));
        self.version += 1;
        true
    }
}

fn make_channel(address: &str) -> Result<Channel, tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        tonic::Status::invalid_argument(format!("{address:?} is not host:port ({error})"))
    })?;
    Ok(endpoint
        .connect_timeout(CLIENT_CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(CLIENT_PING_INTERVAL)
        .keep_alive_timeout(CLIENT_PING_TIMEOUT)
        .initial_stream_window_size(CLIENT_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CLIENT_CONNECTION_WINDOW_BYTES)
        .connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        let nodes = Nodes::new();
        assert_eq!(nodes.add(["a:1", "b:2", "c:3", "a:1"]), 3);
        nodes
    }

    #[tokio::test]
    async fn a_node_that_failed_is_asked_after_the_others() {
        let nodes = nodes();
        assert_eq!(&*nodes.pick(&[]).unwrap().address, "a:1");
        nodes.failed("a:1");
        assert_eq!(&*nodes.pick(&[]).unwrap().address, "b:2");
        nodes.failed("b:2");
        assert_eq!(&*nodes.pick(&[]).unwrap().address, "c:3");
        assert!(!nodes.all_failed());
        assert_eq!(nodes.addresses(), ["c:3", "a:1", "b:2"]);
        nodes.worked("a:1");
        assert_eq!(&*nodes.pick(&["c:3".into()]).unwrap().address, "a:1");
    }

    #[tokio::test]
    async fn if_all_failed_there_is_still_one_to_ask_later() {
        let nodes = nodes();
        for _ in 0..3 {
            for address in ["a:1", "b:2", "c:3"] {
                nodes.failed(address);
            }
        }
        assert!(nodes.all_failed());
        assert!(nodes.pick(&[]).unwrap().at.is_some());
    }

    #[tokio::test]
    async fn a_status_says_who_leads() {
        use conclave_proto::chat::{NodeStatus, ShardStatus};
        let nodes = nodes();
        let shard = |leader_id| ShardStatus { shard: 1, term: 2, leader_id, ..ShardStatus::default() };
        let node = |node_id, address: &str, leader_id| NodeStatus {
            node_id,
            address: address.into(),
            shards: vec![shard(leader_id)],
            ..NodeStatus::default()
        };
        let status =
            |nodes| GetServerStatusResponse { shards: 1, nodes, ..GetServerStatusResponse::default() };
        assert!(!nodes.see_status(&status(vec![node(1, "a:1", 2)])), "where node 2 is, is not known");
        assert!(nodes.see_status(&status(vec![node(1, "a:1", 2), node(2, "b:2", 2)])));
        assert_eq!(nodes.leader_of(9).as_deref(), Some("b:2"));
    }

    #[tokio::test]
    async fn the_highest_term_is_believed() {
        let nodes = nodes();
        nodes.see_status(&GetServerStatusResponse { shards: 1, ..GetServerStatusResponse::default() });
        let hint = |term, address: &str| LeaderHint { shard: 1, term, node_id: 0, address: address.into() };
        assert!(nodes.learn(&hint(4, "b:2")));
        assert!(!nodes.learn(&hint(3, "a:1")));
        assert_eq!(nodes.leader_of(9).as_deref(), Some("b:2"));
        assert!(nodes.learn(&hint(5, "d:4")), "a hint may name a node that was not known");
        assert_eq!(nodes.leader_of(9).as_deref(), Some("d:4"));
        nodes.silent("d:4");
        assert_eq!(nodes.leader_of(9), None);
        assert!(nodes.misses_leaders());
        assert!(!nodes.learn(&hint(5, "d:4")), "others may not have noticed yet");
        nodes.worked("d:4");
        assert_eq!(nodes.leader_of(9), None, "whether it still leads is not known");
        assert!(!nodes.learn(&hint(4, "b:2")), "that was before");
        assert!(nodes.learn(&hint(5, "d:4")));
        assert_eq!(nodes.leader_of(9).as_deref(), Some("d:4"));
    }
}
