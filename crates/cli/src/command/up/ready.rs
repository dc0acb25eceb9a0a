//! Checks whether a cluster is ready: every server's `/readyz` is OK, every shard has a leader, every replica has
//! applied all entries, and the name server has records of every server and of the leader. Then every command works
//! with every server, and finds the servers by itself.

use std::time::Duration;

use conclave_client::{CaId, Client, Net};
use conclave_proto::chat::GetServerStatusResponse;
use conclave_proto::dns::LookupRequest;
use conclave_proto::dns::dns_service_client::DnsServiceClient;
use conclave_proto::status::{DISK_FULL, DIVERGED};
use futures::future::join_all;
use tokio::time::timeout;

use super::plan::{NameServerPlan, Node, UpPlan};
use crate::http::Pages;
use crate::view::status::{json, leaderless};

/// Timeout for one step of a check.
const PATIENCE: Duration = Duration::from_secs(1);

/// Checks once.
///
/// # Errors
/// With what is missing, for people.
pub(super) async fn check(client: &Client, plan: &UpPlan) -> Result<GetServerStatusResponse, String> {
    let probe = async |node: &Node| Pages::default().get(&node.http.to_string(), "/readyz", PATIENCE).await;
    let started = || plan.nodes.iter().filter(|node| !node.is_lost);
    let answers = join_all(started().map(probe)).await;
    for (node, answer) in started().zip(answers) {
        match answer {
            Ok(answer) if answer.status == 200 => {}
            Ok(_) => return Err(format!("{} is not ready", node.name)),
            Err(error) => return Err(format!("{} does not answer: {error}", node.name)),
        }
    }
    let status = timeout(PATIENCE, client.status()).await;
    let status = status.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    let lost: Vec<&str> = plan.lost().map(|node| node.name.as_str()).collect();
    let servers = plan.nodes.len() - lost.len();
    if let Some(what) = waiting_for(&status, servers, &lost) {
        return Err(what);
    }
    if let Some(resolver) = &plan.resolver {
        let named = timeout(PATIENCE, named(resolver, plan.authority())).await;
        let named = named.map_err(|_| "the name server does not answer".to_owned())?;
        let [healthy, leaders] =
            named.map_err(|status| format!("the name server answers: {}", status.message()))?;
        if healthy < servers || leaders == 0 {
            return Err("the name server does not name every server and the leader yet".to_owned());
        }
    }
    Ok(status)
}

/// The number of healthy servers that the name server has, and the number of leaders.
async fn named(resolver: &NameServerPlan, authority: Option<CaId>) -> Result<[usize; 2], tonic::Status> {
    let internal = |error: &dyn std::error::Error| tonic::Status::internal(error.to_string());
    let net = match authority {
        Some(ca) => Net::System.to_name_servers(ca).map_err(|error| internal(&error))?,
        None => Net::System,
    };
    let endpoint = net.endpoint(resolver.grpc).map_err(|error| internal(&error))?;
    let mut dns = DnsServiceClient::new(net.channel(&endpoint, &resolver.grpc.to_string()));
    let mut counts = [0; 2];
    for (count, name) in counts.iter_mut().zip(["", "leader"]) {
        let answer = dns.lookup(LookupRequest { name: name.to_owned() }).await?;
        *count = answer.into_inner().targets.len();
    }
    Ok(counts)
}

/// Whether a problem stays however long one waits, while the cluster can be used: a disk has no room, or replicas have
/// applied different things.
pub(super) fn outlasts_the_start(problem: &str) -> bool {
    problem.contains(DISK_FULL) || problem.starts_with(DIVERGED)
}

/// What is missing; `lost` are the servers that are not started.
fn waiting_for(status: &GetServerStatusResponse, nodes: usize, lost: &[&str]) -> Option<String> {
    let is_lost = |problem: &str| lost.iter().any(|name| problem == format!("{name} does not answer"));
    let is_awaited = |problem: &&String| !outlasts_the_start(problem) && !is_lost(problem);
    if let Some(problem) = status.problems.iter().find(is_awaited) {
        return Some(problem.clone());
    }
    let shards: Vec<String> = leaderless(status).iter().map(u32::to_string).collect();
    if !shards.is_empty() {
        return Some(format!("no leader yet in shard {}", shards.join(", ")));
    }
    let here = status.nodes.iter().filter(|node| node.reachable).count();
    if here < nodes {
        return Some("not every server answers".to_owned());
    }
    (json(status).lag() > 0).then(|| "some replicas have not caught up".to_owned())
}

#[cfg(test)]
mod tests {
    use conclave_proto::chat::{NodeStatus, Role, ShardStatus};

    use super::*;

    fn status(applied: [u64; 2]) -> GetServerStatusResponse {
        let node = |applied: u64, role: Role| NodeStatus {
            reachable: true,
            shards: vec![ShardStatus { applied_index: applied, role: role.into(), ..ShardStatus::default() }],
            ..NodeStatus::default()
        };
        let nodes = vec![node(applied[0], Role::Leader), node(applied[1], Role::Follower)];
        GetServerStatusResponse { nodes, healthy: true, ..GetServerStatusResponse::default() }
    }

    #[test]
    fn a_cluster_is_ready_once_all_replicas_have_caught_up() {
        assert_eq!(waiting_for(&status([5, 5]), 2, &[]), None);
        assert!(waiting_for(&status([5, 4]), 2, &[]).is_some_and(|what| what.contains("caught up")));
        assert!(waiting_for(&status([5, 5]), 3, &[]).is_some_and(|what| what.contains("not every server")));
        let mut full = status([5, 5]);
        full.problems = vec!["the disk of a has little room (disk_full)".to_owned()];
        assert_eq!(waiting_for(&full, 2, &[]), None, "it can be read");
        full.problems.push("DIVERGED: a and b have applied different things in shard 1".to_owned());
        assert_eq!(waiting_for(&full, 2, &[]), None, "no wait mends it");
        full.problems.push("b does not answer".to_owned());
        assert_eq!(waiting_for(&full, 2, &[]).as_deref(), Some("b does not answer"));
        assert_eq!(waiting_for(&full, 2, &["b"]), None, "b is not started");
        let mut no_leader = status([5, 5]);
        no_leader.nodes[0].shards[0].role = Role::Candidate.into();
        assert_eq!(waiting_for(&no_leader, 2, &[]).as_deref(), Some("no leader yet in shard 0"));
    }
}
