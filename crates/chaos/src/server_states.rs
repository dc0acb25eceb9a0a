//! The servers' own view of the cluster, polled during a run: who leads which shard in which term. A report shows it beside
//! the clients' view.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conclave_client::api::{GetServerStatusRequest, NodeStatus, Role, ShardStatus};
use conclave_proto::chat::chat_service_client::ChatServiceClient;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::backend::{Kind, Target};
use crate::schedule::{Known, Server};
use crate::workload::ClientView;

/// Interval between two polls of a server.
const EVERY: Duration = Duration::from_millis(100);
/// A server that does not answer within this time counts as silent.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most changes that are kept; later ones are dropped.
const CHANGES_MAX: usize = 100_000;

/// A server's state from this time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerStateChange {
    /// On the run's clock, microseconds.
    pub at_us: u64,
    /// The server's name.
    pub node: String,
    /// The state.
    pub state: ServerState,
}

/// A server's state, by its own report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServerState {
    /// Whether the server answered.
    pub answers: bool,
    /// The shards that the server leads, with their terms.
    pub leads: BTreeMap<u32, u64>,
    /// The server's term of the meta shard.
    pub meta_term: u64,
}

/// Everything observed so far.
#[derive(Debug, Default)]
pub struct Observed {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    now: BTreeMap<String, ServerState>,
    changes: Vec<ServerStateChange>,
    /// How often a silent server answered again.
    returned: u64,
    /// How often a shard's leader changed.
    leader_changes: u64,
    /// By shard: the highest term seen, and its leader.
    leaders: BTreeMap<u32, (u64, String)>,
    /// By server and shard: the log's last index at the previous poll.
    ends: BTreeMap<String, BTreeMap<u32, u64>>,
    /// Snapshots that servers received: how often a log had been purged beyond its last index of the previous poll.
    snapshots: u64,
}

/// The range of a shard's log: the last purged index, and the last index.
#[derive(Clone, Copy, Debug)]
struct Reach {
    purged: u64,
    last: u64,
}

/// The logs of a server, by shard.
type Logs = BTreeMap<u32, Reach>;

impl Observed {
    fn record_state(&self, at_us: u64, node: &str, state: ServerState) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        for (&shard, &term) in &state.leads {
            let known = table.leaders.get(&shard);
            if known.is_none_or(|(known, _)| term > *known) {
                let other = known.is_some_and(|(_, leader)| leader != node);
                table.leader_changes += u64::from(other);
                table.leaders.insert(shard, (term, node.to_owned()));
            }
        }
        let before = table.now.get(node);
        if before == Some(&state) {
            return;
        }
        table.returned += u64::from(state.answers && before.is_some_and(|before| !before.answers));
        table.now.insert(node.to_owned(), state.clone());
        if table.changes.len() < CHANGES_MAX {
            table.changes.push(ServerStateChange { at_us, node: node.to_owned(), state });
        }
    }

    fn record_logs(&self, node: &str, logs: &Logs) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *table;
        let ends = table.ends.entry(node.to_owned()).or_default();
        for (&shard, reach) in logs {
            let before = ends.insert(shard, reach.last.max(reach.purged));
            table.snapshots += u64::from(before.is_some_and(|before| reach.purged > before));
        }
    }

    /// How many snapshots servers received.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).snapshots
    }

    /// The servers as they are now. `hurt` are the names of those that an active fault takes away from the others.
    pub fn known(&self, servers: &[String], resolvers: Vec<String>, hurt: &[String]) -> Known {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let server = |name: &String| {
            let state = table.now.get(name).cloned().unwrap_or_default();
            Server {
                name: name.clone(),
                well: state.answers && !hurt.contains(name),
                leads: u32::try_from(state.leads.len()).unwrap_or(u32::MAX),
                leads_meta: state.leads.contains_key(&0),
            }
        };
        Known { servers: servers.iter().map(server).collect(), resolvers }
    }

    /// Every change so far.
    #[must_use]
    pub fn changes(&self) -> Vec<ServerStateChange> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).changes.clone()
    }

    /// How often a shard's leader changed, and how often a silent server answered again.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        (table.leader_changes, table.returned)
    }
}

impl Observed {
    /// Polls every server once.
    pub async fn poll(&self, targets: &[Target]) {
        let servers = targets.iter().filter(|target| target.kind == Kind::Server);
        let asks = servers.filter_map(|target| {
            let net = target.net().ok()?;
            let endpoint = net.endpoint(&target.client).ok()?;
            let mut client = ChatServiceClient::new(net.channel(&endpoint, &target.client));
            Some(async move { (target.name.as_str(), poll_server(&mut client, &target.name).await) })
        });
        for (name, (state, _)) in futures::future::join_all(asks).await {
            self.record_state(0, name, state);
        }
    }
}

async fn poll_server(client: &mut ChatServiceClient<Channel>, name: &str) -> (ServerState, Logs) {
    let asked = client.get_server_status(GetServerStatusRequest { local_only: true });
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await else { return Default::default() };
    let nodes = answer.into_inner().nodes;
    let own = nodes.iter().find(|node| node.name == name && node.reachable);
    own.map(|node| (state(node), logs(node))).unwrap_or_default()
}

/// Polls one server until `stop`.
pub async fn watch(
    mut client: ChatServiceClient<Channel>,
    name: String,
    observed: Arc<Observed>,
    seen: Arc<ClientView>,
    stop: CancellationToken,
) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = every.tick() => {}
        }
        let (state, logs) = poll_server(&mut client, &name).await;
        observed.record_logs(&name, &logs);
        observed.record_state(seen.now_us(), &name, state);
    }
}

fn state(node: &NodeStatus) -> ServerState {
    let leads = node.shards.iter().filter(|shard| shard.role() == Role::Leader && shard.leader_id != 0);
    ServerState {
        answers: true,
        leads: leads.map(|shard| (shard.shard, shard.term)).collect(),
        meta_term: node.shards.iter().find(|shard| shard.shard == 0).map_or(0, |shard| shard.term),
    }
}

fn logs(node: &NodeStatus) -> Logs {
    let reach = |shard: &ShardStatus| Reach { purged: shard.purged_index, last: shard.last_log_index };
    node.shards.iter().map(|shard| (shard.shard, reach(shard))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(shard: u32, term: u64) -> ServerState {
        ServerState { answers: true, leads: [(shard, term)].into(), meta_term: term }
    }

    #[test]
    fn an_unchanged_state_is_recorded_once() {
        let observed = Observed::default();
        observed.record_state(1, "a", leading(0, 1));
        observed.record_state(2, "a", leading(0, 1));
        observed.record_state(3, "b", leading(0, 2));
        observed.record_state(4, "a", ServerState::default());
        observed.record_state(5, "a", leading(3, 4));
        assert_eq!(observed.changes().len(), 4);
        assert_eq!(observed.counts(), (1, 1));
        let known = observed.known(&["a".to_owned(), "b".to_owned()], Vec::new(), &["b".to_owned()]);
        assert!(known.servers[0].well && !known.servers[1].well);
        assert!(known.servers[1].leads_meta && !known.servers[0].leads_meta);
    }

    #[test]
    fn a_log_purged_beyond_its_previous_end_counts_as_a_snapshot() {
        let observed = Observed::default();
        let look = |purged, last| observed.record_logs("a", &[(1, Reach { purged, last })].into());
        look(40, 90);
        look(80, 130);
        look(130, 130);
        assert_eq!(observed.snapshots(), 0, "the server purged its own log");
        observed.record_logs("b", &[(1, Reach { purged: 500, last: 510 })].into());
        assert_eq!(observed.snapshots(), 0, "there is no earlier poll to compare with");
        look(500, 500);
        assert_eq!(observed.snapshots(), 1);
    }
}
