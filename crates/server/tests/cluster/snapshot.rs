//! Replicas that need more than the log still has.

use conclave_client::{Content, HistoryQuery};

use crate::harness::{Cluster, eventually};
use crate::load::Load;

/// Little enough that a few seconds of load are cut from the log.
const SHORT_LOG: u64 = 64 * 1024;

/// Writes until the log was cut, so that whoever missed it needs a snapshot.
async fn write_past_the_log(cluster: &Cluster, node: usize) {
    let client = cluster.client("filler").await;
    let text = "x".repeat(4_000);
    eventually("the log is cut", async || {
        let mut tickets = Vec::new();
        for _ in 0..100 {
            tickets.push(client.submit("general", Content::Text(text.clone())).await.unwrap());
        }
        for ticket in tickets {
            ticket.wait().await.unwrap();
        }
        cluster.metric(node, "conclave_raft_purged_index").await > 20.0
    })
    .await;
}

async fn same_end(cluster: &Cluster, index: usize) {
    let reader = cluster.client("reader").await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 1) };
    let end = reader.history(query).await.unwrap().last_seq;
    let direct = cluster.client_of(index).await;
    eventually("the replica has everything", async || {
        direct.history(HistoryQuery::newest("general", 1)).await.unwrap().last_seq >= end
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
    assert!(cluster.metric(2, "conclave_raft_snapshot_install_seconds_count").await >= 1.0);
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
    // This one was late from the beginning; its directory is empty and its id was never used.
    cluster.start_node(2).await;
    same_end(&cluster, 2).await;
    assert!(cluster.metric(2, "conclave_raft_snapshot_install_seconds_count").await >= 1.0);
    // And what it was given survives its own death.
    cluster.kill(2);
    cluster.start_node(2).await;
    same_end(&cluster, 2).await;
    load.progress(50).await;
    load.judge(&cluster).await;
}
