//! Nodes are stopped and started again.

use conclave_client::HistoryQuery;

use crate::harness::{Cluster, eventually};
use crate::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_send() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster, "deploys", 3, 3).await;
    for index in 0..3 {
        load.progress(100).await;
        cluster.stop(index).await;
        load.progress(50).await;
        cluster.start_node(index).await;
        cluster.settled().await;
    }
    // A writer panics on the first send that is refused or abandoned.
    load.judge(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_leads_nothing_and_is_not_ready() {
    let mut cluster = Cluster::start().await;
    cluster.stop(0).await;
    for shard in 0..=2 {
        assert_ne!(cluster.leader_of(shard).await, 0);
    }
    assert!(cluster.http(0, "/readyz").await.is_none());
    let live = cluster.http(1, "/livez?verbose").await.unwrap();
    assert!(live.contains("200 OK") && live.contains("[+] storage"), "{live}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_cluster_keeps_its_state() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    let first = client.send("general", "before").await.unwrap();
    for index in 0..3 {
        cluster.stop(index).await;
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.settled().await;
    // The session and its request numbers continue as well.
    let second = client.send("general", "after").await.unwrap();
    assert_eq!((second.seq, second.request_no), (first.seq + 1, 2));
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) };
    let page = client.history(query).await.unwrap();
    assert_eq!(page.last_seq, second.seq);
}

/// The others find a node that comes back at other addresses, without a change of their configuration: it registers in
/// the meta shard, and every node takes the addresses from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_come_back_at_other_addresses() {
    let mut cluster = Cluster::start().await;
    let before = cluster.client("ana").await.send("general", "before").await.unwrap();
    cluster.stop(0).await;
    cluster.relocate(0);
    cluster.start_node(0).await;
    cluster.settled().await;
    let moved = cluster.members()[0].client.clone();
    for index in 1..3 {
        let name = format!("node {index} shows the new address");
        eventually(&name, async || {
            let status = cluster.status(index).await;
            status
                .is_some_and(|status| status.nodes.iter().any(|node| node.address == moved && node.reachable))
        })
        .await;
    }
    // Without one of the others, the moved node is needed for a majority, also by a leader that must reach it.
    cluster.kill(1);
    let client = cluster.client("bob").await;
    let after = client.send("general", "after").await.unwrap();
    assert_eq!(after.seq, before.seq + 2, "behind bob's joining");
}

/// As where a name server still has the old address: the node that moved says itself where it is. To register takes a
/// majority, which needs it, and only the other node can lead, because only it has all messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_says_where_it_is_before_there_is_a_majority() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client("ana").await;
    client.send("general", "before").await.unwrap();
    cluster.stop(0).await;
    let missed = client.send("general", "missed").await.unwrap();
    cluster.stop(1).await;
    cluster.relocate(0);
    cluster.start_node(0).await;
    let query = HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) };
    let reader = cluster.client_of(0).await;
    eventually("the node that moved has what it missed", async || {
        reader.history(query.clone()).await.is_ok_and(|page| page.last_seq == missed.seq)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_with_one_node_and_one_shard() {
    let mut cluster = Cluster::prepare(1, 1);
    cluster.start_node(0).await;
    cluster.settled().await;
    let client = cluster.client("ana").await;
    let ack = client.send("general", "alone").await.unwrap();
    cluster.kill(0);
    cluster.start_node(0).await;
    let page = client
        .history(HistoryQuery { linearizable: true, ..HistoryQuery::newest("general", 10) })
        .await
        .unwrap();
    assert_eq!(page.last_seq, ack.seq);
}
