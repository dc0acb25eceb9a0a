//! Replicas that need entries which the log no longer has.

use conclave_client::{Content, HistoryQuery};

use crate::harness::{Cluster, eventually};
use crate::load::Load;

/// Small enough that a few seconds of load are purged from the log.
const SHORT_LOG: u64 = 64 * 1024;

/// For the only shard, at each node that answers: the last purged index, and the last index of the log.
async fn logs(cluster: &Cluster, ask: usize) -> Vec<(u64, u64)> {
    let nodes = cluster.statuses(ask).await;
    let shards = nodes.iter().flat_map(|node| &node.shards).filter(|shard| shard.shard == 1);
    shards.map(|shard| (shard.purged_index, shard.last_log_index)).collect()
}

/// Writes until every log is purged up to its present end, so that a replica without these entries needs a snapshot.
async fn write_past_the_log(cluster: &Cluster, node: usize) {
    let mut end = 0;
    eventually("the logs' ends are known", async || {
        let logs = logs(cluster, node).await;
        end = logs.iter().map(|(_, last)| *last).max().unwrap_or(0);
        logs.len() == 2
    })
    .await;
    let client = cluster.client("filler").await;
    let text = "x".repeat(4_000);
    eventually("the log is purged", async || {
        let mut tickets = Vec::new();
        for _ in 0..100 {
            tickets.push(client.submit("general", Content::Text(text.clone())).await.unwrap());
        }
        for ticket in tickets {
            ticket.wait().await.unwrap();
        }
        let logs = logs(cluster, node).await;
        logs.len() == 2 && logs.iter().all(|(purged, _)| *purged > end)
    })
    .await;
}

async fn same_end(cluster: &Cluster, index: usize) {
    cluster.settled().await;
    let reader = cluster.client("reader").await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 1) };
    let end = reader.history(query).await.unwrap().last_seq;
    let direct = cluster.client_of(index).await;
    eventually("the replica has everything", async || {
        direct.history(HistoryQuery::newest("general", 1)).await.is_ok_and(|page| page.last_seq >= end)
    })
    .await;
}

/// The counter is raised a moment after the snapshot's contents can be read.
async fn got_a_snapshot(cluster: &Cluster, index: usize) {
    eventually("a snapshot is counted", async || {
        cluster.metric(index, "conclave_raft_snapshot_install_seconds_count").await >= 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_replica_gets_a_snapshot() {
    let mut cluster = Cluster::prepare(3, 1).with_log_tail(SHORT_LOG);
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.settled().await;
    let load = Load::start(&cluster, "deploys", 2, 2).await;
    load.progress(100).await;
    cluster.kill(2);
    write_past_the_log(&cluster, 0).await;
    cluster.start_node(2).await;
    same_end(&cluster, 2).await;
    got_a_snapshot(&cluster, 2).await;
    load.progress(50).await;
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_replica_gets_a_snapshot() {
    let mut cluster = Cluster::prepare(3, 1).with_log_tail(SHORT_LOG);
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    cluster.settled().await;
    let load = Load::start(&cluster, "deploys", 2, 2).await;
    load.progress(100).await;
    write_past_the_log(&cluster, 0).await;
    // This node starts for the first time: its data dir is empty and its id was never used.
    cluster.start_node(2).await;
    same_end(&cluster, 2).await;
    got_a_snapshot(&cluster, 2).await;
    // The installed snapshot survives a crash of the node.
    cluster.kill(2);
    cluster.start_node(2).await;
    same_end(&cluster, 2).await;
    load.progress(50).await;
    load.judge(&cluster).await;
}
